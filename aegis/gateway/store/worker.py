"""A thread with a connection to SQLite of its own, and what is put to it.

It takes everything that was asked for while it was busy into one transaction (`offload.Gatherer`): alone, a write is
committed at once; under load one flush counts for all. What was committed is done when it is flushed to the disk
(`durable`).
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from aegis.errors import AegisError, StorageError
from aegis.gateway.store.durable import Durable
from aegis.runtime.offload import Gatherer

R = TypeVar("R")
PAGE_BYTES: Final = 8192  # most rows are batches of some ten KiB
CHECKPOINT_PAGES: Final = (16 << 20) // PAGE_BYTES
BUSY_MS: Final = 5000
_CLOSE_S: Final = 3.0
WRITER_PRAGMAS: Final = (
    f"page_size = {PAGE_BYTES}",  # of a new file
    "journal_mode = WAL",
    "synchronous = FULL",
    f"wal_autocheckpoint = {CHECKPOINT_PAGES}",
    f"journal_size_limit = {32 << 20}",
    "foreign_keys = ON",
    "cache_size = -8192",
    "temp_store = MEMORY",
)
READER_PRAGMAS: Final = ("query_only = ON", "cache_size = -4096", "temp_store = MEMORY")


class _Job:
    """A call, and the future on the loop that its result goes to. No call: the connection is closed."""

    __slots__ = ("alone", "call", "committed", "error", "future", "result")

    def __init__(
        self,
        call: Callable[[sa.Connection], Any] | None,
        future: asyncio.Future[Any],
        *,
        alone: bool,
        committed: Callable[[], None] | None = None,
    ) -> None:
        self.call = call
        self.future = future
        self.alone = alone
        self.committed = (
            committed  # called on the loop, before the flush and also where nobody waits any more
        )
        self.result: Any = None
        self.error: BaseException | None = None


class Worker:
    """A thread with a connection of its own; jobs that wait together share a transaction."""

    def __init__(self, path: str, name: str, *, writes: bool) -> None:
        self._path = path
        self._name = name
        self._writes = writes
        self._durable = Durable(path)
        self._engine = sa.create_engine("sqlite://", creator=self._connect, poolclass=NullPool)
        sa.event.listen(self._engine, "begin", self._begin)
        self.dialect = self._engine.dialect
        self.rolled_back: Callable[[], None] = _nothing
        self._connection: sa.Connection | None = None
        self._thread: Gatherer[_Job] | None = None
        self._closed = False

    async def run(self, call: Callable[[sa.Connection], R]) -> R:
        """The result of `call`, once it is committed. Raises StorageError, or what the call raised of ours."""
        return await self.put(call)

    async def alone(self, call: Callable[[sa.Connection], R]) -> R:
        """The same outside any transaction: the call makes its own."""
        return await self.put(call, alone=True)

    def put(
        self,
        call: Callable[[sa.Connection], R],
        *,
        alone: bool = False,
        committed: Callable[[], None] | None = None,
    ) -> asyncio.Future[R]:
        """As `run`; the thread has it when this returns."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        if self._closed:
            future.set_exception(StorageError("the store is closed"))
            return future
        if self._thread is None:
            self._thread = Gatherer(self._work, self._name)
        self._thread.put(_Job(call, future, alone=alone, committed=committed))
        return future

    async def close(self) -> None:
        """What was put is done first; a thread that hangs in the kernel is left behind after some seconds."""
        self._closed = True
        if self._thread is None:
            return
        thread, self._thread = self._thread, None
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        thread.put(_Job(None, future, alone=True))
        thread.close()
        try:
            await asyncio.wait_for(future, _CLOSE_S)
        except TimeoutError:
            return
        thread.join(_CLOSE_S)

    # On the thread

    def _connect(self) -> sqlite3.Connection:
        mode = "rw" if self._writes else "ro"
        quoted = self._path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
        made = sqlite3.connect(
            f"file:{quoted}?mode={mode}",
            uri=True,
            isolation_level=None,
            timeout=BUSY_MS / 1000,
            check_same_thread=False,
            cached_statements=64,
        )
        for pragma in WRITER_PRAGMAS if self._writes else READER_PRAGMAS:
            made.execute(f"PRAGMA {pragma}")
        if self._writes and made.execute("PRAGMA journal_mode").fetchone() == ("wal",):
            made.execute("PRAGMA synchronous = NORMAL")  # by us then
        return made

    def _begin(self, connection: sa.Connection) -> None:
        # Past SQLAlchemy, which does as much for it as for a statement with a result.
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.execute("BEGIN IMMEDIATE" if self._writes else "BEGIN")

    def _disconnect(self) -> None:
        self._drop()
        self._engine.dispose()

    def _work(self, jobs: list[_Job]) -> None:
        done = [job for job in jobs if not job.future.cancelled()]
        if not done:
            return
        loop = done[0].future.get_loop()
        try:
            self._make(done)
            if self._writes:
                self._flush(done, loop)
            loop.call_soon_threadsafe(_settle, done)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return

    def _make(self, jobs: list[_Job]) -> None:
        try:
            self._durable.mend()
        except StorageError as error:
            for job in jobs:
                job.error = error if job.call is not None else None  # it can be closed all the same
        together = [job for job in jobs if not job.alone and job.error is None]
        if together:
            self._commit(together)
        for job in jobs:
            if job.alone and job.error is None:
                self._one(job)

    def _flush(self, jobs: list[_Job], loop: asyncio.AbstractEventLoop) -> None:
        """What was committed is told of, and then flushed: only behind that it counts as kept."""
        kept = [job for job in jobs if job.error is None and job.call is not None]
        if not kept:
            return
        tell = [job.committed for job in kept if job.committed is not None]
        if tell:
            loop.call_soon_threadsafe(_tell, tell)
        try:
            self._durable.sync()
        except StorageError as error:
            for job in kept:
                job.error = error

    def _commit(self, jobs: list[_Job]) -> None:
        """All in one transaction; where it cannot be, each in its own, so that one does not fail for another."""
        error = self._attempt(jobs)
        if error is None:
            return
        if len(jobs) == 1:
            jobs[0].error = error
            return
        for job in jobs:
            job.error = self._attempt([job])

    def _attempt(self, jobs: list[_Job]) -> BaseException | None:
        try:
            if self._connection is None:
                self._connection = self._engine.connect()
            with self._connection.begin():
                for job in jobs:
                    assert job.call is not None
                    job.result = job.call(self._connection)
        except AegisError as error:
            self.rolled_back()
            return error
        except (sa.exc.SQLAlchemyError, sqlite3.Error, OSError, OverflowError) as error:
            self._drop()
            return _translated(error)
        except BaseException as error:  # noqa: BLE001  it is raised where it is waited for
            self._drop()
            return error
        return None

    def _one(self, job: _Job) -> None:
        if job.call is None:
            self._disconnect()
            return
        try:
            if self._connection is None:
                self._connection = self._engine.connect()
            job.result = job.call(self._connection)
        except (sa.exc.SQLAlchemyError, sqlite3.Error, OSError) as error:
            self._drop()
            job.error = _translated(error)
        except BaseException as error:  # noqa: BLE001  as above
            self._drop()
            job.error = error

    def _drop(self) -> None:
        """After an error of the driver the next job begins with a fresh connection."""
        self.rolled_back()
        self._durable.forget()
        if self._connection is not None:
            connection, self._connection = self._connection, None
            try:
                connection.close()
            except (sa.exc.SQLAlchemyError, sqlite3.Error):
                return


def _tell(committed: list[Callable[[], None]]) -> None:
    for call in committed:
        call()


def _settle(jobs: list[_Job]) -> None:
    for job in jobs:
        if job.future.cancelled():
            continue
        if job.error is not None:
            job.future.set_exception(job.error)
        else:
            job.future.set_result(job.result)


def _translated(error: BaseException) -> StorageError:
    cause = getattr(error, "orig", None) or error
    hint = None
    code = getattr(cause, "sqlite_errorname", "")
    if code.startswith("SQLITE_FULL"):
        hint = "the disk of the data directory is full"
    elif code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        hint = "move the database aside, or restore it from a backup"
    made = StorageError(f"the gateway's database: {cause}", hint=hint)
    made.__cause__ = error
    return made


def _nothing() -> None:
    return
