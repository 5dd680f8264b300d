"""Rows of a gateway: history in the order of time, changes as they come, from `GET /events` and `GET /flows`."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from itertools import islice
from typing import Any

from aegis.cli.events import parse_instant
from aegis.cli.remote import Remote
from aegis.cli.selection import Predicate, Row, split_names

PAGE = 1000
WAIT_S = 20
_FLOW = ("agent_uid", "protocol", "src", "src_port", "dst", "dst_port", "interface", "first_ns")


def events_of(remote: Remote, types: tuple[str, ...], options: Mapping[str, Any]) -> Generator[Row]:
    """What `aegis events` prints of a gateway; `last`, `since` and `follow` mean what they mean of an agent."""
    last = options["last"]
    if last is None:
        last = None if options["since"] else 0 if options["follow"] else 20
    query = {"agent": options["agent"], "type": list(types), **_span(options)}
    try:
        if options["follow"]:
            yield from followed(remote, "/events", query, last)
        else:
            yield from history(remote, "/events", query, last)
    finally:
        remote.close()


def flows_of(
    remote: Remote, predicate: Predicate, count: int | None, options: Mapping[str, Any]
) -> list[Row]:
    """Each flow once, as last told of, that fulfils the predicate: the `count` latest, oldest of them first."""
    try:
        rows = latest_flows(newest(remote, "/flows", _flow_query(options), None))
        found = list(islice((row for row in rows if predicate(row)), count))
    finally:
        remote.close()
    return sorted(found, key=lambda row: row.get("last_ns") or 0)


def flow_changes(remote: Remote, options: Mapping[str, Any]) -> Generator[Row]:
    """Records of flows as they come to the gateway."""
    try:
        yield from followed(remote, "/flows", _flow_query(options), None if options["since"] else 0)
    finally:
        remote.close()


def _flow_query(options: Mapping[str, Any]) -> dict[str, Any]:
    """What the gateway can choose by; the predicate is asked of every row all the same."""
    query: dict[str, Any] = {"agent": options["agent"], **_span(options)}
    for name, values in (
        ("verdict", options["verdicts"]),
        ("protocol", split_names(options["protocols"])),
        ("port", options["ports"]),
    ):
        if len(values) == 1:
            query[name] = values[0]
    return query


def _span(options: Mapping[str, Any]) -> dict[str, int]:
    """`since` and `until` in nanoseconds; the gateway's `until` is the first instant that is too late."""
    found = {}
    if options.get("since"):
        found["since"] = parse_instant(options["since"])
    if options.get("until"):
        found["until"] = parse_instant(options["until"]) + 1
    return found


def newest(remote: Remote, path: str, query: Mapping[str, Any], most: int | None) -> Iterator[Row]:
    """Rows, newest first; at most so many."""
    cursor = None
    while most is None or most > 0:
        limit = PAGE if most is None else min(PAGE, most)
        page = remote.get(path, {**query, "limit": limit, "cursor": cursor})
        yield from page["items"]
        cursor = page["next"]
        if cursor is None:
            return
        most = None if most is None else most - len(page["items"])


def history(remote: Remote, path: str, query: Mapping[str, Any], most: int | None) -> list[Row]:
    """The newest rows, oldest of them first."""
    return list(newest(remote, path, query, most))[::-1]


def followed(remote: Remote, path: str, query: Mapping[str, Any], most: int | None) -> Iterator[Row]:
    """The history (at most so many; None: all of it), then rows as they come to the gateway. None twice."""
    after = remote.get(path, {**query, "after": "now"})["next"]
    seen = set()
    for row in history(remote, path, query, most) if most != 0 else ():
        seen.add(_identity(row))
        yield row
    while True:
        page = remote.get(path, {**query, "after": after, "wait": f"{WAIT_S}s", "limit": PAGE}, wait_s=WAIT_S)
        for row in page["items"]:
            known = _identity(row)
            if known in seen:
                seen.discard(known)  # stored between the place and the history: it comes in both
            else:
                yield row
        after = page["next"] or after


def _identity(row: Row) -> str:
    return repr(sorted(row.items(), key=lambda pair: pair[0]))


def latest_flows(rows: Iterator[Row]) -> Iterator[Row]:
    """Of each flow its newest record; `rows` are newest first. Its counters are totals, so it says all."""
    seen = set()
    for row in rows:
        key = tuple(row.get(name) for name in _FLOW)
        if key not in seen:
            seen.add(key)
            yield row
