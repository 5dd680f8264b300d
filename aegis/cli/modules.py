"""`aegis modules`: the agent's activities and their switches."""

from __future__ import annotations

import json

import click

from aegis.cli.client import request
from aegis.cli.output import cell, output_option, write_rows
from aegis.cli.selection import Row
from aegis.cli.target import gateway_options, is_gateway_named, needed_gateway

COLUMNS = ("name", "state", "reason", "since", "cpu_percent", "memory_bytes")
_AGENT = "aegis.modules.agent"


@click.group(
    epilog="\b\nExamples:\n  aegis modules list\n  aegis modules stop telemetry\n"
    "  aegis --gateway http://127.0.0.1:8083 --token-file operator.token modules --agent UID list"
)
@gateway_options
@click.option(
    "--agent", default=None, metavar="UID", help="Ask this agent, through the gateway of --gateway."
)
@click.pass_context
def modules(context: click.Context, agent: str | None) -> None:
    """List, start, stop, enable, disable and configure modules; each answer comes after the change."""
    if agent is None and is_gateway_named(context):
        raise click.UsageError("a gateway has many agents: name one with --agent UID (aegis gateway agents)")
    context.meta[_AGENT] = agent


def _ask(socket_path: str, verb: str, args: dict[str, object]) -> list[Row]:
    """The items of `modules.VERB`: of this host's agent, or of the one that --agent names."""
    agent = click.get_current_context().meta.get(_AGENT)
    if agent is None:
        return list(request(socket_path, f"modules.{verb}", args, timeout_s=30))
    remote = needed_gateway()
    from aegis.cli.orders import module_rows

    return module_rows(remote, agent, verb, args)


@modules.command("list")
@output_option("table", ("table", "json", "json-pretty", "yaml", "csv"))
@click.pass_obj
def list_modules(socket_path: str, output: str) -> None:
    """List modules with state and reason."""
    write_rows(_ask(socket_path, "list", {}), output, columns=COLUMNS)


def _switch(verb: str, text: str) -> click.Command:
    @click.command(verb, help=text)
    @click.argument("name")
    @output_option("compact", ("compact", "json", "json-pretty", "yaml"))
    @click.pass_obj
    def switch(socket_path: str, name: str, output: str) -> None:
        write_rows(
            _ask(socket_path, verb, {"name": name}),
            output,
            compact=lambda row: f"{row['name']} {row['state']} {row.get('reason') or ''}".rstrip(),
        )

    return switch


for _verb, _text in (
    ("start", "Start a module and wait until it runs; a disabled one is refused."),
    ("stop", "Stop a module and wait until it has."),
    ("enable", "Start a module and let it run again after a restart."),
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
    write_rows(
        _ask(socket_path, "config", arguments), output, columns=("option", "value", "origin"), compact=cell
    )
