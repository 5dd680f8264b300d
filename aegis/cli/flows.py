"""`aegis flows`: who talked to whom, with owner, counters and verdict."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from aegis.cli.client import request
from aegis.cli.events import clock_time, deadline, endpoint, parse_instant, process_predicate
from aegis.cli.fields import check_fields
from aegis.cli.output import FORMATS, human_bytes, output_option, write_rows
from aegis.cli.selection import Predicate, Row, parse_filters, pick, split_names
from aegis.cli.target import chosen_gateway, columns_of, gateway_options

if TYPE_CHECKING:
    from aegis.cli.remote import Remote

TABLE_COLUMNS = (
    "protocol",
    "src",
    "src_port",
    "dst",
    "dst_port",
    "direction",
    "packets_sent",
    "bytes_sent",
    "packets_received",
    "bytes_received",
    "state",
    "verdict",
    "rule",
    "pid",
    "exe",
    "unit",
)
FOLLOW_PERIOD_S = 1.0
CHOOSING = ("verdicts", "protocols", "ports", "process", "filters", "negated", "since")


def compact(row: Row) -> str:
    """One line a flow: time verdict protocol source -> destination counters owner rule."""
    from aegis.cli.output import cell

    owner = row.get("exe") or row.get("owner") or row.get("comm")
    parts = [
        clock_time(row),
        f"{cell(row.get('verdict')):<5}",
        cell(row.get("protocol")),
        f"{endpoint(row, 'src')} -> {endpoint(row, 'dst')}",
        f"sent {cell(row.get('packets_sent'))}/{human_bytes(row.get('bytes_sent'))}",
        f"received {cell(row.get('packets_received'))}/{human_bytes(row.get('bytes_received'))}",
        cell(row.get("state")),
        f"{cell(owner)}[{cell(row.get('pid'))}]",
    ]
    if row.get("unit"):
        parts.append(f"({cell(row['unit'])})")
    if row.get("rule"):
        parts.append(f"{cell(row.get('policy'))} {cell(row['rule'])}")
    if row.get("agent_uid"):
        parts.append(f"@{cell(row['agent_uid'])}")
    return " ".join(parts)


@click.command(
    epilog="\b\nExamples:\n  aegis flows\n  aegis flows -f --verdict deny\n"
    "  aegis flows -o json --protocol TCP --port 443 --process curl\n"
    "  aegis flows --gateway http://127.0.0.1:8083 --token-file operator.token --agent UID"
)
@gateway_options
@click.option("--agent", default=None, metavar="UID", help="With --gateway: only flows of this agent.")
@click.option("-f", "--follow", is_flag=True, help="Go on with flows that change, once a second.")
@click.option("--verdict", "verdicts", multiple=True, type=click.Choice(("allow", "deny", "audit")))
@click.option("--protocol", "protocols", multiple=True, help="TCP, UDP, SCTP, ICMP, ICMPv6 or a number.")
@click.option("--port", "ports", multiple=True, type=click.IntRange(0, 65535), help="Either end.")
@click.option("--process", default=None, help="Only owners whose path or name matches this expression.")
@click.option("--filter", "filters", multiple=True, help="FIELD OP VALUE; may be repeated, all must hold.")
@click.option("--not", "negated", multiple=True, help="FIELD OP VALUE that must not hold.")
@click.option("--fields", multiple=True, help="Only these fields.")
@click.option("--exclude-fields", multiple=True, help="All but these fields.")
@click.option("--sort", default=None, help="Field to sort by; a leading - turns it round.")
@click.option(
    "--last", type=click.IntRange(0), default=None, help="The N latest seen (default 20, 0 for all)."
)
@click.option("--since", default=None, help="Seen since RFC 3339 or a span such as 5m.")
@click.option("--timeout", type=float, default=None, help="End after so many seconds, with exit code 124.")
@output_option("table", FORMATS)
@click.pass_obj
def flows(socket_path: str, /, output: str, **options: Any) -> None:
    """List flows; counters are as seen from this host, at the agent's latest harvest."""
    fields, excluded = split_names(options["fields"]), split_names(options["exclude_fields"])
    sort = (options["sort"] or "").removeprefix("-")
    check_fields(
        "flow", (*fields, *excluded, *([sort] if sort else ())), (*options["filters"], *options["negated"])
    )
    predicate = _predicate(options)
    remote = chosen_gateway()
    if remote is None and options["agent"] is not None:
        raise click.UsageError("--agent is for a gateway's flows: name it with --gateway http://HOST:8083")
    with deadline(options["timeout"]):
        if options["follow"]:
            changes = _changes(socket_path) if remote is None else _changes_at(remote, options)
            rows: Iterator[Row] = (row for row in changes if predicate(row))
            output = "compact" if output == "table" else output
        elif remote is not None:
            count = 20 if options["last"] is None else options["last"]
            from aegis.cli.records import flows_of

            listed = flows_of(remote, predicate, count or None, options)
            rows = iter(sorted_by(listed, options["sort"]) if options["sort"] else listed)
        else:
            chosen = any(options[name] for name in CHOOSING)
            rows = iter(_listed(socket_path, predicate, options["last"], options["sort"], chosen=chosen))
        write_rows(
            (pick(row, fields, excluded) for row in rows),
            output,
            columns=fields or (columns_of(TABLE_COLUMNS) if output in ("table", "csv") else None),
            compact=None if fields else compact,
        )


def _listed(
    socket_path: str, predicate: Predicate, last: int | None, sort: str | None, *, chosen: bool
) -> list[Row]:
    """The last ones by `last_ns`. `chosen`: the predicate does not hold of every flow, so all are asked for."""
    count = 20 if last is None else last
    args = {"last": count} if count and not chosen else {}
    rows = sorted(
        (row for row in request(socket_path, "flows", args, timeout_s=30) if predicate(row)),
        key=lambda row: row.get("last_ns") or 0,
    )
    if count:
        rows = rows[-count:]
    return sorted_by(rows, sort) if sort else rows


def sorted_by(rows: list[Row], sort: str) -> list[Row]:
    """Rows in the order of a field, turned round by a leading `-`; those without it come last either way."""
    field = sort.removeprefix("-")
    having = [row for row in rows if row.get(field) is not None]
    having.sort(key=lambda row: row[field], reverse=sort.startswith("-"))
    return having + [row for row in rows if row.get(field) is None]


def _changes(socket_path: str) -> Iterator[Row]:
    """Flows whose counters moved between two readings."""
    seen: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    while True:
        current: dict[tuple[Any, ...], tuple[Any, ...]] = {}
        for row in request(socket_path, "flows", {}, timeout_s=30):
            key = tuple(
                row.get(name)
                for name in ("protocol", "src", "src_port", "dst", "dst_port", "interface", "first_ns")
            )
            mark = tuple(row.get(name) for name in ("packets_sent", "packets_received", "state", "verdict"))
            current[key] = mark
            if seen.get(key) != mark:
                yield row
        seen = current
        time.sleep(FOLLOW_PERIOD_S)


def _changes_at(remote: Remote, options: dict[str, Any]) -> Iterator[Row]:
    from aegis.cli.records import flow_changes

    return flow_changes(remote, options)


def _predicate(options: dict[str, Any]) -> Predicate:
    verdicts = set(options["verdicts"])
    protocols = {name.upper() for name in split_names(options["protocols"])}
    ports = set(options["ports"])
    by_process = process_predicate(options["process"])
    by_filter = parse_filters(options["filters"])
    refused = [parse_filters([expression]) for expression in options["negated"]]
    since = parse_instant(options["since"]) if options["since"] else None

    def holds(row: Row) -> bool:
        return (
            (not verdicts or row.get("verdict") in verdicts)
            and (not protocols or str(row.get("protocol")).upper() in protocols)
            and (not ports or row.get("src_port") in ports or row.get("dst_port") in ports)
            and (since is None or (row.get("last_ns") or 0) >= since)
            and by_process(row)
            and by_filter(row)
            and not any(one(row) for one in refused)
        )

    return holds
