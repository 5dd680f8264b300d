"""A thread with a connection: what waits together is committed together, and what fails fails alone."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from aegis.errors import QueryInvalid, StorageError
from aegis.gateway.store.worker import Worker

Call = Callable[[sa.Connection], Any]


def insert(number: int) -> Call:
    def call(connection: sa.Connection) -> None:
        connection.exec_driver_sql("INSERT INTO numbers VALUES (?)", (number,))

    return call


def numbers(connection: sa.Connection) -> list[int]:
    return [row[0] for row in connection.exec_driver_sql("SELECT number FROM numbers ORDER BY number")]


def wrong(connection: sa.Connection) -> None:
    connection.exec_driver_sql("INSERT INTO nowhere VALUES (1)")


def refused(_connection: sa.Connection) -> None:
    raise QueryInvalid("of another store")


@pytest.fixture
def path(tmp_path: Path) -> str:
    with sqlite3.connect(tmp_path / "numbers.db") as made:
        made.execute("CREATE TABLE numbers (number INTEGER PRIMARY KEY)")
    made.close()
    return str(tmp_path / "numbers.db")


@pytest.fixture
async def writer(path: str) -> AsyncIterator[Worker]:
    worker = Worker(path, "writer", writes=True)
    yield worker
    await worker.close()


class Held:
    """Keeps the thread busy, so that what is put meanwhile waits together."""

    def __init__(self, worker: Worker) -> None:
        self._go = threading.Event()
        self._busy = worker.put(lambda _connection: self._go.wait(10), alone=True)

    async def let_go(self, *waiting: asyncio.Future[Any]) -> list[Any]:
        self._go.set()
        assert await self._busy
        return await asyncio.gather(*waiting, return_exceptions=True)


def begins(worker: Worker) -> list[str]:
    """A list that grows by one with each transaction."""
    noted: list[str] = []
    sa.event.listen(worker._engine, "begin", lambda _connection: noted.append("begin"))
    return noted


async def test_writes_that_wait_together_share_a_commit(writer: Worker) -> None:
    noted = begins(writer)
    held = Held(writer)
    assert await held.let_go(*(writer.put(insert(number)) for number in range(200))) == [None] * 200
    assert noted == ["begin"]
    assert await writer.run(numbers) == list(range(200))


@pytest.mark.parametrize("bad", [wrong, refused])
async def test_one_that_fails_does_not_fail_the_others(writer: Worker, bad: Call) -> None:
    held = Held(writer)
    first, failed, second = await held.let_go(*map(writer.put, (insert(1), bad, insert(2))))
    assert (first, second) == (None, None)
    assert isinstance(failed, StorageError if bad is wrong else QueryInvalid)
    assert await writer.run(numbers) == [1, 2]


@pytest.mark.parametrize("bad", [wrong, refused])
async def test_of_a_job_that_failed_nothing_stays(writer: Worker, bad: Call) -> None:
    told: list[str] = []
    writer.rolled_back = lambda: told.append("rolled back")

    def half(connection: sa.Connection) -> None:
        insert(1)(connection)
        bad(connection)

    with pytest.raises((StorageError, QueryInvalid), match=r"nowhere|another store"):
        await writer.run(half)
    assert told == ["rolled back"]
    assert await writer.run(numbers) == []


async def test_who_waits_no_more_gets_nothing_and_stops_nobody(writer: Worker) -> None:
    held = Held(writer)
    gone, there = writer.put(insert(1)), writer.put(insert(2))
    gone.cancel()
    assert [await held.let_go(there), await writer.run(numbers)] == [[None], [2]]


async def test_committed_is_told_of_before_the_result(writer: Worker) -> None:
    told: list[str] = []
    done = writer.put(insert(1), committed=lambda: told.append("committed"))
    done.add_done_callback(lambda _: told.append("done"))
    await done
    await asyncio.sleep(0)
    assert told == ["committed", "done"]
    with pytest.raises(StorageError):
        await writer.put(wrong, committed=lambda: told.append("never"))
    assert "never" not in told


async def test_a_reader_cannot_write_and_sees_what_is_committed(path: str, writer: Worker) -> None:
    reader = Worker(path, "reader", writes=False)
    await writer.run(insert(1))
    assert await reader.run(numbers) == [1]
    with pytest.raises(StorageError, match="readonly"):
        await reader.run(insert(2))
    await reader.close()


async def test_what_was_put_is_done_before_the_close_and_nothing_after_it(path: str) -> None:
    worker = Worker(path, "writer", writes=True)
    held = Held(worker)
    waiting = worker.put(insert(1))
    closing = asyncio.create_task(worker.close())
    await asyncio.sleep(0)
    await held.let_go(waiting)
    await closing
    with pytest.raises(StorageError, match="closed"):
        await worker.run(insert(2))
    left = sqlite3.connect(path)
    assert left.execute("SELECT number FROM numbers").fetchall() == [(1,)]
    left.close()


@pytest.mark.parametrize(
    ("code", "hint"), [("SQLITE_FULL", "full"), ("SQLITE_NOTADB", "backup"), ("SQLITE_BUSY", None)]
)
async def test_an_error_of_the_driver_is_translated(writer: Worker, code: str, hint: str | None) -> None:
    def fail(_connection: sa.Connection) -> None:
        error = sqlite3.OperationalError("as the driver says it")
        error.sqlite_errorname = code
        raise error

    with pytest.raises(StorageError, match="as the driver says it") as caught:
        await writer.alone(fail)
    assert (caught.value.hint is None) == (hint is None)
    assert (hint or "") in (caught.value.hint or "")
