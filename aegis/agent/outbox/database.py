"""The database file: how it is opened, how a row is found and read, and SQLite's errors as ours."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from aegis.agent.outbox.changes import Fetched, State
from aegis.agent.outbox.rows import CLASSES, RANK, Key, row_bytes
from aegis.errors import SpoolCorrupt, SpoolFull, SpoolUncertain, StorageError
from aegis.model.block import BlockClass

SHIFT: Final = 56
LARGEST_SEQ: Final = (1 << SHIFT) - 1
LOG_BYTES: Final = 4 << 20  # the log is copied into the file when it has grown to this
PAGE: Final = 4096
SCHEMA: Final = (
    (
        "CREATE TABLE IF NOT EXISTS block("
        "id INTEGER PRIMARY KEY, stream INTEGER NOT NULL, first INTEGER NOT NULL, count INTEGER NOT NULL, sealed BLOB NOT NULL)"
    ),
    "CREATE TABLE IF NOT EXISTS state(id INTEGER PRIMARY KEY, content BLOB NOT NULL)",
)
_MADE = ((b"block", 2, SCHEMA[0]), (b"state", 3, SCHEMA[1]))
_FULL = {sqlite3.SQLITE_FULL}
_CORRUPT = {  # SQLITE_ERROR too: our statements are right, so it is the file that is not
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_TOOBIG,
    sqlite3.SQLITE_ERROR,
}
_UNCERTAIN = {sqlite3.SQLITE_IOERR}
_MOST_COUNT = 1 << 20  # no row has more records


@contextlib.contextmanager
def translated(path: str) -> Iterator[None]:
    """SQLite's errors as ours, by their codes."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(
            error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT
        )  # text that does not decode has none
        kind = (
            SpoolFull
            if code & 0xFF in _FULL
            else SpoolCorrupt
            if code & 0xFF in _CORRUPT
            else SpoolUncertain
            if code & 0xFF in _UNCERTAIN
            else StorageError
        )
        name = getattr(error, "sqlite_errorname", type(error).__name__)
        raise kind(f"{path}: {error} ({name})") from error
    except UnicodeDecodeError as error:  # of a message that quotes the file
        raise SpoolCorrupt(f"{path}: names that are no text") from error
    except MemoryError as error:
        raise StorageError(f"{path}: no memory") from error
    except OSError as error:
        raise StorageError(f"{error.filename or path}: {error.strerror}") from error


def connect(path: str, *, synchronous: str = "FULL") -> sqlite3.Connection:
    """A database, with the lock on it held until it is closed. Raises sqlite3.Error."""
    made = sqlite3.connect(path, timeout=0.0, isolation_level=None)
    try:
        made.text_factory = bytes
        # The index of the log stays in memory: a mapped file on a full or broken disk is a SIGBUS.
        made.execute("PRAGMA locking_mode=EXCLUSIVE")
        made.execute("PRAGMA temp_store=MEMORY")
        made.execute("PRAGMA cell_size_check=ON")
        made.execute("PRAGMA cache_size=-512")
        _give_log(made, path)
        made.execute(f"PRAGMA synchronous={synchronous}")
        made.execute("PRAGMA secure_delete=OFF")  # rows are sealed
        made.execute("PRAGMA wal_autocheckpoint=0")
        made.execute(f"PRAGMA journal_size_limit={LOG_BYTES}")
    except BaseException:
        made.close()
        raise
    return made


def _give_log(database: sqlite3.Connection, path: str) -> None:
    """Raises SpoolCorrupt where the file's own header says that it may not be written: it could be opened for that."""
    try:
        mode = database.execute("PRAGMA journal_mode=WAL").fetchone()
        database.execute("BEGIN IMMEDIATE")  # which alone does not say so
        database.execute("PRAGMA user_version=0")
        database.execute("ROLLBACK")
    except sqlite3.Error as error:
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_READONLY:
            raise
        mode = None
    if mode != (b"wal",):
        raise SpoolCorrupt(f"{path}: cannot be given a log")


def has_tables(database: sqlite3.Connection) -> bool:
    """Whether the file has any table at all. Raises sqlite3.Error."""
    return database.execute("SELECT 1 FROM sqlite_schema").fetchone() is not None


def has_our_tables(database: sqlite3.Connection) -> bool:
    """Whether the tables are ours, at their places, word by word. Raises sqlite3.Error."""
    found = database.execute("SELECT name, rootpage, sql FROM sqlite_schema").fetchall()
    return found == [(name, root, sql.replace("IF NOT EXISTS ", "").encode()) for name, root, sql in _MADE]


def row_id(cls: BlockClass, seq: int) -> int:
    return RANK[cls] << SHIFT | seq


def place(identity: object) -> tuple[BlockClass, int] | None:
    """Class and seq of an id; None for one that no row has."""
    if type(identity) is not int or not 0 < identity < len(CLASSES) << SHIFT or not identity & LARGEST_SEQ:
        return None
    return CLASSES[identity >> SHIFT], identity & LARGEST_SEQ


def checkpoint(database: sqlite3.Connection) -> None:
    """Copy the log into the file, flush, and begin the log again. Raises sqlite3.Error."""
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def plausible(count: Any) -> int:
    """The count a row says; 1 where it says what none has."""
    return count if type(count) is int and 0 < count <= _MOST_COUNT else 1


def opened_row(key: Key, cls: BlockClass, row: tuple[Any, ...]) -> Fetched:
    """A row as read: id, stream, first, count, sealed."""
    identity, stream, first, count, sealed = row
    size = row_bytes(len(sealed) if isinstance(sealed, bytes) else 0)
    try:
        if type(stream) is not int or type(first) is not int or type(sealed) is not bytes:
            raise SpoolCorrupt("a row of other types")
        block, _ = key.open(cls, identity & LARGEST_SEQ, stream, first, sealed)
    except SpoolCorrupt:
        return Fetched(identity & LARGEST_SEQ, plausible(count), size, None)
    return Fetched(identity & LARGEST_SEQ, block.count, size, block)


def last_upto(database: sqlite3.Connection, key: Key, cls: BlockClass) -> int:
    """Records of a class ever put in, by its last row that opens and what stands behind that; 0 without one."""
    behind = 0
    reading = database.execute(
        "SELECT id, stream, first, count, sealed FROM block WHERE id BETWEEN ? AND ? ORDER BY id DESC",
        (row_id(cls, 1), row_id(cls, LARGEST_SEQ)),
    )
    with contextlib.closing(reading):
        for identity, stream, first, count, sealed in reading:
            try:
                if type(stream) is int and type(first) is int and type(sealed) is bytes:
                    return key.open(cls, identity & LARGEST_SEQ, stream, first, sealed)[1] + behind
            except SpoolCorrupt:
                pass
            behind += plausible(count)
    return 0


def read_state(database: sqlite3.Connection, key: Key) -> State | None:
    """None where there is none that opens."""
    row = database.execute("SELECT content FROM state WHERE id = 1").fetchone()
    if row is None or type(row[0]) is not bytes:
        return None
    try:
        return msgspec.json.decode(key.open_state(row[0]), type=State)
    except (SpoolCorrupt, msgspec.DecodeError):
        return None
