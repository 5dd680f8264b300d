"""Printing rows: table, compact, json, json-pretty, yaml, csv. Data goes to stdout, the rest to stderr."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click
from click.core import ParameterSource

from aegis.cli.selection import Row, displayed, value_at

FORMATS = ("table", "compact", "json", "json-pretty", "yaml", "csv")


def output_option(default: str, formats: Sequence[str] = FORMATS) -> Callable[[Any], Any]:
    """The one meaning of -o for every command."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(tuple(formats)),
        default=default,
        show_default=True,
        callback=_or_of_the_tool,
        help="Format; json is one object a line.",
    )


def _or_of_the_tool(context: click.Context, parameter: click.Parameter, value: str) -> Any:
    """The format given to `aegis` itself, before the command, where the command has none of its own."""
    root = context.find_root()
    given = root.params.get("output") if root is not context else None
    assert parameter.name is not None
    if given is None or context.get_parameter_source(parameter.name) is not ParameterSource.DEFAULT:
        return value
    return parameter.type.convert(given, parameter, context)


def cell(value: Any) -> str:
    """A value as a table or CSV cell; an absent one is a dash."""
    if value is None:
        return "-"
    if value is True or value is False:
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    if isinstance(value, list | dict):
        return json.dumps(value, separators=(",", ":"))
    return _printable(str(value))


def _printable(text: str) -> str:
    """Control characters escaped: what a process is called must not steer the terminal."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode()
        for char in text
    )


def print_table(rows: Sequence[Row], columns: Sequence[str], *, wide: bool = False) -> None:
    """Columns without boxes, header in capitals; cut with an ellipsis on a terminal, never on a pipe."""
    head = [column.upper().replace("_", " ") for column in columns]
    body = [[cell(value_at(row, column)) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(columns))]
    limit = shutil.get_terminal_size().columns if sys.stdout.isatty() and not wide else None
    for line in [head, *body]:
        text = "  ".join(part.ljust(width) for part, width in zip(line, widths, strict=True)).rstrip()
        click.echo(text if limit is None or len(text) <= limit else text[: max(limit - 1, 1)] + "…")


def write_rows(
    rows: Iterable[Row],
    output: str,
    *,
    columns: Sequence[str] | None = None,
    compact: Callable[[Row], str] | None = None,
) -> int:
    """Print rows in the chosen format and return how many there were.

    Streams stay streams: only `table` and `csv` without named columns look at a row first.
    """
    if output == "table":
        listed = list(rows)
        if listed:
            print_table(listed, columns or displayed(listed[0]))
        return len(listed)
    count = 0
    header: Sequence[str] | None = columns
    for row in rows:
        count += 1
        if output == "json":
            click.echo(json.dumps(row, separators=(",", ":")))
        elif output == "json-pretty":
            click.echo(json.dumps(row, indent=2))
        elif output == "yaml":
            import yaml

            click.echo("---\n" + yaml.safe_dump(row, sort_keys=False, allow_unicode=True), nl=False)
        elif output == "csv":
            header = header or displayed(row)
            if count == 1:
                click.echo(_csv_line(header))
            click.echo(
                _csv_line(
                    ["" if value_at(row, name) is None else cell(value_at(row, name)) for name in header]
                )
            )
        else:
            click.echo(
                compact(row) if compact else "  ".join(f"{key}={cell(value)}" for key, value in row.items())
            )
    return count


def _csv_line(values: Sequence[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow(values)
    return buffer.getvalue()


def human_bytes(count: float | None) -> str:
    """Bytes for a person, binary units."""
    if count is None:
        return "-"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def human_duration(seconds: float | None) -> str:
    """A span for a person: the two largest units."""
    if seconds is None:
        return "-"
    whole = int(seconds)
    days, rest = divmod(whole, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, secs = divmod(rest, 60)
    if days:
        return f"{days}d {hours}h"
    if hours:
        return f"{hours}h {minutes}m"
    if minutes:
        return f"{minutes}m {secs}s"
    return f"{secs}s"
