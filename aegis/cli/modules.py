"""`aegis modules`: the agent's activities and their switches."""

from __future__ import annotations

import json

import click

from aegis.cli.client import request, request_one
from aegis.cli.output import cell, output_option, write_rows

COLUMNS = ("name", "state", "reason", "since", "cpu_percent", "memory_bytes")


@click.group(epilog="\b\nExamples:\n  aegis modules list\n  aegis modules stop telemetry")
def modules() -> None:
    """List, start, stop, enable, disable and configure modules; each answer comes after the change."""


@modules.command("list")
@output_option("table", ("table", "json", "json-pretty", "yaml", "csv"))
@click.pass_obj
def list_modules(socket_path: str, output: str) -> None:
    """List modules with state and reason."""
    write_rows(request(socket_path, "modules.list", timeout_s=30), output, columns=COLUMNS)


def _switch(verb: str, text: str) -> click.Command:
    @click.command(verb, help=text)
    @click.argument("name")
    @output_option("compact", ("compact", "json", "json-pretty", "yaml"))
    @click.pass_obj
    def switch(socket_path: str, name: str, output: str) -> None:
        item = request_one(socket_path, f"modules.{verb}", {"name": name})
        write_rows(
            [item],
            output,
            compact=lambda row: f"{row['name']} {row['state']} {row.get('reason') or ''}".rstrip(),
        )

    return switch


for _verb, _text in (
    ("start", "Start a module and wait until it runs."),
    ("stop", "Stop a module and wait until it has."),
    ("enable", "Let a disabled module run again, also after a restart."),
    ("disable", "Stop a module and keep it from running, also after a restart."),
):
    modules.add_command(_switch(_verb, _text))


@modules.command("config")
@click.argument("name")
@click.argument("settings", nargs=-1, metavar="[OPTION=VALUE]...")
@output_option("table", ("table", "json", "json-pretty", "yaml"))
@click.pass_obj
def configure(socket_path: str, name: str, settings: tuple[str, ...], output: str) -> None:
    """Show a module's options, or set some of them while it runs."""
    changes: dict[str, object] = {}
    for setting in settings:
        option, equals, text = setting.partition("=")
        if not equals:
            raise click.UsageError(f"{setting!r} is not OPTION=VALUE")
        try:
            changes[option] = json.loads(text)
        except ValueError:
            changes[option] = text
    arguments: dict[str, object] = {"name": name}
    if changes:
        arguments["set"] = changes
    rows = request(socket_path, "modules.config", arguments, timeout_s=30)
    write_rows(rows, output, columns=("option", "value", "origin"), compact=cell)
