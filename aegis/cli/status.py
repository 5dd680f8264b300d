"""`aegis status`: what runs, what is missing and its effect, what to do next."""

from __future__ import annotations

from typing import Any

import click

from aegis.cli.client import request_one
from aegis.cli.output import cell, human_bytes, human_duration, output_option, print_table, write_rows

# Shown while nothing is configured: no gateway and no policy.
NEXT_COMMANDS = (
    ("aegis events -f -o compact", "watch processes and connections as they happen"),
    ("aegis flows", "see who talks to whom, with owner and bytes"),
    ("aegis policy apply FILE", "try a policy; it observes until it says enforce"),
)


@click.command(epilog="\b\nExamples:\n  aegis status\n  aegis status -o json")
@output_option("table", ("table", "json", "json-pretty", "yaml"))
@click.pass_obj
def status(socket_path: str, output: str) -> None:
    """Show the agent, its modules, enforcement, resources, conditions and losses."""
    item = request_one(socket_path, "status")
    if output != "table":
        write_rows([item], output)
        return
    for line in render(item):
        click.echo(line)
    modules = item["modules"]
    if modules:
        click.echo("")
        print_table(modules, ("name", "state", "reason", "since", "cpu_percent", "memory_bytes"))
    _print_conditions(item)
    if _nothing_configured(item):
        click.echo("\nNext:")
        width = max(len(command) for command, _ in NEXT_COMMANDS)
        for command, why in NEXT_COMMANDS:
            click.echo(f"  {command.ljust(width)}  {why}")


def render(item: dict[str, Any]) -> list[str]:
    """The lines above the module table."""
    agent, gateway = item["agent"], item["gateway"]
    enforcement, resources = item["enforcement"], item["resources"]
    interfaces = ", ".join(enforcement.get("interfaces") or []) or "none"
    why = f"  {cell(enforcement['reason'])}" if enforcement.get("reason") else ""
    return [
        (
            f"agent        {agent['id']}  version {agent['version']}  pid {agent['pid']}"
            f"  up {human_duration(agent['uptime_s'])}"
        ),
        "gateway      " + "  ".join(_gateway(gateway)),
        (
            f"enforcement  {enforcement['state']}  generation {cell(enforcement.get('generation'))}"
            f"  mode {cell(enforcement.get('mode'))}  interfaces {interfaces}{why}"
        ),
        (
            f"resources    rss {human_bytes(resources.get('rss_bytes'))}"
            f"  pss {human_bytes(resources.get('pss_bytes'))}"
            f"  kernel maps {human_bytes(resources.get('map_bytes'))}"
            f"  cpu {_percent(resources)}"
        ),
    ]


def _gateway(gateway: dict[str, Any]) -> list[str]:
    """State, address, what is spoken, and why it is not connected."""
    spoken = (
        f"{gateway['protocol']}{', insecure' if gateway.get('insecure_v1') else ''}"
        if gateway.get("protocol")
        else ""
    )
    return [
        cell(part) for part in (gateway["state"], gateway.get("url"), spoken, gateway.get("reason")) if part
    ]


def _percent(resources: dict[str, Any]) -> str:
    value = resources.get("cpu_percent")
    if value is None:
        return f"- ({resources.get('cpu_percent_reason') or 'not measured'})"
    return f"{value:.2f} %"


def _print_conditions(item: dict[str, Any]) -> None:
    losses = [
        f"  {stage}: {count} {reason}"
        for stage, reasons in (item.get("losses") or {}).items()
        for reason, count in reasons.items()
        if count
    ]
    if losses:
        click.echo("\nLosses:")
        for line in losses:
            click.echo(line)
    if item["conditions"]:
        click.echo("\nConditions:")
        for condition in item["conditions"]:
            click.echo(f"  {condition['code']}: {cell(condition['text'])}")
            if condition.get("hint"):
                click.echo(f"    hint: {cell(condition['hint'])}")


def _nothing_configured(item: dict[str, Any]) -> bool:
    return item["gateway"]["state"] == "unconfigured" and item["enforcement"]["state"] in (
        "none",
        "unavailable",
    )
