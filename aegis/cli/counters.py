"""`aegis counters`: every conservation identity, term by term."""

from __future__ import annotations

from typing import Any

import click

from aegis.cli.client import request
from aegis.cli.exits import EXIT_CHECK_FAILED
from aegis.cli.output import cell, output_option, write_rows

_ENVELOPE = ("schema", "version", "time", "time_ns", "stage", "identity", "balanced")


@click.command(epilog="\b\nExamples:\n  aegis counters\n  aegis counters -o json")
@output_option("table", ("table", "json", "json-pretty", "yaml"))
@click.pass_context
def counters(context: click.Context, output: str) -> None:
    """Show, stage by stage, what came in, what went on and what was lost; exits 6 when a sum does not hold."""
    rows = list(request(context.obj, "counters", timeout_s=30))
    if output == "table":
        for row in rows:
            click.echo(_line(row))
    else:
        write_rows(rows, output)
    if not all(row["balanced"] for row in rows):
        context.exit(EXIT_CHECK_FAILED)


def _line(row: dict[str, Any]) -> str:
    terms = "  ".join(f"{name}={cell(value)}" for name, value in row.items() if name not in _ENVELOPE)
    mark = "balanced" if row["balanced"] else "NOT BALANCED"
    return f"{row['stage']:<24} {mark:<13} {terms}"
