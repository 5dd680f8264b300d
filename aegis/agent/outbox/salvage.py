"""Reading what can be read of a damaged file, into a new one.

A damaged page stops a scan, not a search: rows are looked for from both ends of each class, then one by one in the gap
between, and each is opened by itself. Where the tree does not lead to all that the state says there is, they are looked
for page by page too. The first page holds nothing but the names of our two tables, so a damaged one is replaced by a
fresh file's, in a copy. What does not open under its seal is no row.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from aegis.agent.outbox.changes import Losses, State, Totals, flat
from aegis.agent.outbox.database import (
    LARGEST_SEQ,
    PAGE,
    SCHEMA,
    SHIFT,
    checkpoint,
    connect,
    has_our_tables,
    place,
    plausible,
    read_state,
    row_id,
    translated,
)
from aegis.agent.outbox.files import Files
from aegis.agent.outbox.pages import Pages, Spot
from aegis.agent.outbox.rows import CLASSES, RANK, Key, row_bytes
from aegis.errors import SpoolCorrupt, StorageError
from aegis.model.block import Block, BlockClass

MOST_MISSES: Final = 256  # ids looked for in vain, one behind the other, from either end of a gap

Kept = tuple[BlockClass, int, Block]


class Lost(msgspec.Struct, kw_only=True):
    """Records by class that were in the file and could not be read; `uncounted` when that is not all."""

    corrupt: dict[BlockClass, int] = msgspec.field(default_factory=lambda: dict.fromkeys(CLASSES, 0))
    uncounted: bool = False


def salvage(files: Files, key: Key) -> Lost:
    """Put a new file with the rows that can be read in the place of a damaged one. Raises StorageError."""
    with contextlib.ExitStack() as stack:
        found = _opened(files, stack)
        if found is None:
            copy(files, key, (), {})
            lost = Lost(uncounted=True)
        else:
            lost = _copied(files, key, *found)
    files.finish()
    files.discard(files.mended)
    return lost


def _copied(files: Files, key: Key, source: sqlite3.Connection, path: str) -> Lost:
    state = _state(source, key)
    lost = Lost(uncounted=state is None)
    unread = dict.fromkeys(CLASSES, 0)
    upto = dict.fromkeys(CLASSES, 0)
    with contextlib.ExitStack() as stack:
        pages, spots = None, dict[int, Spot]()
        ids = {cls: identities(source, row_id(cls, 1), row_id(cls, LARGEST_SEQ)) for cls in CLASSES}
        if not _leads_to_all(source, state, ids):
            pages, spots = _searched(source, path, key, stack)

        def rows() -> Iterator[Kept]:
            for cls in CLASSES:
                strays = (identity for identity in spots if CLASSES[identity >> SHIFT] is cls)
                for identity in sorted({*ids[cls], *strays}):
                    count, opened = one_row(source, key, identity)
                    if opened is None and pages is not None and identity in spots:
                        stray = pages.row(key, spots[identity])
                        opened = None if stray is None else stray[2:]
                    if opened is None:
                        unread[cls] += count
                    else:
                        upto[cls] = max(upto[cls], opened[1])
                        yield cls, identity & LARGEST_SEQ, opened[0]

        losses = state.told() if state is not None else {}
        totals: dict[BlockClass, Totals] = {}

        def told() -> Losses:
            """Asked for when all rows are read."""
            for cls, rank in RANK.items():
                lost.corrupt[cls] = unread[cls]
                if state is not None:
                    missing = max(state.put[rank], upto[cls]) - state.gone[rank] - totals[cls].records
                    lost.corrupt[cls] = max(0, missing)
                if lost.corrupt[cls]:
                    into = losses.setdefault(cls, {})
                    key_ = ("outbox", cls.value, "corrupt")
                    into[key_] = into.get(key_, 0) + lost.corrupt[cls]
            return losses

        copy(files, key, rows(), told, totals)
    return lost


def _leads_to_all(source: sqlite3.Connection, state: State | None, ids: dict[BlockClass, list[int]]) -> bool:
    """Whether each of these is found by its id, and together they are as many records as the state says."""
    there = dict.fromkeys(CLASSES, 0)
    try:
        for cls, found in ids.items():
            for identity in found:
                row = source.execute("SELECT count FROM block WHERE id = ?", (identity,)).fetchone()
                if row is None:
                    return False
                there[cls] += plausible(row[0])
    except sqlite3.Error:
        return False
    return state is None or all(
        there[cls] == state.put[rank] - state.gone[rank] for cls, rank in RANK.items()
    )


def _searched(
    source: sqlite3.Connection, path: str, key: Key, stack: contextlib.ExitStack
) -> tuple[Pages | None, dict[int, Spot]]:
    """Ids and spots of the rows on all pages; none where the log cannot be copied into them first."""
    try:
        checkpoint(source)
        pages = Pages(path)
        stack.callback(pages.close)
        return pages, {row_id(cls, seq): spot for cls, seq, spot in pages.rows(key)}
    except (sqlite3.Error, OSError, ValueError):
        return None, {}


def _opened(files: Files, stack: contextlib.ExitStack) -> tuple[sqlite3.Connection, str] | None:
    """A copy of the damaged file with a sound first page, or the file itself; None where neither has our tables."""
    problem: StorageError | None = None
    for mend in (True, False):
        path = files.mended if mend else files.database
        try:
            if mend:
                _mend(files)
            with translated(path):
                source = connect(path)
                stack.callback(_closed, source)
                if has_our_tables(source):
                    return source, path
        except SpoolCorrupt:
            continue
        except StorageError as error:  # no room for the copy, for one, is no fault of the file's
            problem = error
    if problem is not None:
        raise problem
    return None


def _closed(source: sqlite3.Connection) -> None:
    with contextlib.suppress(sqlite3.Error):
        source.close()


def _mend(files: Files) -> None:
    """A copy with the first page of a fresh file: sizes and the list of free pages, which reading does not need, as they are."""
    with translated(files.mended):
        files.discard(files.mended)
        files.begin(files.mended)
        made = connect(files.mended)
        with contextlib.closing(made):
            for line in SCHEMA:
                made.execute(line)
            checkpoint(made)
        with open(files.mended, "rb") as fresh:
            first = bytearray(fresh.read(PAGE))
        files.discard(files.mended)
        first[28:32] = (os.path.getsize(files.database) // PAGE).to_bytes(4, "big")
        first[92:96] = first[24:28]  # the size is valid for this change
        with open(files.database, "rb") as damaged:
            head = damaged.read(40)
        first[32:40] = head[32:].ljust(8, b"\0")
        files.begin(files.mended)
        shutil.copyfile(files.database, files.mended)
        with open(files.mended, "r+b") as copied:
            copied.write(first)
        if os.path.exists(files.wal):
            shutil.copyfile(files.wal, f"{files.mended}-wal")


def copy(
    files: Files,
    key: Key,
    rows: Iterable[Kept],
    losses: Any,
    totals: dict[BlockClass, Totals] | None = None,
) -> dict[BlockClass, Totals]:
    """Make the successor `part` of these rows. `losses` may be a call, made behind the last row. Raises StorageError."""
    totals = {} if totals is None else totals
    totals.update({cls: Totals() for cls in CLASSES})
    files.discard(files.part)
    try:
        with translated(files.part):
            files.begin(files.part)
        with translated(files.part), contextlib.closing(connect(files.part)) as made:
            made.execute("BEGIN")
            for line in SCHEMA:
                made.execute(line)
            for cls, seq, block in rows:
                one = totals[cls]
                sealed = key.seal(block, seq, one.records + block.count)
                made.execute(
                    "INSERT INTO block VALUES(?, ?, ?, ?, ?)",
                    (row_id(cls, seq), block.stream, block.first, block.count, sealed),
                )
                one.add(block.count, row_bytes(len(sealed)))
            told: Losses = losses() if callable(losses) else losses
            state = State(put=[totals[cls].records for cls in CLASSES], losses=flat(told))
            made.execute("INSERT INTO state VALUES(1, ?)", (key.seal_state(msgspec.json.encode(state)),))
            made.execute("COMMIT")
            checkpoint(made)
    except BaseException:
        files.discard(files.part)
        raise
    return totals


def identities(database: sqlite3.Connection, low: int, high: int) -> list[int]:
    """Ids of rows from `low` to `high` that can be found, ascending, whatever is damaged between them."""
    front, whole = _scan(database, low, high, "ASC")
    if whole:
        return front
    last = front[-1] if front else low - 1
    back, _ = _scan(database, last + 1, high, "DESC")
    end = back[-1] if back else high + 1
    up = _found(database, range(last + 1, end))
    down = _found(database, range(end - 1, up[-1] if up else last, -1)) if back else []
    return [*front, *up, *reversed(down), *reversed(back)]


def _found(database: sqlite3.Connection, numbers: range) -> list[int]:
    """Those of the ids that are there, until too many in a row are not."""
    found: list[int] = []
    misses = 0
    for number in numbers:
        if _is_there(database, number):
            found.append(number)
            misses = 0
        else:
            misses += 1
            if misses >= MOST_MISSES:
                break
    return found


def _scan(database: sqlite3.Connection, low: int, high: int, order: str) -> tuple[list[int], bool]:
    """Ids in order until the damage, and whether there was none."""
    found: list[int] = []
    try:
        reading = database.execute(
            f"SELECT id FROM block WHERE id BETWEEN ? AND ? ORDER BY id {order}",  # noqa: S608  ASC or DESC
            (low, high),
        )
        with contextlib.closing(reading):
            for (identity,) in reading:
                after = low - 1 if not found else found[-1]
                in_order = identity > after if order == "ASC" else not found or identity < found[-1]
                if place(identity) is None or not low <= identity <= high or not in_order:
                    return found, False
                found.append(identity)
    except sqlite3.Error:
        return found, False
    return found, True


def _is_there(database: sqlite3.Connection, identity: int) -> bool:
    try:
        found: object = database.execute("SELECT id FROM block WHERE id = ?", (identity,)).fetchone()
        return found == (identity,)
    except sqlite3.Error:
        return False


def one_row(database: sqlite3.Connection, key: Key, identity: int) -> tuple[int, tuple[Block, int] | None]:
    """The count a row says, and its block with `upto`, None where that does not open."""
    found = place(identity)
    assert found is not None
    count: object = None
    try:
        row = database.execute("SELECT stream, first, count FROM block WHERE id = ?", (identity,)).fetchone()
        sealed = database.execute("SELECT sealed FROM block WHERE id = ?", (identity,)).fetchone()
        if row is None or sealed is None:
            return 1, None
        stream, first, count = row
        if type(stream) is int and type(first) is int and type(sealed[0]) is bytes:
            return plausible(count), key.open(*found, stream, first, sealed[0])
    except (sqlite3.Error, SpoolCorrupt):
        pass
    return plausible(count), None


def _state(database: sqlite3.Connection, key: Key) -> State | None:
    try:
        return read_state(database, key)
    except sqlite3.Error:
        return None
