"""The rows on disk: SQLite, WAL, synchronous=FULL. Used by one thread only, which made it; nothing here waits or retries.

    block(id, stream, first, count, sealed)     id = class rank << 56 | seq; a later block of a class has a larger seq
    state(id 1, content)                        sealed: what was ever put in and taken out by class, losses not told yet;
                                                at latest when the log is copied into the file

A commit is one transaction and one flush of the log. The log is copied into the file when it has grown to 4 MiB: by an
explicit call, because SQLite hides a failed flush of its own. Raises SpoolFull, SpoolCorrupt, SpoolUncertain, and
StorageError for what may pass (locked, read-only, no descriptor). After SpoolUncertain and SpoolCorrupt nothing may be
written with `apply` until `rebuild` has made another file.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Final

import msgspec

from aegis.agent.outbox.changes import (
    Changes,
    Evicted,
    Eviction,
    Fetched,
    Losses,
    Opened,
    Span,
    State,
    Totals,
    flat,
    with_evicted,
)
from aegis.agent.outbox.database import (
    LARGEST_SEQ,
    LOG_BYTES,
    PAGE,
    SCHEMA,
    checkpoint,
    connect,
    has_our_tables,
    has_tables,
    last_upto,
    opened_row,
    place,
    plausible,
    read_state,
    row_id,
    translated,
)
from aegis.agent.outbox.files import Files
from aegis.agent.outbox.rows import CLASSES, LARGEST_STREAM, RANK, Key, row_bytes
from aegis.errors import SpoolCorrupt, StorageError
from aegis.model.block import Block, BlockClass

SHRINK_PAGES: Final = 512  # an empty file larger than this is made small


class Store:
    """One directory's rows. `open` before anything else; `close` at the end, twice is harmless."""

    synchronous = "FULL"

    def __init__(self, directory: str) -> None:
        self.files = Files(directory)
        self._db: sqlite3.Connection | None = None
        self._key: Key
        self._state = State()
        self._rows = 0
        self._behind = False  # the state in the file does not know of the newest rows
        self._thread = ""

    @property
    def readable(self) -> bool:
        return self._db is not None

    def open(self) -> Opened:
        """Open or make the file and look at every row's head; a damaged file is salvaged into a new one."""
        from aegis.agent.outbox.salvage import salvage

        self.close()
        self._thread = os.readlink("/proc/thread-self")
        self._key = Key(self.files.key())
        self.files.prepare()
        empty = os.path.getsize(self.files.database) == 0
        try:
            return self._open()
        except SpoolCorrupt as error:
            lost = salvage(self.files, self._key)
            found = self._open()
            corrupt = {cls: found.corrupt.get(cls, 0) + lost.corrupt.get(cls, 0) for cls in CLASSES}
            return msgspec.structs.replace(
                found, corrupt=corrupt, quarantined=str(error), uncounted=lost.uncounted and not empty
            )

    def _open(self) -> Opened:
        try:
            return self._begin()
        except BaseException:
            self.close()
            raise

    def _begin(self) -> Opened:
        with translated(self.files.database):
            if (
                0 < (size := os.path.getsize(self.files.database)) < PAGE
            ):  # SQLite takes some of these for empty
                raise SpoolCorrupt(f"{self.files.database}: cut short to {size} bytes")
            made = connect(self.files.database, synchronous=self.synchronous)
            self._db, self._behind = made, False
            if not has_tables(made):
                made.execute("BEGIN IMMEDIATE")
                for line in SCHEMA:
                    made.execute(line)
                self._write_state(made, State())
                made.execute("COMMIT")
            said = made.execute("PRAGMA quick_check(1)").fetchall()
            if said != [(b"ok",)] or not has_our_tables(made):
                raise SpoolCorrupt(f"{self.files.database}: {said[0][0].decode(errors='replace')}")
            return self._scan(made)

    def _scan(self, database: sqlite3.Connection) -> Opened:
        """Every row's head. Raises SpoolCorrupt where they do not fit together."""
        state = read_state(database, self._key)
        totals = {cls: Totals() for cls in CLASSES}
        last_seq = dict.fromkeys(CLASSES, 0)
        last_stream = before = 0
        for identity, stream, count, size in database.execute(
            "SELECT id, stream, count, length(sealed) FROM block ORDER BY id"
        ):
            found = place(identity)
            if found is None or identity <= before or type(size) is not int:
                raise SpoolCorrupt(f"{self.files.database}: rows out of order")
            cls, seq = found
            before = identity
            totals[cls].add(plausible(count), row_bytes(size))
            last_seq[cls] = seq
            if type(stream) is int and stream <= LARGEST_STREAM:
                last_stream = max(last_stream, stream)
        self._rows = sum(one.rows for one in totals.values())
        self._account(database, state, totals)
        return Opened(
            totals=totals,
            last_seq=last_seq,
            corrupt=dict.fromkeys(CLASSES, 0),
            losses=self._state.told(),
            last_stream=last_stream,
            uncounted=state is None,
        )

    def _account(
        self, database: sqlite3.Connection, state: State | None, totals: Mapping[BlockClass, Totals]
    ) -> None:
        """The state as the rows have it. Raises SpoolCorrupt where it is not what was put in and not taken out."""
        found = State(losses=state.losses if state is not None else [])
        for cls, rank in RANK.items():
            there = totals[cls].records
            put = last_upto(database, self._key, cls)
            if state is not None:
                put = max(put, state.put[rank])
                if there != put - state.gone[rank]:
                    raise SpoolCorrupt(
                        f"{self.files.database}: {there} records of class {cls}, not {put - state.gone[rank]}"
                    )
            found.put[rank], found.gone[rank] = put, put - there
        self._state, self._behind = found, state is None or state.put != found.put
        if state is None:
            self._catch_up(database)

    def _catch_up(self, database: sqlite3.Connection) -> None:
        """Before the log is copied, write the state if rows are newer: the file itself then says what is to be in it."""
        if self._behind:
            database.execute("BEGIN IMMEDIATE")
            try:
                self._write_state(database, self._state)
                database.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    database.execute("ROLLBACK")
                raise
            self._behind = False

    def apply(self, changes: Changes) -> dict[BlockClass, Evicted]:
        """All of it, durably, or nothing (but see SpoolUncertain). Gives what was evicted."""
        database = self._opened()
        with translated(self.files.database):
            put, gone = list(self._state.put), list(self._state.gone)
            state = State(put=put, gone=gone, losses=self._state.losses)
            if changes.losses is not None:
                state.losses = flat(changes.losses)
            evicted: dict[BlockClass, Evicted] = {}
            rows = self._rows
            database.execute("BEGIN IMMEDIATE")
            try:
                rows += self._insert(database, changes.inserts, put)
                for cls, span in changes.deletes:
                    rows -= self._delete(database, cls, span, gone)
                for eviction in changes.evictions:
                    rows -= self._evict(database, eviction, gone, evicted.setdefault(eviction.cls, Evicted()))
                if evicted:
                    state.losses = flat(with_evicted(state.told(), evicted))
                told = bool(changes.deletes or evicted or changes.losses is not None)
                if told:
                    self._write_state(database, state)
                database.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    database.execute("ROLLBACK")
                raise
            self._state, self._rows, self._behind = state, rows, not told
        return evicted

    def _insert(
        self, database: sqlite3.Connection, inserts: Iterable[tuple[int, Block]], put: list[int]
    ) -> int:
        rows = 0
        for seq, block in inserts:
            rank = RANK[block.cls]
            upto = put[rank] + block.count
            sealed = self._key.seal(block, seq, upto)
            made = database.execute(
                "INSERT OR IGNORE INTO block VALUES(?, ?, ?, ?, ?)",
                (row_id(block.cls, seq), block.stream, block.first, block.count, sealed),
            )
            if made.rowcount:
                put[rank] = upto
                rows += 1
        return rows

    @staticmethod
    def _delete(database: sqlite3.Connection, cls: BlockClass, span: Span, gone: list[int]) -> int:
        taken = database.execute(
            "DELETE FROM block WHERE id BETWEEN ? AND ? RETURNING count",
            (row_id(cls, span[0]), row_id(cls, span[1])),
        ).fetchall()
        gone[RANK[cls]] += sum(plausible(count) for (count,) in taken)
        return len(taken)

    def _evict(self, database: sqlite3.Connection, eviction: Eviction, gone: list[int], into: Evicted) -> int:
        left = eviction.size
        rows = 0
        for low, high in eviction.spans:
            last = None
            for row in self._rows_of(database, eviction.cls, low, high):
                if left <= 0:
                    break
                last, left = row.seq, left - row.size
                part = into.whole if row.block is not None else into.broken
                part.add(row.count, row.size)
                for stage, kind, reason, count in row.block.losses if row.block is not None else ():
                    key = (stage, kind, reason)
                    into.losses[key] = into.losses.get(key, 0) + count
            if last is not None:
                rows += self._delete(database, eviction.cls, (low, last), gone)
        return rows

    def fetch(self, cls: BlockClass, low: int, high: int, most_bytes: int) -> list[Fetched]:
        """Rows of a class from seq `low` to `high`, oldest first, at least one if there is one; [] is the end."""
        found: list[Fetched] = []
        with translated(self.files.database):
            for row in self._rows_of(self._opened(), cls, low, high):
                found.append(row)
                most_bytes -= row.size
                if most_bytes <= 0:
                    break
        return found

    def _rows_of(
        self, database: sqlite3.Connection, cls: BlockClass, low: int, high: int
    ) -> Iterator[Fetched]:
        before = row_id(cls, low) - 1
        reading = database.execute(
            "SELECT id, stream, first, count, sealed FROM block WHERE id BETWEEN ? AND ? ORDER BY id",
            (before + 1, row_id(cls, min(high, LARGEST_SEQ))),
        )
        with contextlib.closing(reading):
            for row in reading:
                if type(row[0]) is not int or row[0] <= before:
                    raise SpoolCorrupt(f"{self.files.database}: rows out of order")
                before = row[0]
                yield opened_row(self._key, cls, row)

    def tidy(self) -> None:
        """Copy a long log into the file; make a large file small that is empty. Raises as `apply`."""
        database = self._opened()
        with translated(self.files.database):
            if os.path.exists(self.files.wal) and os.path.getsize(self.files.wal) >= LOG_BYTES:
                self._catch_up(database)
                checkpoint(database)
            if not self._rows and database.execute("PRAGMA page_count").fetchone()[0] > SHRINK_PAGES:
                self._catch_up(database)
                database.execute("VACUUM")
                checkpoint(database)

    def rebuild(
        self,
        spans: Mapping[BlockClass, tuple[Span, ...]],
        losses: Losses,
        watched: AbstractSet[tuple[BlockClass, int]],
    ) -> tuple[dict[BlockClass, Totals], set[tuple[BlockClass, int]]]:
        """Another file with the rows of these spans that can be read; the one before is set aside.

        Gives what the new one has, and those of `watched` (class, seq) it has not. Raises StorageError: then the file
        before is still in use, to be read only, or none is open.
        """
        from aegis.agent.outbox.salvage import copy

        database = self._opened()
        missing = set(watched)

        def rows() -> Iterator[tuple[BlockClass, int, Block]]:
            for cls, wanted in spans.items():
                for low, high in wanted:
                    for row in self._readable(database, cls, low, high):
                        missing.discard(row[:2])
                        yield row

        totals = copy(self.files, self._key, rows(), losses)
        self.close()
        self.files.finish()
        self._open()
        return totals, missing

    def _readable(
        self, database: sqlite3.Connection, cls: BlockClass, low: int, high: int
    ) -> Iterator[tuple[BlockClass, int, Block]]:
        from aegis.agent.outbox.salvage import identities, one_row

        for identity in identities(database, row_id(cls, low), row_id(cls, min(high, LARGEST_SEQ))):
            _, opened = one_row(database, self._key, identity)
            if opened is not None:
                yield cls, identity & LARGEST_SEQ, opened[0]

    def written_bytes(self) -> int | None:
        """Bytes the thread of `open` had written to storage, as the kernel counts them. From any thread."""
        try:
            with open(f"/proc/{self._thread}/io", encoding="ascii") as lines:
                return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes:"))
        except (OSError, StopIteration, ValueError):
            return None

    def _write_state(self, database: sqlite3.Connection, state: State) -> None:
        database.execute(
            "INSERT OR REPLACE INTO state VALUES(1, ?)", (self._key.seal_state(msgspec.json.encode(state)),)
        )

    def _opened(self) -> sqlite3.Connection:
        if self._db is None:
            raise StorageError(f"{self.files.database}: not open")
        return self._db

    def close(self) -> None:
        """Let go of the file; its log is copied into it where that can be done."""
        database, self._db = self._db, None
        if database is not None:
            with contextlib.suppress(sqlite3.Error):  # what was committed is in the log
                self._catch_up(database)
                checkpoint(database)
            with contextlib.suppress(sqlite3.Error):
                database.close()
