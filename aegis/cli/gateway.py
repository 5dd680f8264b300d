"""`aegis gateway`: a gateway of one's own, its agents, and orders to them."""

from __future__ import annotations

import importlib
import json
from typing import Any

import click

from aegis.cli.output import cell, output_option, write_rows
from aegis.cli.target import gateway_options, needed_gateway

COLUMNS = ("agent_uid", "hostname", "status", "connected", "agent_version", "last_seen", "labels")
PAGE = 1000
# Commands of files of their own: what they import is needed by them only.
ELSEWHERE = {"run": ("aegis.cli.gateway_run", "run", "Run a gateway and its Actions API.")}


class GatewayGroup(click.Group):
    """A group that imports `run` when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*ELSEWHERE, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in ELSEWHERE:
            return super().get_command(ctx, cmd_name)
        place, name, _ = ELSEWHERE[cmd_name]
        command = getattr(importlib.import_module(place), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, entry[2]) for name, entry in ELSEWHERE.items()]
        rows += [(name, command.get_short_help_str(limit=100)) for name, command in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@click.group(
    cls=GatewayGroup,
    epilog="\b\nExamples:\n  aegis gateway run --data-dir /var/lib/aegis-gateway\n"
    "  aegis gateway agents --gateway http://127.0.0.1:8083 --token-file operator.token\n"
    '  aegis gateway send UID backend.modules \'{"type": "list_modules"}\' --wait 5s',
)
@gateway_options
def gateway() -> None:
    """Run a gateway; list its agents and send them orders through its Actions API."""


@gateway.command()
@gateway_options
@click.option("--label", default=None, help="Only agents with this label.")
@click.option("--hostname", default=None, help="Only agents of this host name.")
@click.option("--ip", default=None, help="Only agents connected from this address.")
@output_option("table", ("table", "compact", "json", "json-pretty", "yaml", "csv"))
def agents(label: str | None, hostname: str | None, ip: str | None, output: str) -> None:
    """List the agents a gateway knows, newest first."""
    remote = needed_gateway()
    rows: list[dict[str, Any]] = []
    try:
        while True:
            asked = {"label": label, "hostname": hostname, "ip": ip, "limit": PAGE, "offset": len(rows)}
            page = remote.get("/agents", asked)
            rows += page["agents"]
            if not page["agents"] or len(rows) >= page["total"]:
                break
    finally:
        remote.close()
    write_rows(rows, output, columns=COLUMNS if output in ("table", "csv") else None, compact=_line)


def _line(row: dict[str, Any]) -> str:
    parts = (row.get(name) for name in ("agent_uid", "hostname", "status", "last_seen"))
    return " ".join(cell(part) for part in parts)


@gateway.command()
@gateway_options
@click.argument("uid")
@click.argument("channel")
@click.argument("message")
@click.option(
    "--wait", default="5s", show_default=True, help="How long to wait for the answer; 0s: not at all."
)
@click.option(
    "--ttl", type=click.IntRange(1), default=None, help="Seconds it is kept for an agent that is away."
)
@click.option("--type", "message_type", default="event", show_default=True, help="Type of the envelope.")
@output_option("compact", ("compact", "json", "json-pretty", "yaml"))
def send(
    uid: str, channel: str, message: str, wait: str, ttl: int | None, message_type: str, output: str
) -> None:
    """Send one order: UID, CHANNEL (backend.modules, backend.policies) and the MESSAGE, a JSON object.

    Exit 0 when it was answered with ok, or sent or queued without a wait for the answer.
    """
    from urllib.parse import quote

    try:
        content = json.loads(message)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"MESSAGE is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise click.UsageError("MESSAGE is not a JSON object")
    remote = needed_gateway()
    seconds = _seconds(wait)
    body: dict[str, object] = {"channel": channel, "message": content, "message_type": message_type}
    if ttl is not None:
        body["ttl"] = ttl
    tail = f"?wait={seconds:g}s" if seconds else ""
    try:
        sent = remote.send("POST", f"/agents/{quote(uid, safe='')}/send{tail}", body, wait_s=seconds)
    finally:
        remote.close()
    write_rows([sent], output, compact=_outcome)
    answer = sent.get("answer")
    refused = sent["status"] == "answered" and not (isinstance(answer, dict) and answer.get("ok") is True)
    if refused or sent["status"] == "failed" or (seconds and sent["status"] != "answered"):
        raise click.exceptions.Exit(_exit_of(sent))


def _exit_of(sent: dict[str, Any]) -> int:
    from aegis.cli.exits import EXIT_FAILED, EXIT_TIMEOUT, EXIT_UNREACHABLE, exit_code_of_code

    if sent["status"] == "answered":
        answer = sent.get("answer")
        return exit_code_of_code(str(answer.get("code")) if isinstance(answer, dict) else "")
    return {"timeout": EXIT_TIMEOUT, "queued": EXIT_UNREACHABLE}.get(sent["status"], EXIT_FAILED)


def _outcome(sent: dict[str, Any]) -> str:
    answer = sent.get("answer")
    said = ""
    if isinstance(answer, dict):
        said = " ".join(cell(answer[name]) for name in ("code", "text") if answer.get(name))
    return " ".join(
        part for part in (sent["message_id"], sent["status"], said, sent.get("error") or "") if part
    )


def _seconds(text: str) -> float:
    number = text.removesuffix("s")
    if not number.replace(".", "", 1).isdecimal() or not 0 <= float(number) <= 60:
        raise click.UsageError(f"--wait {text!r} is not from 0s to 60s")
    return float(number)
