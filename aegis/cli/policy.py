"""`aegis policy`: check, diff, apply, confirm, rollback, history, list, explain, export, remove."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click

from aegis.cli.client import AgentError, request, request_one
from aegis.cli.exits import EXIT_CHECK_FAILED
from aegis.cli.output import cell, output_option, write_rows
from aegis.errors import PolicyInvalid

_FORMATS = ("table", "json", "json-pretty", "yaml")


class Duration(click.ParamType):  # type: ignore[type-arg]
    """A length of time such as `90s`, `5m` or `1h`, as milliseconds."""

    name = "duration"
    _UNITS = MappingProxyType({"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000})

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = re.fullmatch(r"([0-9]{1,6})(ms|s|m|h)", str(value))
        if found is None:
            self.fail(f"{value!r} is no length of time: write 60s, 5m or 1h", param, ctx)
        length = int(found[1]) * self._UNITS[found[2]]
        if not 1_000 <= length <= 86_400_000:
            self.fail("from 1s to 24h", param, ctx)
        return length


HANDED_OVER = 1_000_000  # bytes of a document in one request, which has at most 1 MiB
RULE_COLUMNS = (
    "policy",
    "mode",
    "priority",
    "origin",
    "rule",
    "direction",
    "action",
    "packets",
    "bytes",
    "state",
)


def _rule_row(applied: dict[str, Any], rule: dict[str, Any]) -> dict[str, Any]:
    return {**applied, **rule, "action": "deny" if rule["deny"] else "allow"}


@click.group(
    epilog="\b\nExamples:\n  aegis policy check no-telnet.yaml\n  aegis policy apply no-telnet.yaml\n"
    "  aegis policy explain --protocol TCP --dst 10.2.3.4 --dst-port 23"
)
def policy() -> None:
    """Check, compare, apply, confirm, undo, list, explain, export and remove policies."""


def _read(path: Path) -> bytes:
    """Of a file that is too long only so much that this can be said of it."""
    from aegis.model.document_parser import MAX_BYTES

    try:
        if str(path) == "-":
            return sys.stdin.buffer.read(MAX_BYTES + 1)
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise click.UsageError(f"{path}: {error.strerror or error}") from error


def _text(path: Path) -> str:
    """For a request, which is text. What is none is refused by the words that `check` has for it."""
    import msgspec

    from aegis.model.document_parser import text_of

    try:
        data = _read(path)
        text = text_of(data)
        if len(data) > HANDED_OVER or len(msgspec.json.encode(text)) > HANDED_OVER:
            reason = f"has more than {HANDED_OVER} bytes in a request, which is what an agent takes"
            raise PolicyInvalid("document", reason)
        return text
    except PolicyInvalid as error:
        error.args = (f"{path}: {error}",)
        raise


@policy.command()
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@output_option("compact", ("compact", "json", "json-pretty", "yaml"))
@click.pass_context
def check(context: click.Context, file: Path, output: str) -> None:
    """Check a document here, without an agent: read it, compile it, say what is wrong and where. Exit 6 when so."""
    from aegis.kernel.policy_image import compile_policies
    from aegis.model.policy import PolicySet
    from aegis.model.policy_document import examine
    from aegis.runtime.clock import stamp

    document, problems = examine(_read(file))
    for problem in problems:
        click.echo(f"aegis: {problem.code}: {file}: {problem}", err=True)
    if document is None:
        context.exit(EXIT_CHECK_FAILED)
    image = compile_policies(PolicySet(policies=(document,)))
    row: dict[str, Any] = {
        "schema": "aegis.policy_check",
        "version": 1,
        **stamp(),
        "policy": document.name,
        "mode": document.mode,
        "rules": len(image.rules),
        "image_bytes": len(image.data),
    }
    write_rows(
        [row],
        output,
        compact=lambda one: (
            f"{one['policy']}: ok, {one['rules']} rules, mode {one['mode']}, image {one['image_bytes']} bytes"
        ),
    )


@policy.command()
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "--confirm-within",
    type=Duration(),
    default=None,
    metavar="DURATION",
    help="On trial for so long (60s, 5m): without `aegis policy confirm` the kernel goes back by itself.",
)
@output_option("compact", ("compact", "json", "json-pretty", "yaml"))
@click.pass_obj
def apply(socket_path: str, file: Path, confirm_within: int | None, output: str) -> None:
    """Apply a document: it replaces the policy of the same name, and the answer comes after the kernel's switch.

    A policy that is kept and judges no packet, or not those of every interface, is exit 1 with the reason.
    """
    asked: dict[str, Any] = {"document": _text(file), "path": str(file)}
    if confirm_within is not None:
        asked["confirm_within_ms"] = confirm_within
    item = _about(file, socket_path, "policy.apply", asked)
    if confirm_within is not None and output == "compact":
        click.echo(
            f"aegis: on trial until {item['confirm_deadline']}: aegis policy confirm, from a new connection",
            err=True,
        )
    write_rows(
        [item],
        output,
        compact=lambda one: f"{one['policy']}: applied, mode {one['mode']}, generation {one['generation']}",
    )


def _about(file: Path, socket_path: str, verb: str, asked: dict[str, Any]) -> dict[str, Any]:
    """The answer about a file; what is wrong in it is told with its name."""
    try:
        return request_one(socket_path, verb, asked)
    except AgentError as error:
        if error.answer.get("path"):
            error.args = (f"{file}: {error}",)
        raise


@policy.command()
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@output_option("table", _FORMATS)
@click.pass_obj
def diff(socket_path: str, file: Path, output: str) -> None:
    """Say what a document would change of the policy of its name, value by value."""
    item = _about(file, socket_path, "policy.diff", {"document": _text(file), "path": str(file)})
    if output != "table":
        write_rows([item], output)
        return
    click.echo(f"{cell(item['policy'])}: {item['state']}")
    for one in item["changes"]:
        for sign, value in (("-", one["before"]), ("+", one["after"])):
            if value is not None:
                click.echo(f"{sign} {cell(one['path'])}: {cell(value)}")


def _ended(item: dict[str, Any], output: str) -> None:
    write_rows([item], output, compact=lambda one: f"{one['state']}, generation {one['generation']}")


@policy.command()
@output_option("compact", ("compact", "json", "json-pretty", "yaml"))
@click.pass_obj
def confirm(socket_path: str, output: str) -> None:
    """Keep what is on trial. Best from a connection that was opened after the apply: that proves the way is open."""
    _ended(request_one(socket_path, "policy.confirm", {}), output)


@policy.command()
@output_option("compact", ("compact", "json", "json-pretty", "yaml"))
@click.pass_obj
def rollback(socket_path: str, output: str) -> None:
    """Undo what is on trial; without a trial, bring back the set of policies that was in force before this one."""
    _ended(request_one(socket_path, "policy.rollback", {}), output)


@policy.command()
@output_option("table", _FORMATS)
@click.pass_obj
def history(socket_path: str, output: str) -> None:
    """List the sets of policies that were in force, oldest first, the one that is, and the one on trial."""
    rows = request(socket_path, "policy.history", timeout_s=30)
    if output != "table":
        write_rows(rows, output)
        return
    for one in rows:
        what = ", ".join(f"{each['policy']} v{each['version']}" for each in one["policies"]) or "no policy"
        click.echo(f"{one['generation']:>6}  {one['state']:<8}  {cell(one['since'])}  {cell(what)}")


@policy.command()
@click.argument("name", required=False)
@output_option("yaml", ("yaml", "json", "json-pretty"))
@click.pass_obj
def export(socket_path: str, name: str | None, output: str) -> None:
    """Print the documents in force as they were given, one after the other; with NAME, that one."""
    rows = request(socket_path, "policy.export", {} if name is None else {"name": name}, timeout_s=30)
    if output != "yaml":
        write_rows(rows, output)
        return
    for number, one in enumerate(rows):
        if number:
            click.echo("---")
        click.echo(one["document"].removesuffix("\n"))


@policy.command("list")
@output_option("table", (*_FORMATS, "csv"))
@click.pass_obj
def list_policies(socket_path: str, output: str) -> None:
    """List policies and whether they are enforced; a line a rule, with the packets it denied or (observe) would have."""
    rows = list(request(socket_path, "policy.list", timeout_s=30))
    if output in ("table", "csv"):
        write_rows(
            (_rule_row(one, rule) for one in rows for rule in one["rules"]), output, columns=RULE_COLUMNS
        )
        # One set, one answer: what is not judged is told beside the table, not in every line of it.
        for reason in dict.fromkeys(one["reason"] for one in rows if one.get("reason")):
            click.echo(f"aegis: {cell(reason)}", err=True)
    else:
        write_rows(rows, output)


@policy.command()
@click.argument("name")
@output_option("compact", ("compact", "json", "json-pretty", "yaml"))
@click.pass_obj
def remove(socket_path: str, name: str, output: str) -> None:
    """Remove a policy by name; the answer comes after the kernel's switch."""
    item = request_one(socket_path, "policy.remove", {"name": name})
    write_rows([item], output, compact=lambda one: f"{name}: removed, generation {one['generation']}")


@policy.command()
@click.argument("flow", required=False, metavar="[FLOW]")
@click.option("--protocol", default=None, help="TCP, UDP, SCTP, ICMP, ICMPv6 or a number.")
@click.option("--src", default=None, help="Source address.")
@click.option("--src-port", type=click.IntRange(0, 65535), default=None)
@click.option("--dst", default=None, help="Destination address.")
@click.option("--dst-port", type=click.IntRange(0, 65535), default=None)
@click.option("--direction", type=click.Choice(("egress", "ingress")), default=None, help="Of the initiator.")
@output_option("table", _FORMATS)
@click.pass_obj
def explain(socket_path: str, /, output: str, flow: str | None, **tuple_: Any) -> None:
    """Say what would happen to a flow, and by which rule.

    FLOW is a JSON object as `aegis flows -o json` prints it, or `-` to read one; or name its parts with options.
    """
    given: dict[str, Any] = {}
    if flow is not None:
        try:
            given = json.loads(sys.stdin.readline() if flow == "-" else flow)
        except (ValueError, RecursionError) as error:
            raise click.UsageError(f"FLOW is not a JSON object: {error}") from error
        if not isinstance(given, dict):
            raise click.UsageError("FLOW is JSON, but not an object")
    keys = ("protocol", "src", "src_port", "dst", "dst_port", "direction")
    arguments = {key: tuple_[key] if tuple_.get(key) is not None else given.get(key) for key in keys}
    if arguments["protocol"] is None or (arguments["dst"] is None and arguments["src"] is None):
        raise click.UsageError("name at least --protocol and --dst (or --src for ingress), or give a FLOW")
    asked = {key: value for key, value in arguments.items() if value is not None}
    _expect_five_tuple(asked)
    item = request_one(socket_path, "policy.explain", asked)
    if output != "table":
        write_rows([item], output)
        return
    click.echo(
        f"{item['verdict']}  policy {cell(item['policy'])}  rule {cell(item['rule'])}"
        f"  mode {cell(item['mode'])}  generation {cell(item['generation'])}"
    )
    for step in item["path"]:
        click.echo(f"  {step if isinstance(step, str) else cell(step)}")


def _expect_five_tuple(asked: dict[str, Any]) -> None:
    """Raises UsageError by the agent's own reading of a request: what is wrong with it is wrong without an agent too."""
    from aegis.agent.answers import probe_of
    from aegis.agent.control.verbs import VERBS
    from aegis.agent.control.verbs import check as check_types
    from aegis.errors import EnvelopeInvalid

    try:
        check_types(next(verb for verb in VERBS if verb.name == "policy.explain"), asked)
        probe_of(asked)
    except EnvelopeInvalid as error:
        raise click.UsageError(str(error).removeprefix("policy.explain: ")) from None
