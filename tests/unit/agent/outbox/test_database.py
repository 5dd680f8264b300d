"""The file: its tables, places of rows, what a row is read as, and SQLite's errors as ours."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from aegis.agent.outbox import database
from aegis.agent.outbox.changes import State
from aegis.agent.outbox.database import LARGEST_SEQ, SCHEMA, connect, opened_row, place, row_id, translated
from aegis.agent.outbox.rows import CLASSES, Key, row_bytes
from aegis.errors import SpoolCorrupt, SpoolFull, SpoolUncertain, StorageError
from aegis.model.block import Block, BlockClass

EVENT, FLOW = BlockClass.EVENT, BlockClass.FLOW
KEY = Key(bytes(32))


def block(first: int, count: int = 10) -> Block:
    return Block(cls=EVENT, stream=1, first=first, count=count, boot_id=bytes(16), base_ns=0, records=b"r")


def made(path: Path) -> sqlite3.Connection:
    file = connect(str(path))
    for statement in SCHEMA:
        file.execute(statement)
    return file


def put(file: sqlite3.Connection, seq: int, upto: int, *, count: object = 10, sealed: object = None) -> None:
    whole = KEY.seal(block(10 * seq), seq, upto) if sealed is None else sealed
    file.execute("INSERT INTO block VALUES(?, 1, ?, ?, ?)", (row_id(EVENT, seq), 10 * seq, count, whole))


def row(file: sqlite3.Connection, seq: int) -> tuple[Any, ...]:
    found: tuple[Any, ...] = file.execute(
        "SELECT * FROM block WHERE id = ?", (row_id(EVENT, seq),)
    ).fetchone()
    return found


# ---- places


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("seq", [1, 2, LARGEST_SEQ])
def test_a_place_is_one_rows_alone(cls: BlockClass, seq: int) -> None:
    assert place(row_id(cls, seq)) == (cls, seq)
    assert 0 < row_id(cls, seq) < 1 << 63


def test_rows_of_a_class_stand_together_in_their_order() -> None:
    ids = [row_id(cls, seq) for cls in CLASSES for seq in (1, 5, LARGEST_SEQ)]
    assert ids == sorted(ids)


@pytest.mark.parametrize(
    "identity", [0, -1, row_id(FLOW, 0), len(CLASSES) << 56, (len(CLASSES) << 56) + 1, 1.0, "1", None, True]
)
def test_what_no_row_has_for_an_id_is_no_place(identity: object) -> None:
    assert place(identity) is None


# ---- rows


def test_a_row_is_read_as_the_block_it_holds(tmp_path: Path) -> None:
    with closing(made(tmp_path / "f")) as file:
        put(file, 3, 30)
        found = opened_row(KEY, EVENT, row(file, 3))
    assert (found.seq, found.count, found.block) == (3, 10, block(30))
    assert found.size == row_bytes(len(KEY.seal(block(30), 3, 30)))


@pytest.mark.parametrize(
    "change",
    [
        {1: 2},
        {1: "1"},
        {2: 31},
        {2: None},
        {4: b""},
        {4: "text"},
        {4: None},
        {4: bytes(200)},
        {0: row_id(EVENT, 4)},
    ],
)
def test_a_row_that_was_changed_opens_as_none_and_is_counted(
    tmp_path: Path, change: dict[int, object]
) -> None:
    with closing(made(tmp_path / "f")) as file:
        put(file, 3, 30)
        values = list(row(file, 3))
    for at, value in change.items():
        values[at] = value
    found = opened_row(KEY, EVENT, tuple(values))
    assert (found.block, found.count) == (None, 10)


@pytest.mark.parametrize(
    ("count", "taken"), [(5, 5), (0, 1), (-3, 1), (1 << 40, 1), ("5", 1), (None, 1), (2.0, 1)]
)
def test_a_count_that_no_row_has_counts_as_one(count: object, taken: int) -> None:
    found = opened_row(KEY, EVENT, (row_id(EVENT, 1), 1, 0, count, b"x" * 100))
    assert (found.block, found.count) == (None, taken)


def test_the_records_ever_put_in_are_those_up_to_the_last_row_that_opens_and_behind_it(
    tmp_path: Path,
) -> None:
    with closing(made(tmp_path / "f")) as file:
        assert database.last_upto(file, KEY, EVENT) == 0
        put(file, 1, 110)
        put(file, 2, 120)
        assert database.last_upto(file, KEY, EVENT) == 120
        assert database.last_upto(file, KEY, FLOW) == 0
        put(file, 3, 0, count=7, sealed=bytes(200))
        put(file, 4, 0, count="much", sealed="text")
        assert database.last_upto(file, KEY, EVENT) == 120 + 7 + 1


# ---- state


def test_a_state_that_does_not_open_is_none(tmp_path: Path) -> None:
    state = State(losses=[(EVENT, "ring", "exec", "full", 3)])
    with closing(made(tmp_path / "f")) as file:
        assert database.read_state(file, KEY) is None
        for content, found in (
            (KEY.seal_state(database.msgspec.json.encode(state)), state),
            (KEY.seal_state(b"{"), None),
            (Key(b"k" * 32).seal_state(b"{}"), None),
            ("text" * 100, None),
            (7, None),
        ):
            file.execute("INSERT OR REPLACE INTO state VALUES(1, ?)", (content,))
            assert database.read_state(file, KEY) == found


# ---- the file


def test_tables_are_ours_word_by_word_or_not(tmp_path: Path) -> None:
    with closing(connect(str(tmp_path / "f"))) as file:
        assert not database.has_tables(file)
        assert not database.has_our_tables(file)
    with closing(made(tmp_path / "g")) as file:
        assert database.has_tables(file)
        assert database.has_our_tables(file)
        file.execute("CREATE TABLE other(id)")
        assert not database.has_our_tables(file)
    with closing(connect(str(tmp_path / "h"))) as file:
        file.execute(SCHEMA[0].replace("NOT NULL, sealed", "NOT NULL DEFAULT 1, sealed"))
        file.execute(SCHEMA[1])
        assert database.has_tables(file)
        assert not database.has_our_tables(file)


def test_a_file_has_one_owner_at_a_time_a_log_and_full_flushes(tmp_path: Path) -> None:
    with closing(made(tmp_path / "f")) as file:
        assert file.execute("PRAGMA journal_mode").fetchone() == (b"wal",)
        assert file.execute("PRAGMA synchronous").fetchone() == (2,)
        put(file, 1, 10)
        with pytest.raises(StorageError, match="locked") as raised, translated("f"):
            connect(str(tmp_path / "f"))
        assert type(raised.value) is StorageError
        assert not (tmp_path / "f-shm").exists()  # a mapped file on a broken disk would be a SIGBUS


def test_the_log_is_copied_into_the_file_and_begun_again(tmp_path: Path) -> None:
    with closing(made(tmp_path / "f")) as file:
        put(file, 1, 10, sealed=os.urandom(1 << 16))
        before = (tmp_path / "f").stat().st_size
        assert (tmp_path / "f-wal").stat().st_size > 1 << 16
        database.checkpoint(file)
        assert (tmp_path / "f-wal").stat().st_size == 0
        assert (tmp_path / "f").stat().st_size > before + (1 << 15)


def test_a_file_whose_header_forbids_writing_is_corrupt(tmp_path: Path) -> None:
    with closing(made(tmp_path / "f")) as file:
        put(file, 1, 10)
        database.checkpoint(file)
    with (tmp_path / "f").open("r+b") as raw:
        raw.seek(18)
        raw.write(b"\x09")  # the version that may write; any may read
    with pytest.raises(SpoolCorrupt), translated("f"):
        connect(str(tmp_path / "f"))


# ---- errors


def of_code(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("it says")
    error.sqlite_errorcode, error.sqlite_errorname = code, f"SQLITE_{code}"
    return error


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (of_code(sqlite3.SQLITE_FULL), SpoolFull),
        (of_code(sqlite3.SQLITE_CORRUPT), SpoolCorrupt),
        (of_code(sqlite3.SQLITE_NOTADB), SpoolCorrupt),
        (of_code(sqlite3.SQLITE_CORRUPT | 2 << 8), SpoolCorrupt),
        (of_code(sqlite3.SQLITE_ERROR), SpoolCorrupt),
        (of_code(sqlite3.SQLITE_IOERR), SpoolUncertain),
        (of_code(sqlite3.SQLITE_IOERR_FSYNC), SpoolUncertain),
        (of_code(sqlite3.SQLITE_BUSY), StorageError),
        (of_code(sqlite3.SQLITE_READONLY), StorageError),
        (sqlite3.OperationalError("Could not decode to UTF-8"), SpoolCorrupt),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x"), SpoolCorrupt),
        (MemoryError(), StorageError),
        (PermissionError(13, "Permission denied", "/elsewhere"), StorageError),
    ],
)
def test_each_failure_is_the_kind_that_says_what_is_known_of_the_file(
    raised: BaseException, kind: type[StorageError]
) -> None:
    with pytest.raises(StorageError) as told, translated("the file"):
        raise raised
    assert type(told.value) is kind
    assert str(told.value).startswith("/elsewhere" if isinstance(raised, PermissionError) else "the file")
