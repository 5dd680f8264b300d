"""The store on SQLite: one file, one writer, readers beside it (WAL), each a thread with a connection (`worker`).

Readers see a commit at once; who made it hears of it when it is flushed to the disk.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Sequence
from typing import Final

from aegis.errors import StorageError
from aegis.gateway.store import reading, rows
from aegis.gateway.store.appending import Appender, highest_batch, read_totals
from aegis.gateway.store.base import (
    AgentRow,
    Appended,
    Batch,
    Cursor,
    Keep,
    MessageChange,
    MessageRow,
    Page,
    Query,
    Totals,
)
from aegis.gateway.store.items import checked
from aegis.gateway.store.recent import Recent
from aegis.gateway.store.schema import bring_up_to_date
from aegis.gateway.store.worker import Worker

FILE: Final = "gateway.db"
# Numbers of batches that a loss of power may have taken away, since followers were told of them: never given again.
NEVER_AGAIN: Final = 1 << 16


class SqliteStore:
    """Fulfils `store.base.Store`."""

    def __init__(self, directory: str) -> None:
        self._path = os.path.join(directory, FILE)
        self._writer = Worker(self._path, "store-writer", writes=True)
        self._reader = Worker(self._path, "store-reader", writes=False)
        self._light = Worker(self._path, "store-light", writes=False)  # never behind a long query
        self._appender = Appender(self._writer.dialect)
        self._rows = rows.RowStatements(self._writer.dialect)
        self._recent = Recent()
        self._writer.rolled_back = self._appender.forget
        self._open = False

    async def open(self) -> None:
        self._make_private()
        self._open = True
        await self._writer.alone(bring_up_to_date)
        above = await self._light.run(highest_batch) + NEVER_AGAIN
        self._appender.above = above
        self._recent.begin(above)

    def _make_private(self) -> None:
        """The file is made by us, so that its mode is ours from the beginning; SQLite gives its other files the same."""
        try:
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise StorageError(f"{self._path}: {error.strerror}") from error

    async def close(self) -> None:
        if self._open:
            self._open = False
            for worker in (self._reader, self._light, self._writer):  # the last to close tidies the WAL
                await worker.close()

    async def probe(self) -> None:
        await self._writer.run(self._appender.probe)

    async def agents(self) -> list[AgentRow]:
        return await self._light.run(rows.all_agents)

    async def save_agent(self, row: AgentRow) -> None:
        await self._writer.run(lambda connection: self._rows.save_agent(connection, row))

    async def save_seen(self, seen: Iterable[tuple[str, int]]) -> None:
        given = list(seen)
        await self._writer.run(lambda connection: self._rows.save_seen(connection, given))

    def append(self, batches: Sequence[Batch]) -> asyncio.Future[list[Appended]]:
        stored: list[tuple[int, Batch]] = []
        return self._writer.put(
            lambda connection: self._appender.append(connection, batches, stored),
            committed=lambda: self._recent.add(stored),
        )

    async def cursors(self, uid: str) -> list[Cursor]:
        return await self._light.run(lambda connection: rows.agent_cursors(connection, uid))

    async def items(self, query: Query) -> Page:
        normal = checked(query)
        if normal.after is not None:
            page = self._recent.page(normal)
            if page is not None:
                return page
        return await self._reader.run(lambda connection: reading.page(connection, normal))

    async def place(self) -> str:
        return self._recent.place()

    async def more(self, query: Query, within_s: float) -> None:
        await self._recent.wait(checked(query), within_s)

    def stop_waiting(self) -> None:
        self._recent.stop_waiting()

    async def totals(self) -> dict[str, Totals]:
        return await self._light.run(read_totals)

    async def prune(self, now_ns: int, keep: dict[str, Keep], *, most_batches: int) -> int:
        return await self._writer.run(
            lambda connection: self._appender.prune(connection, now_ns, keep, most_batches)
        )

    async def add_messages(self, rows: Sequence[MessageRow]) -> None:
        await self._writer.run(lambda connection: self._rows.add_messages(connection, rows))

    async def change_messages(self, changes: Sequence[MessageChange]) -> None:
        await self._writer.run(lambda connection: self._rows.change_messages(connection, changes))

    async def message(self, message_id: str) -> MessageRow | None:
        return await self._light.run(lambda connection: rows.one_message(connection, message_id))

    async def waiting(self) -> list[MessageRow]:
        return await self._light.run(rows.waiting_messages)

    async def prune_messages(self, before_ns: int, *, most: int) -> int:
        return await self._writer.run(lambda connection: rows.prune_messages(connection, before_ns, most))

    async def save_nonces(self, nonces: Iterable[tuple[bytes, int]], now_s: int) -> None:
        given = list(nonces)
        await self._writer.run(lambda connection: rows.save_nonces(connection, given, now_s))

    async def nonces(self) -> list[tuple[bytes, int]]:
        return await self._light.run(rows.all_nonces)
