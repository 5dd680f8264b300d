"""The option table of the runtime itself. A module's options are in its own config.py."""

from __future__ import annotations

from aegis.runtime import gateway_url, listen_address, outbox_options
from aegis.runtime.settings import Option


def no_path(text: str) -> str | None:
    """Why a text can be no path on any host; None where it can. Whether something is there is seen when it is used."""
    if not text:
        return "must name a path, not ''"
    return "must be a path, which cannot hold NUL" if "\0" in text else None


OPTIONS: tuple[Option, ...] = (
    Option(
        name="agent.id",
        kind="str",
        default=None,
        help="Name of this agent. By default the host name, other characters than A-Z a-z 0-9 _ - replaced by -.",
    ),
    Option(
        name="agent.state_dir",
        kind="str",
        wrong=no_path,
        default="/var/lib/aegis",
        help="Directory of what outlives the process; made with mode 0700 when missing.",
    ),
    Option(
        name="agent.run_dir",
        kind="str",
        wrong=no_path,
        default="/run/aegis",
        help="Directory of the control socket agent.sock; made with mode 0755 when missing.",
    ),
    Option(
        name="agent.loop",
        kind="str",
        default="auto",
        choices=("auto", "uvloop", "asyncio"),
        help="Event loop: auto takes uvloop where it can be imported.",
    ),
    Option(
        name="agent.modules",
        kind="list",
        default=None,
        help="Start only these modules. By default every module whose `enabled` is true.",
    ),
    Option(
        name="agent.history_events",
        kind="int",
        default=10_000,
        minimum=0,
        maximum=1_000_000,
        help="Events kept in memory for --last and --since; fewer when they have more than 1 KiB on average.",
    ),
    Option(
        name="kernel.interfaces",
        kind="list",
        default=None,
        help="Interfaces whose packets are counted and judged; `none` alone for no interface. By default those that "
        "hold a route, without bridge ports and container veths.",
    ),
    Option(
        name="kernel.hook",
        kind="str",
        default="auto",
        choices=("auto", "tcx", "clsact"),
        help="Where packet programs sit: tcx links, clsact filters, or (auto) tcx where the kernel has it.",
    ),
    Option(
        name="kernel.ring_bytes",
        kind="int",
        default=1 << 20,
        minimum=1 << 16,
        maximum=1 << 30,
        help="Size of the ring of records, in bytes; rounded up to a power of two.",
    ),
    Option(
        name="kernel.flow_entries",
        kind="int",
        default=None,
        minimum=1024,
        maximum=1 << 22,
        help="Entries of the flow table, allocated at start. By default from host memory: 16384 below 1 GiB, else 65536.",
    ),
    Option(
        name="kernel.harvest_interval_s",
        kind="float",
        default=1.0,
        minimum=0.1,
        maximum=60.0,
        reload="live",
        help="Seconds between two readings of the flow table.",
    ),
    Option(
        name="kernel.cgroup_root",
        kind="str",
        wrong=no_path,
        default=None,
        help="Root of the cgroup2 hierarchy. By default the cgroup2 mount in /proc/self/mountinfo.",
    ),
    Option(
        name="kernel.pin_dir",
        kind="str",
        wrong=no_path,
        default="/sys/fs/bpf/aegis",
        help="Directory inside a bpffs where programs and tables stay when the agent ends.",
    ),
    Option(
        name="kernel.btf",
        kind="str",
        wrong=no_path,
        default=None,
        help="BTF of the running kernel. By default /sys/kernel/btf/vmlinux.",
    ),
    Option(
        name="gateway.url",
        kind="str",
        default=None,
        wrong=gateway_url.problem,
        help="Gateway to connect to, ws://HOST:PORT or wss://HOST:PORT. By default none: the agent stands alone.",
    ),
    Option(
        name="gateway.protocol",
        kind="str",
        default="auto",
        choices=("auto", "v1", "v2"),
        help="Protocol spoken to the gateway: auto takes v1 only where gateway.min_protocol is 1. v2 is not built yet.",
    ),
    Option(
        name="gateway.min_protocol",
        kind="int",
        default=None,
        minimum=1,
        maximum=2,
        help="Oldest protocol that may be spoken. v1 hides nothing and proves little of the gateway, so the default is 2, "
        "or 1 where gateway.protocol asks for v1.",
    ),
    Option(
        name="gateway.ca",
        kind="str",
        wrong=no_path,
        default=None,
        help="File of CA certificates, PEM, that a wss:// gateway is judged by. By default the host's own.",
    ),
    Option(
        name="gateway.reregister",
        kind="bool",
        default=None,
        help="Register anew at a gateway that has another key than before, for one that makes a key and forgets its "
        "agents when it restarts. By default yes; a gateway of this project says itself whether it knows the agent.",
    ),
    Option(
        name="policy.unsigned_orders",
        kind="str",
        default="refuse",
        choices=("refuse", "accept"),
        reload="live",
        help="Orders of a gateway that nobody signed, as all of protocol v1: refuse, or accept them. Readings are answered.",
    ),
    Option(
        name="policy.subject_default",
        kind="str",
        default="allow",
        choices=("allow", "deny"),
        help="Of whom no policy can tell who it is: judge by what holds for everybody (allow), or deny.",
    ),
    Option(
        name="policy.resolvers",
        kind="list",
        default=(),
        help="Addresses of DNS servers whose answers tell what toFQDNs stands for, beside those of /etc/resolv.conf.",
    ),
    Option(
        name="policy.management_allow",
        kind="list",
        default=(),
        help="What no policy may cut beside the gateway, DNS, DHCP, neighbours and path MTU: DIRECTION:PROTOCOL:NETWORK:PORT, as in ingress:tcp:192.0.2.0/24:22 or egress:udp:[2001:db8::1/128]:123.",
    ),
    *outbox_options.OPTIONS,
    Option(
        name="enforcement.on_stop",
        kind="str",
        default="keep",
        choices=("keep", "detach"),
        reload="live",
        help="Where a policy is committed, a clean stop leaves it enforced (keep) or takes it out (detach).",
    ),
    Option(
        name="health.listen",
        kind="str",
        default=None,
        wrong=listen_address.problem,
        help="ADDR:PORT for GET /healthz and /readyz over HTTP. By default no port: the control socket answers them always.",
    ),
    Option(
        name="log.level",
        kind="str",
        default="info",
        choices=("debug", "info", "warning", "error"),
        reload="live",
        help="Least severe lines that are written.",
    ),
    Option(
        name="log.format",
        kind="str",
        default="auto",
        choices=("auto", "json", "console"),
        help="auto: console when standard error is a terminal, else one JSON object a line.",
    ),
)

ENABLED = Option(name="enabled", kind="bool", default=True, reload="live", help="Whether the module runs.")
