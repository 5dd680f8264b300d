"""The daemon's flags. Each that names an option is a source of configuration like any other."""

from __future__ import annotations

import argparse
from pathlib import Path

import aegis
from aegis.runtime.config import DEFAULT_FILE
from aegis.runtime.settings import Value

# Flag to option path; the flag's own text is the origin `aegis config show` prints.
FLAGS: dict[str, str] = {
    "--agent-id": "agent.id",
    "--gateway-url": "gateway.url",
    "--protocol": "gateway.protocol",
    "--ca": "gateway.ca",
    "--state-dir": "agent.state_dir",
    "--run-dir": "agent.run_dir",
    "--pin-dir": "kernel.pin_dir",
    "--interface": "kernel.interfaces",
    "--modules": "agent.modules",
    "--log-level": "log.level",
    "--log-format": "log.format",
    "--health-listen": "health.listen",
    "--cgroup-root": "kernel.cgroup_root",
    "--btf": "kernel.btf",
}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="aegis-agent",
        description="Sees processes, sockets and flows in the kernel, counts them, and cuts what policy denies.",
        epilog="exit codes: 0 clean stop, 1 crash, 2 usage, 77 state or run directory unusable, 78 configuration invalid",
        allow_abbrev=False,
    )
    made.add_argument(
        "--config", type=Path, metavar="FILE", help=f"configuration file (default {DEFAULT_FILE})"
    )
    made.add_argument(
        "--gateway-url",
        metavar="URL",
        help="gateway to connect to, ws://HOST:PORT or wss://HOST:PORT (default: none, the agent stands alone)",
    )
    made.add_argument(
        "--protocol",
        metavar="NAME",
        help="auto, v1 or v2 (default auto: v1 only where gateway.min_protocol is 1; v2 is not built yet)",
    )
    made.add_argument(
        "--ca", metavar="FILE", help="CA certificates, PEM, for a wss:// gateway (default: the host's)"
    )
    made.add_argument("--agent-id", metavar="ID", help="name of this agent (default: the host name)")
    made.add_argument("--state-dir", metavar="DIR", help="what outlives the process (default /var/lib/aegis)")
    made.add_argument("--run-dir", metavar="DIR", help="control socket agent.sock (default /run/aegis)")
    made.add_argument("--pin-dir", metavar="DIR", help="pins, inside a bpffs (default /sys/fs/bpf/aegis)")
    made.add_argument(
        "--interface",
        metavar="NAME",
        action="append",
        help="interface to watch, repeatable; none for no interface (default: those that hold a route, "
        "not bridge ports and container veths)",
    )
    made.add_argument(
        "--modules", metavar="A,B,C", help="start only these modules (default: all that are enabled)"
    )
    made.add_argument("--log-level", metavar="LEVEL", help="debug, info, warning or error (default info)")
    made.add_argument(
        "--log-format", metavar="FORMAT", help="json or console (default: console on a terminal)"
    )
    made.add_argument(
        "--health-listen",
        metavar="ADDR:PORT",
        help="answer GET /healthz and /readyz there (default: on the control socket only)",
    )
    made.add_argument("--cgroup-root", metavar="DIR", help="cgroup2 mount (default: the one in mountinfo)")
    made.add_argument("--btf", metavar="FILE", help="BTF of the kernel (default /sys/kernel/btf/vmlinux)")
    made.add_argument(
        "--check",
        action="store_true",
        help="check the configuration, say what a start would find of interfaces and pins, and exit: 0 valid, 78 invalid",
    )
    made.add_argument("--version", action="version", version=f"aegis-agent {aegis.__version__}")
    return made


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Leaves by SystemExit: 2 for wrong usage, 0 after --help and --version."""
    return parser().parse_args(arguments)


def to_flags(parsed: argparse.Namespace) -> dict[str, tuple[str, Value]]:
    """The flags that were given, by option path, as `runtime.config.load` takes them."""
    found: dict[str, tuple[str, Value]] = {}
    for flag, path in FLAGS.items():
        value = getattr(parsed, flag.removeprefix("--").replace("-", "_"))
        if value is None:
            continue
        if flag == "--modules":
            value = [name.strip() for name in value.split(",") if name.strip()]
        found[path] = (flag, tuple(value) if isinstance(value, list) else value)
    return found
