"""`aegis doctor`: every feature tried, with the effect of each absence."""

from __future__ import annotations

from typing import Any

import click

from aegis.cli.client import request
from aegis.cli.exits import EXIT_CHECK_FAILED
from aegis.cli.output import output_option, write_rows
from aegis.errors import ConnectFailed

COLUMNS = ("feature", "state", "source", "reason", "effect", "hint")
_NOTHING = "the feature is there"
_REASONS = {"source": "the probe names none", "reason": _NOTHING, "effect": _NOTHING, "hint": _NOTHING}


@click.command(epilog="\b\nExamples:\n  aegis doctor\n  aegis doctor -o json")
@output_option("table", ("table", "json", "json-pretty", "yaml", "csv"))
@click.pass_context
def doctor(context: click.Context, output: str) -> None:
    """Try each kernel feature and show what is missing and what that costs.

    Asks the running agent; without one, probes from here (as root for a full answer). Exits 6 when
    anything is missing.
    """
    try:
        rows = list(request(context.obj, "doctor", timeout_s=30))
    except ConnectFailed as error:
        click.echo(f"aegis: {error}; probing from this process", err=True)
        rows = local_rows()
    write_rows(rows, output, columns=COLUMNS)
    if any(row["state"] == "missing" for row in rows):
        context.exit(EXIT_CHECK_FAILED)


def local_rows() -> list[dict[str, Any]]:
    """The probes run in this process, in the shape the agent answers."""
    from aegis.agent.answers import stamped, with_reasons
    from aegis.agent.interface_feature import of_host
    from aegis.host.reader import Host
    from aegis.kernel.features import probe_all
    from aegis.runtime.clock import SystemClock

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
        for feature in (*probe_all(), of_host(host))
    ]
