"""Answers queries: batches found by class, agent, time and key; the items inside looked at, and merged by time.

A page looks at a bounded number of batches. Where that is not enough to fill it, it ends early, and its cursor goes on.
"""

from __future__ import annotations

import re
from bisect import insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from aegis.errors import QueryInvalid
from aegis.gateway.store.base import CLASSES, Item, Page, Query
from aegis.gateway.store.items import MOST_KEY, Head, fulfils, instants, read, split, type_bits
from aegis.gateway.store.sharing import opened
from aegis.gateway.store.tables import KEY_PEER, KEY_POLICY, agents, batch_keys, batches
from aegis.protocol.shared_items import expand

MOST_LOOKED_AT: Final = 4000  # batches a page
MOST_BYTES_LOOKED_AT: Final = 32 << 20  # of their items: some 100 ms
_FEWEST, AT_ONCE = 4, 64  # batches fetched at a time
END: Final = 1 << 29  # behind every item of a batch
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
    return after_text(newest or 0, END)


def _newest(connection: sa.Connection, query: Query) -> Page:
    before = _place(query.cursor)
    looked = size = 0
    newest = _Newest(query.limit)
    found: list[Item] = []
    last: Place = (0, 0, 0)
    candidates = _candidates(connection, query, before)
    head = next(candidates, None)
    start = before or (0 if head is None else head.newest_ns + 1, 0, 0)
    while len(found) < query.limit:
        while head is not None and newest.time_ns <= head.newest_ns:
            # What is newer than this batch was found. Going on from here must not be where this page began.
            onward = (head.newest_ns + 1, 0, 0)
            if (looked >= MOST_LOOKED_AT or size >= MOST_BYTES_LOOKED_AT) and onward < start:
                return Page(items=found, next=_text(onward))
            looked += 1
            size += len(head.items)
            newest.offer(_Inside(head), query, before)
            head = next(candidates, None)
        if not newest:
            return Page(items=found, next=None)
        last, item = newest.pop()
        found.append(item)
    more = bool(newest) or newest.is_full or head is not None
    return Page(items=found, next=_text(last) if more else None)


class _Newest:
    """The newest items of what was offered, as many as are still wanted: each that is popped makes it one less."""

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._held: list[tuple[Place, Item]] = []  # newest last; no two have one place
        self.is_full = False  # something was offered that it did not take

    def __bool__(self) -> bool:
        return bool(self._held)

    @property
    def time_ns(self) -> int:
        """Of the newest; -1 where there is none."""
        return self._held[-1][0][0] if self._held else -1

    def offer(self, inside: _Inside, query: Query, before: Place | None) -> None:
        """The items of a batch that are asked for, and come behind `before` in a page's order."""
        for place in inside.places(query):
            if before is not None and place >= before:
                continue
            if len(self._held) >= self._wanted:
                self.is_full = True
                if place < self._held[0][0]:
                    continue
                del self._held[0]
            insort(self._held, (place, inside.item(place)), key=itemgetter(0))

    def pop(self) -> tuple[Place, Item]:
        self._wanted -= 1
        return self._held.pop()


def _arrived(connection: sa.Connection, query: Query) -> Page:
    batch, index = place_after(query.after or "")
    most = query.limit + AT_ONCE
    rows = _rows(connection, query, _values(query) | {"after": batch, "most": most})
    items, place, is_full = gathered(map(_found, rows), query, batch, index)
    if not is_full and len(rows) < most:
        # All was looked at, as of this transaction: what the conditions left out is not looked at again.
        newest = connection.execute(sa.select(sa.func.max(batches.c.id))).scalar() or 0
        place = max(place, (newest, END))
    return Page(items=items, next=after_text(*place))


def gathered(
    found: Iterable[Found], query: Query, batch: int, index: int
) -> tuple[list[Item], tuple[int, int], bool]:
    """What a follower at (batch, index) gets of these batches, which are in order of coming; and its next place.

    True where there may be more in them than was asked for.
    """
    items: list[Item] = []
    place = (batch, index)
    for candidate in found:
        inside = _Inside(candidate)
        for where in inside.places(query):
            if candidate.id == batch and where[2] <= index:
                continue
            if len(items) == query.limit:
                return items, place, True
            items.append(inside.item(where))
            place = (candidate.id, where[2])
        place = max(place, (candidate.id, END))
    return items, place, False


class _Inside:
    """The items of a batch: read for what is asked of them, taken apart when one is told."""

    def __init__(self, found: Found) -> None:
        self._found = found
        self._array, self._shared = opened(found.items)
        self._raws: list[msgspec.Raw] = []

    def places(self, query: Query) -> list[Place]:
        """Where the items are that are asked for, in the order of the batch."""
        heads: list[Head] = read(self._array)
        times = instants(heads, self._found.received_ns)
        return [
            (times[index], self._found.id, index)
            for index, head in enumerate(heads)
            if fulfils(head, times[index], query)
        ]

    def item(self, place: Place) -> Item:
        """With all its members."""
        self._raws = self._raws or split(self._array)
        return Item(
            uid=self._found.uid,
            time_ns=place[0],
            received_ns=self._found.received_ns,
            json=expand(bytes(self._raws[place[2]]), self._shared),
        )


def _candidates(connection: sa.Connection, query: Query, before: Place | None) -> Iterator[Found]:
    """Batches by their newest item, newest first; a few are fetched at a time."""
    values = _values(query) | {"before": None if before is None else before[0], "time": None, "number": None}
    step = _FEWEST
    while True:
        rows = _rows(connection, query, values | {"most": step})
        for row in rows:
            yield _found(row)
        if len(rows) < step:
            return
        last = _found(rows[-1])
        values |= {"time": last.newest_ns, "number": last.id}
        step = min(step * 4, AT_ONCE)


def _rows(connection: sa.Connection, query: Query, values: dict[str, Any]) -> Sequence[Any]:
    """Rows of the statement for the values there are; None is a condition that is not made."""
    given = {name: value for name, value in values.items() if value is not None}
    text, order = _statement(connection.dialect, len(query.cls), frozenset(given))
    return connection.exec_driver_sql(text, tuple(given.get(name, 0) for name in order)).all()


def _values(query: Query) -> dict[str, Any]:
    """What a statement compares with; None: it does not."""
    values: dict[str, Any] = {
        "uid": query.uid,
        "since": query.since_ns,
        "until": query.until_ns,
        "types": type_bits(query.types) or None,
        "peer": None if query.peer is None else query.peer[:MOST_KEY],
        "policy": None if query.policy is None else query.policy[:MOST_KEY],
    }
    return values | {f"cls{place}": CLASSES.index(name) for place, name in enumerate(query.cls)}


@lru_cache(maxsize=256)
def _statement(dialect: sa.Dialect, classes: int, given: frozenset[str]) -> tuple[str, tuple[str, ...]]:
    """A statement that has these conditions, and the names of its parameters in order.

    With `after` by arrival, without by the newest instant. It is built and compiled once: SQLAlchemy needs the time for
    it in which SQLite runs ten.
    """
    param: dict[str, sa.BindParameter[Any]] = {name: sa.bindparam(name) for name in given}
    numbers = [param[f"cls{place}"] for place in range(classes)]
    found = sa.select(
        batches.c.id, agents.c.uid, batches.c.newest_ns, batches.c.received_ns, batches.c["items"]
    ).join_from(batches, agents, agents.c.number == batches.c.agent)
    found = found.where(
        batches.c.cls == numbers[0] if classes == 1 else sa.or_(*(batches.c.cls == one for one in numbers))
    )
    # The columns of a batch's newest instant and number that an index has in order.
    time: sa.ColumnElement[int] = batches.c.newest_ns
    number: sa.ColumnElement[int] = batches.c.id
    for kind, name in ((KEY_PEER, "peer"), (KEY_POLICY, "policy")):
        if name in given:
            key = batch_keys.alias()
            found = found.join(
                key,
                sa.and_(
                    key.c.batch == batches.c.id,
                    key.c.kind == sa.literal_column(str(kind)),
                    key.c.value == param[name],
                ),
            )
            time, number = key.c.newest_ns, key.c.batch
    conditions: dict[str, Callable[[sa.BindParameter[Any]], sa.ColumnElement[bool]]] = {
        "uid": lambda one: agents.c.uid == one,
        "since": lambda one: batches.c.newest_ns >= one,
        "until": lambda one: batches.c.oldest_ns < one,
        "types": lambda one: batches.c.types.op("&")(one) != sa.literal_column("0"),
        "before": lambda one: batches.c.oldest_ns <= one,
        "after": lambda one: batches.c.id >= one,
        "time": lambda one: time <= one,
        "number": lambda one: sa.or_(time < param["time"], number < one),
    }
    for name, condition in conditions.items():
        if name in given:
            found = found.where(condition(param[name]))
    ordered = found.order_by(batches.c.id) if "after" in given else found.order_by(time.desc(), number.desc())
    made = ordered.limit(param["most"]).compile(dialect=dialect)
    return str(made), tuple(made.positiontup or ())  # it puts an offset in, which is 0


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


def place_after(after: str) -> tuple[int, int]:
    """The batch, and the index in it, behind which a follower goes on. Raises QueryInvalid."""
    if not after:
        return 0, -1
    match = _AFTER.fullmatch(after)
    if match is None or int(match[1]) >= 1 << 63:
        raise QueryInvalid("after: not one that a page ended with")
    return int(match[1]), int(match[2])


def after_text(batch: int, index: int) -> str:
    return f"{batch}.{index}"
