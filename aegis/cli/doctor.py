"""`aegis doctor`: every feature tried, with the effect of each absence."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from aegis.cli.client import request
from aegis.cli.exits import EXIT_CHECK_FAILED
from aegis.cli.output import output_option, write_rows
from aegis.errors import ConfigError, ConnectFailed

COLUMNS = ("feature", "state", "source", "reason", "effect", "hint")
_NOTHING = "the feature is there"
_REASONS = {"source": "the probe names none", "reason": _NOTHING, "effect": _NOTHING, "hint": _NOTHING}


@click.command(
    epilog="\b\nExamples:\n  aegis doctor\n  aegis doctor -o json\n  aegis doctor --config agent.toml"
)
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    default=None,
    help="Probe from here, as an agent would with this configuration file.",
)
@output_option("table", ("table", "json", "json-pretty", "yaml", "csv"))
@click.pass_context
def doctor(context: click.Context, config_file: Path | None, output: str) -> None:
    """Try each kernel feature and show what is missing and what that costs.

    Asks the running agent; without one, or with --config, probes from here (as root for a full answer), with the BTF,
    pins and cgroup root that are configured. Exits 6 when anything is missing.
    """
    if config_file is not None:
        rows = local_rows(config_file)
    else:
        try:
            rows = list(request(context.obj, "doctor", timeout_s=30))
        except ConnectFailed as error:
            click.echo(f"aegis: {error}; probing from this process", err=True)
            rows = local_rows()
    write_rows(rows, output, columns=COLUMNS)
    if any(row["state"] == "missing" for row in rows):
        context.exit(EXIT_CHECK_FAILED)


def local_rows(config_file: Path | None = None) -> list[dict[str, Any]]:
    """The probes run in this process, in the shape the agent answers. Raises ConfigError."""
    from aegis.agent.answers import stamped, with_reasons
    from aegis.agent.interface_feature import of_host
    from aegis.host.reader import Host
    from aegis.kernel.features import probe_all
    from aegis.runtime.clock import SystemClock
    from aegis.runtime.config import load

    try:
        configured = load(config_file)
    except ConfigError as error:
        if config_file is not None:
            raise
        click.echo(f"aegis: {error.code}: {error}; probing with the defaults", err=True)
        configured = load(Path(os.devnull), environ={})
    kernel = configured.table("kernel")
    btf, pins, root = (kernel[name] for name in ("btf", "pin_dir", "cgroup_root"))
    clock = SystemClock()
    host = Host(wall_ns=clock.wall_ns, monotonic_ns=clock.monotonic_ns)
    return [
        stamped(
            "aegis.doctor",
            with_reasons(
                {
                    "feature": feature.name,
                    "state": feature.state,
                    "source": feature.source or None,
                    "reason": feature.reason or None,
                    "effect": feature.effect or None,
                    "hint": feature.hint or None,
                },
                _REASONS,
            ),
        )
        for feature in (
            *probe_all(
                Path(btf) if isinstance(btf, str) else None,
                pin_dir=Path(str(pins)),
                cgroup_root=Path(root) if isinstance(root, str) else None,
            ),
            of_host(host),
        )
    ]
