"""Writes batches: what is new of each, its keys, its cursor, the totals; and takes away what retention gives up.

Belongs to the one writer. What it remembers between transactions must be forgotten when one is rolled back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa

from aegis.errors import AgentUnknown
from aegis.gateway.store.base import CLASSES, Appended, Batch, Keep, Totals
from aegis.gateway.store.items import without_first
from aegis.gateway.store.statements import insert, taking, upsert
from aegis.gateway.store.tables import (
    KEY_PEER,
    KEY_POLICY,
    agents,
    batch_keys,
    batches,
    cursors,
    totals,
)

_NUMBER: Final = {name: number for number, name in enumerate(CLASSES)}
_MOST_REMEMBERED: Final = 50_000
_ROW_BYTES, _KEY_BYTES = 200, 56  # measured: what a batch and a key take on disk, besides items and value
MOST_CURSORS: Final = 1024  # of an agent: each start of it makes one a class
_CURSORS_A_STEP: Final = 256

Stream = tuple[int, str, int, int]  # agent, boot, stream, class


class Appender:
    """The writer's statements for items."""

    def __init__(self, dialect: sa.Dialect) -> None:
        self._insert_batch = insert(batches, [column.name for column in batches.columns], dialect)
        self._insert_key = insert(batch_keys, [column.name for column in batch_keys.columns], dialect)
        names = [column.name for column in cursors.columns]
        self._set_cursor = upsert(cursors, names, names[:4], taking(names[4:]), dialect)
        added = "UPDATE SET items = totals.items + excluded.items, bytes = totals.bytes + excluded.bytes"
        self._add_total = upsert(totals, ["cls", "items", "bytes"], ["cls"], added, dialect)
        self._agents: dict[str, int] = {}
        self._cursors: dict[Stream, int] = {}
        self._next_id: int | None = None
        self.above = 0  # every number is higher

    def forget(self) -> None:
        """A transaction was rolled back."""
        self._agents.clear()
        self._cursors.clear()
        self._next_id = None

    def append(
        self, connection: sa.Connection, new: Sequence[Batch], stored: list[tuple[int, Batch]]
    ) -> list[Appended]:
        """As `Store.append`, inside the caller's transaction. What is new goes into `stored` with its number."""
        stored.clear()  # of an attempt that was rolled back
        rows: list[tuple[object, ...]] = []
        keys: list[tuple[object, ...]] = []
        moved: dict[Stream, tuple[int, int]] = {}
        added: Counter[int] = Counter()
        sizes: Counter[int] = Counter()
        result = []
        number = self._place(connection)
        for each in new:
            agent = self._agent(connection, each.uid)
            stream = (agent, each.boot_id, each.stream, _NUMBER[each.cls])
            stands = moved[stream][0] if stream in moved else self._cursor(connection, stream)
            end = each.first + each.count
            if end <= stands:
                result.append(Appended(stands, 0))
                continue
            fresh = each if each.first >= stands else without_first(each, stands - each.first)
            number += 1
            cls = stream[3]
            rows.append(
                (
                    number,
                    cls,
                    agent,
                    fresh.stream,
                    fresh.first,
                    fresh.count,
                    fresh.boot_id,
                    fresh.oldest_ns,
                    fresh.newest_ns,
                    fresh.received_ns,
                    fresh.types,
                    size := _on_disk(fresh),
                    fresh.items,
                )
            )
            stored.append((number, fresh))
            for kind, values in ((KEY_PEER, fresh.peers), (KEY_POLICY, fresh.policies)):
                keys.extend((kind, value, fresh.newest_ns, number) for value in values)
            added[cls] += fresh.count
            sizes[cls] += size
            moved[stream] = (end, fresh.received_ns)
            result.append(Appended(end, fresh.count))
        if rows:
            # Past SQLAlchemy, which needs as long for each as SQLite.
            driver = connection.connection.cursor()
            driver.executemany(self._insert_batch, rows)
            driver.executemany(self._set_cursor, [(*key, *where) for key, where in moved.items()])
            driver.executemany(self._add_total, [(cls, added[cls], sizes[cls]) for cls in added])
            if keys:
                driver.executemany(self._insert_key, keys)
            driver.close()
        self._next_id = number
        if len(self._cursors) > _MOST_REMEMBERED:
            self._cursors.clear()
        self._cursors.update((stream, end) for stream, (end, _) in moved.items())
        return result

    def probe(self, connection: sa.Connection) -> None:
        """As `Store.probe`: a page is written, and none of what it says is new."""
        connection.exec_driver_sql(self._add_total, [(0, 0, 0)])

    def prune(self, connection: sa.Connection, now_ns: int, keep: dict[str, Keep], most: int) -> int:
        """As `Store.prune`: the oldest by arrival, since the instants are the agents' own."""
        held = read_totals(connection)
        gone = 0
        for name, rule in keep.items():
            if gone >= most:
                break
            over = held[name].bytes - rule.total_bytes if name in held else 0
            gone += self._prune_class(connection, _NUMBER[name], now_ns - rule.age_ns, over, most - gone)
        return gone

    def _prune_class(self, connection: sa.Connection, cls: int, before_ns: int, over: int, most: int) -> int:
        selected = (
            sa.select(batches.c.id, batches.c["count"], batches.c.bytes, batches.c.received_ns)
            .where(batches.c.cls == cls)
            .order_by(batches.c.id)
            .limit(most)
        )
        numbers, items, size = [], 0, 0
        for number, count, length, received_ns in connection.execute(selected):
            if received_ns >= before_ns and size >= over:
                break
            numbers.append(number)
            items += count
            size += length
        if numbers:
            connection.execute(sa.delete(batch_keys).where(batch_keys.c.batch.in_(numbers)))
            connection.execute(sa.delete(batches).where(batches.c.id.in_(numbers)))
            connection.exec_driver_sql(self._add_total, [(cls, -items, -size)])
        return len(numbers)

    def _place(self, connection: sa.Connection) -> int:
        """The highest number a batch ever had, so that none is given twice even where the newest were pruned."""
        if self._next_id is None:
            self._next_id = max(highest_batch(connection), self.above)
        return self._next_id

    def _agent(self, connection: sa.Connection, uid: str) -> int:
        number = self._agents.get(uid)
        if number is None:
            number = connection.execute(sa.select(agents.c.number).where(agents.c.uid == uid)).scalar()
            if number is None:
                raise AgentUnknown(f"no agent {uid!r}")
            self._agents[uid] = number
        return number

    def _cursor(self, connection: sa.Connection, stream: Stream) -> int:
        stands = self._cursors.get(stream)
        if stands is None:
            agent, boot_id, number, cls = stream
            stands = connection.execute(
                sa.select(cursors.c.next)
                .where(cursors.c.agent == agent, cursors.c.boot_id == boot_id)
                .where(cursors.c.stream == number, cursors.c.cls == cls)
            ).scalar()
            if stands is None:
                self._make_room(connection, agent)
        return stands or 0

    def _make_room(self, connection: sa.Connection, agent: int) -> None:
        """For one cursor more: those an agent moved longest ago go, since it can name as many streams as it likes."""
        count = connection.execute(
            sa.select(sa.func.count()).select_from(cursors).where(cursors.c.agent == agent)
        ).scalar()
        if (count or 0) < MOST_CURSORS:
            return
        oldest = connection.execute(
            sa.select(cursors.c.boot_id, cursors.c.stream, cursors.c.cls)
            .where(cursors.c.agent == agent)
            .order_by(cursors.c.moved_ns)
            .limit(_CURSORS_A_STEP)
        ).all()
        for boot_id, stream, cls in oldest:
            connection.execute(
                sa.delete(cursors).where(
                    cursors.c.agent == agent,
                    cursors.c.boot_id == boot_id,
                    cursors.c.stream == stream,
                    cursors.c.cls == cls,
                )
            )
            self._cursors.pop((agent, boot_id, stream, cls), None)


def _on_disk(batch: Batch) -> int:
    """What a batch takes, about: many small ones must not be worth more than retention allows."""
    keys = sum(_KEY_BYTES + len(value) for values in (batch.peers, batch.policies) for value in values)
    return len(batch.items) + _ROW_BYTES + keys


def highest_batch(connection: sa.Connection) -> int:
    """The highest number a batch ever had, also where it is gone."""
    if connection.dialect.name == "sqlite":
        found = connection.exec_driver_sql("SELECT seq FROM sqlite_sequence WHERE name = 'batches'").scalar()
    else:
        found = connection.execute(sa.select(sa.func.max(batches.c.id))).scalar()
    return int(found or 0)


def read_totals(connection: sa.Connection) -> dict[str, Totals]:
    """What is kept, by class."""
    rows = connection.execute(sa.select(totals.c.cls, totals.c["items"], totals.c.bytes))
    return {CLASSES[cls]: Totals(items=items, bytes=size) for cls, items, size in rows}
