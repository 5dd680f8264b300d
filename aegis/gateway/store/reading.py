"""Answers queries: batches found by class, agent, time and key; the items inside looked at, and merged by time.

A page looks at a bounded number of batches. Where that is not enough to fill it, it ends early, and its cursor goes on.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from aegis.errors import QueryInvalid
from aegis.gateway.store.base import CLASSES, Item, Page, Query
from aegis.gateway.store.items import MOST_KEY, Head, fulfils, instants, read, split, type_bits
from aegis.gateway.store.tables import KEY_PEER, KEY_POLICY, agents, batch_keys, batches

MOST_LOOKED_AT: Final = 4000  # batches a page
_FEWEST, _AT_ONCE = 4, 64  # batches fetched at a time
_PLACE: Final = re.compile(r"([0-9]{1,19})\.([0-9]{1,19})\.([0-9]{1,9})")
_AFTER: Final = re.compile(r"([0-9]{1,19})\.([0-9]{1,9})")

Place = tuple[int, int, int]  # time, batch, index: of an item; newest first


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A batch that may hold what is asked for."""

    id: int
    uid: str
    newest_ns: int
    received_ns: int
    items: bytes


def page(connection: sa.Connection, query: Query) -> Page:
    """The page of a checked query. Raises QueryInvalid for a cursor that is none of ours."""
    return _arrived(connection, query) if query.after is not None else _newest(connection, query)


def now(connection: sa.Connection) -> str:
    """The place after everything that is stored."""
    newest = connection.execute(sa.select(sa.func.max(batches.c.id))).scalar()
    return f"{newest or 0}.{1 << 29}"


def _newest(connection: sa.Connection, query: Query) -> Page:
    before = _place(query.cursor)
    looked = 0
    heap: list[tuple[tuple[int, int, int], Item]] = []  # smallest first, so the place is negated
    found: list[Item] = []
    last: Place = (0, 0, 0)
    candidates = _candidates(connection, query, before)
    head = next(candidates, None)
    start = before or (0 if head is None else head.newest_ns + 1, 0, 0)
    while len(found) < query.limit:
        while head is not None and (not heap or -heap[0][0][0] <= head.newest_ns):
            # What is newer than this batch was found. Going on from here must not be where this page began.
            onward = (head.newest_ns + 1, 0, 0)
            if looked >= MOST_LOOKED_AT and onward < start:
                return Page(items=found, next=_text(onward))
            looked += 1
            for place, item in _inside(head, query):
                if before is None or place < before:
                    heapq.heappush(heap, ((-place[0], -place[1], -place[2]), item))
            head = next(candidates, None)
        if not heap:
            return Page(items=found, next=None)
        negated, item = heapq.heappop(heap)
        last = (-negated[0], -negated[1], -negated[2])
        found.append(item)
    more = bool(heap) or head is not None
    return Page(items=found, next=_text(last) if more else None)


def _arrived(connection: sa.Connection, query: Query) -> Page:
    batch, index = _after(query.after or "")
    base, _, _ = _selection(query)
    most = query.limit + _AT_ONCE
    selected = base.where(batches.c.id >= batch).order_by(batches.c.id).limit(most)
    found: list[Item] = []
    place = f"{batch}.{index}"
    looked = 0
    for looked, row in enumerate(connection.execute(selected), 1):  # noqa: B007  counts
        candidate = _found(row)
        for (_, _, inside), item in _inside(candidate, query):
            if candidate.id == batch and inside <= index:
                continue
            if len(found) == query.limit:
                return Page(items=found, next=place)
            found.append(item)
            place = f"{candidate.id}.{inside}"
        place = f"{candidate.id}.{1 << 29}" if candidate.id > batch or index < 1 << 29 else place
    if looked < most:
        # All was looked at, as of this transaction: what the conditions left out is not looked at again.
        newest = connection.execute(sa.select(sa.func.max(batches.c.id))).scalar() or 0
        if newest > batch or (newest == batch and index < 1 << 29):
            place = f"{newest}.{1 << 29}"
    return Page(items=found, next=place)


def _inside(found: Found, query: Query) -> Iterator[tuple[Place, Item]]:
    heads: list[Head] = read(found.items)
    times = instants(heads, found.received_ns)
    wanted = [index for index, head in enumerate(heads) if fulfils(head, times[index], query)]
    if not wanted:
        return
    raws = split(found.items)
    for index in wanted:
        yield (
            (times[index], found.id, index),
            Item(
                uid=found.uid,
                time_ns=times[index],
                received_ns=found.received_ns,
                json=bytes(raws[index]),
            ),
        )


def _candidates(connection: sa.Connection, query: Query, before: Place | None) -> Iterator[Found]:
    """Batches by their newest item, newest first; a few are fetched at a time."""
    base, time, number = _selection(query)
    if before is not None:
        base = base.where(batches.c.oldest_ns <= before[0])
    base = base.order_by(time.desc(), number.desc())
    last: Found | None = None
    step = _FEWEST
    while True:
        selected = base.limit(step)
        if last is not None:
            selected = selected.where(time <= last.newest_ns).where(
                sa.or_(time < last.newest_ns, number < last.id)
            )
        rows = connection.execute(selected).all()
        for row in rows:
            last = _found(row)
            yield last
        if len(rows) < step:
            return
        step = min(step * 2, _AT_ONCE)


def _selection(query: Query) -> tuple[sa.Select[Any], sa.ColumnElement[int], sa.ColumnElement[int]]:
    """What to select, and the columns of a batch's newest instant and number that an index has in order."""
    numbers = [CLASSES.index(name) for name in query.cls]
    selected = sa.select(
        batches.c.id, agents.c.uid, batches.c.newest_ns, batches.c.received_ns, batches.c["items"]
    ).join_from(batches, agents, agents.c.number == batches.c.agent)
    selected = selected.where(
        batches.c.cls == numbers[0] if len(numbers) == 1 else batches.c.cls.in_(numbers)
    )
    if query.uid is not None:
        selected = selected.where(agents.c.uid == query.uid)
    if query.since_ns is not None:
        selected = selected.where(batches.c.newest_ns >= query.since_ns)
    if query.until_ns is not None:
        selected = selected.where(batches.c.oldest_ns < query.until_ns)
    if query.types:
        selected = selected.where(batches.c.types.op("&")(type_bits(query.types)) != 0)
    time: sa.ColumnElement[int] = batches.c.newest_ns
    number: sa.ColumnElement[int] = batches.c.id
    for kind, value in ((KEY_PEER, query.peer), (KEY_POLICY, query.policy)):
        if value is not None:
            key = batch_keys.alias()
            selected = selected.join(
                key, sa.and_(key.c.batch == batches.c.id, key.c.kind == kind, key.c.value == value[:MOST_KEY])
            )
            time, number = key.c.newest_ns, key.c.batch
    return selected, time, number


def _found(row: Any) -> Found:
    return Found(id=row[0], uid=row[1], newest_ns=row[2], received_ns=row[3], items=row[4])


def _place(cursor: str | None) -> Place | None:
    if cursor is None:
        return None
    match = _PLACE.fullmatch(cursor)
    if match is None or max(int(match[1]), int(match[2])) >= 1 << 63:  # what a column holds
        raise QueryInvalid("cursor: not one that a page ended with")
    return int(match[1]), int(match[2]), int(match[3])


def _text(place: Place) -> str:
    return f"{place[0]}.{place[1]}.{place[2]}"


def _after(after: str) -> tuple[int, int]:
    if not after:
        return 0, -1
    match = _AFTER.fullmatch(after)
    if match is None or int(match[1]) >= 1 << 63:
        raise QueryInvalid("after: not one that a page ended with")
    return int(match[1]), int(match[2])
