"""`aegis events`: history and stream, from the agent, from saved lines, or from sensors of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import click

from aegis.cli.client import request
from aegis.cli.fields import check_fields
from aegis.cli.output import FORMATS, output_option, write_rows
from aegis.cli.selection import Predicate, Row, parse_filters, pick, split_names
from aegis.cli.target import chosen_gateway, columns_of, gateway_options

TYPES = ("exec", "exit", "connect", "accept", "listen", "verdict", "loss")  # the model's; a test compares
TABLE_COLUMNS = ("time", "type", "pid", "comm", "unit", "exe", "args")
_SYMBOLS = {
    "exec": "+",
    "exit": "-",
    "connect": ">",
    "accept": "<",
    "listen": "=",
    "verdict": "#",
    "loss": "!",
}
LONGEST_S = 1e9  # a timer takes no more
_RELATIVE = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_instant(text: str) -> int:
    """Nanoseconds of wall time from RFC 3339, or from a span before now such as 90s, 5m, 2h, 1d."""
    unit = _RELATIVE.get(text[-1:])
    try:
        if unit and text[:-1].replace(".", "", 1).isdecimal():
            moment = datetime.now(UTC) - timedelta(seconds=float(text[:-1]) * unit)
        else:
            moment = datetime.fromisoformat(text)
            if moment.tzinfo is None:
                moment = moment.astimezone()
    except OverflowError as error:
        raise click.UsageError(f"{text!r} is outside the years 1 to 9999") from error
    except ValueError as error:
        raise click.UsageError(f"{text!r} is neither RFC 3339 nor a span such as 90s, 5m, 2h") from error
    return int(moment.timestamp() * 1e9)


def compact(row: Row) -> str:
    """One line an event: time symbol type process[pid] args -> target verdict rule."""
    from aegis.cli.output import cell

    kind = row.get("type") or "?"
    parts = [clock_time(row), _SYMBOLS.get(kind, "?"), f"{cell(kind):<7}"]
    if kind == "loss":
        return " ".join([*parts, *(cell(row.get(name)) for name in ("stage", "kind", "reason", "count"))])
    name = row.get("exe") or row.get("comm")
    parts.append(f"{cell(name)}[{cell(row.get('pid'))}]")
    if row.get("unit"):
        parts.append(f"({cell(row['unit'])})")
    if kind == "exec":
        parts.append(" ".join(cell(argument) for argument in (row.get("args") or [])[1:]))
    elif kind == "exit":
        parts.append(
            f"signal {cell(row['signal'])}" if row.get("signal") else f"code {cell(row.get('code'))}"
        )
    if row.get("protocol"):
        parts.append(f"{cell(row['protocol'])} {endpoint(row, 'src')} -> {endpoint(row, 'dst')}")
    if row.get("verdict"):
        parts.append(f"{cell(row['verdict'])} {cell(row.get('policy'))} {cell(row.get('rule'))}")
    if row.get("agent_uid"):
        parts.append(f"@{cell(row['agent_uid'])}")
    return " ".join(part for part in parts if part)


def clock_time(row: Row) -> str:
    """The time of day of a row, with microseconds, UTC."""
    from aegis.cli.output import cell

    return cell(str(row.get("time") or "-")[11:26])


def endpoint(row: Row, side: str) -> str:
    """ADDRESS:PORT, with brackets around IPv6."""
    from aegis.cli.output import cell

    address, port = cell(row.get(side)), row.get(f"{side}_port")
    shown = f"[{address}]" if ":" in address else address
    return shown if port is None or row.get(side) is None else f"{shown}:{cell(port)}"


# What printing and choosing rely on; the rest of a saved row is printed as it is.
_SHAPES = {
    **dict.fromkeys(("type", "time", "protocol", "src", "dst", "verdict"), (str, "text")),
    "time_ns": (int, "a whole number"),
    "args": (list, "a list"),
}


def saved_rows(stream: Iterable[str | bytes]) -> Iterator[Row]:
    """Rows from lines of JSON; a line that is not an object, or not as events are, is named by its number."""
    for number, line in enumerate(stream, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except UnicodeDecodeError as error:
            raise click.UsageError(f"line {number}: not UTF-8: {error.reason}") from error
        except (ValueError, RecursionError) as error:
            raise click.UsageError(f"line {number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise click.UsageError(f"line {number}: not an object")
        for name, (kind, words) in _SHAPES.items():
            if row.get(name) is not None and not isinstance(row[name], kind):
                raise click.UsageError(f"line {number}: {name} is not {words}")
        yield row


def process_predicate(pattern: str | None) -> Predicate:
    """Rows whose executable or command name matches the regular expression; all without one."""
    if pattern is None:
        return lambda _row: True
    return parse_any(("exe", "comm"), pattern)


def parse_any(fields: tuple[str, ...], pattern: str) -> Predicate:
    """Rows of which any of the fields matches."""
    predicates = [parse_filters([f"{field}~{pattern}"]) for field in fields]
    return lambda row: any(predicate(row) for predicate in predicates)


@click.command(
    epilog="\b\nExamples:\n  aegis events --last 20\n  aegis events -f -o compact --type exec\n"
    "  aegis events -f -o json --filter 'unit==nginx.service' > saved.json\n"
    "  aegis events --input-file saved.json --type connect\n  aegis events --standalone -o compact\n"
    "  aegis events --gateway http://127.0.0.1:8083 --token-file operator.token -f --agent UID"
)
@gateway_options
@click.option("--agent", default=None, metavar="UID", help="With --gateway: only events of this agent.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens from now.")
@click.option("--standalone", is_flag=True, help="Load sensors here, without an agent (as root).")
@click.option(
    "--input-file", type=click.File("rb"), default=None, help="Read saved JSON lines (- for stdin)."
)
@click.option("--type", "types", multiple=True, help=f"Only these types: {', '.join(TYPES)}.")
@click.option("--process", default=None, help="Only processes whose path or name matches this expression.")
@click.option("--filter", "filters", multiple=True, help="FIELD OP VALUE; may be repeated, all must hold.")
@click.option("--fields", multiple=True, help="Only these fields.")
@click.option("--exclude-fields", multiple=True, help="All but these fields.")
@click.option("--last", type=click.IntRange(0), default=None, help="The last N of the history (default 20).")
@click.option("--first", type=click.IntRange(0), default=None, help="End after N events.")
@click.option("--since", default=None, help="RFC 3339 or a span such as 5m.")
@click.option("--until", default=None, help="RFC 3339 or a span such as 1m.")
@click.option("--timeout", type=float, default=None, help="End after so many seconds, with exit code 124.")
@output_option("compact", FORMATS)
@click.pass_obj
def events(socket_path: str, /, output: str, **options: Any) -> None:
    """Print processes, sockets and verdicts, the latest first kept in memory, or as they happen with -f."""
    types = split_names(options["types"])
    unknown = [name for name in types if name not in TYPES]
    if unknown:
        raise click.UsageError(f"unknown type {unknown[0]!r}; known: {', '.join(TYPES)}")
    fields, excluded = split_names(options["fields"]), split_names(options["exclude_fields"])
    check_fields("event", fields + excluded, options["filters"])
    predicate = _predicate(types, options)
    with deadline(options["timeout"]), _source(socket_path, types, options) as rows:
        chosen = (row for row in rows if predicate(row))
        shown: Iterator[Row] = (pick(row, fields, excluded) for row in chosen)
        if options["first"] is not None:
            shown = islice(shown, options["first"])
        if output == "table" and options["follow"]:
            output = "compact"
        write_rows(
            shown,
            output,
            columns=fields or (columns_of(TABLE_COLUMNS) if output in ("table", "csv") else None),
            compact=None if fields else compact,
        )


def _source(
    socket_path: str, types: tuple[str, ...], options: dict[str, Any]
) -> AbstractContextManager[Iterator[Row]]:
    """Where the rows come from; what that holds is let go at the end of the block, however it ends."""
    if options["input_file"] is not None:
        return nullcontext(saved_rows(options["input_file"]))
    if options["standalone"]:
        from aegis.cli.standalone import sensors

        return sensors(list(types))
    remote = chosen_gateway()
    if remote is not None:
        from aegis.cli.records import events_of

        return closing(events_of(remote, types, options))
    if options["agent"] is not None:
        raise click.UsageError("--agent is for a gateway's events: name it with --gateway http://HOST:8083")
    last = options["last"]
    if last is None:
        last = 0 if options["follow"] and not options["since"] else None if options["since"] else 20
    arguments = {"follow": options["follow"], "types": list(types), "last": last}
    if options["since"]:
        arguments["since"] = parse_instant(options["since"])
    rows = request(socket_path, "events", {k: v for k, v in arguments.items() if v is not None})
    return closing(rows)


def _predicate(types: tuple[str, ...], options: dict[str, Any]) -> Predicate:
    by_filter = parse_filters(options["filters"])
    by_process = process_predicate(options["process"])
    since = parse_instant(options["since"]) if options["since"] else None
    until = parse_instant(options["until"]) if options["until"] else None

    def holds(row: Row) -> bool:
        if types and row.get("type") not in types:
            return False
        at = row.get("time_ns")
        if since is not None and (at is None or at < since):
            return False
        if until is not None and (at is None or at > until):
            return False
        return by_process(row) and by_filter(row)

    return holds


class _Expired(BaseException):
    """The deadline of the block is over."""


class deadline:  # noqa: N801 - reads as a statement
    """End the body with TimeoutError after so many seconds; None never does."""

    def __init__(self, seconds: float | None) -> None:
        if seconds is not None and not 0 <= seconds <= LONGEST_S:
            raise click.UsageError(f"--timeout {seconds:g} is not from 0 to {LONGEST_S:.0f} seconds")
        self._seconds = seconds
        self._previous: Callable[..., Any] | int | None = None

    def __enter__(self) -> None:
        if self._seconds is not None:
            import signal

            self._previous = signal.signal(signal.SIGALRM, self._expired)
            signal.setitimer(signal.ITIMER_REAL, max(self._seconds, 1e-6))

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if self._seconds is not None:
            import signal

            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self._previous)
        if isinstance(error, _Expired):
            raise TimeoutError from None

    @staticmethod
    def _expired(*_: object) -> None:
        raise _Expired
