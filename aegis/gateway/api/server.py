"""uvicorn on the gateway's own loop and socket: no signal handlers, no log of its own, deadlines on slow clients."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from aegis.gateway.api.app import Application
from aegis.runtime.log import logger

MOST_CONNECTIONS = 256
LONGEST_HEAD = 16 << 10  # bytes of request line and headers
REQUEST_DEADLINE_S = 30.0  # from the connection, or the end of the answer before, to the end of a request
KEEP_ALIVE_S = 15
UNREAD_S = 30.0  # how long a client may leave an answer unread
STOP_WITHIN_S = 1.0

_log = logger(part="actions_api")


class _ToOurLog(logging.Handler):
    """uvicorn's errors as lines of ours. What it says of bad requests is not passed on: a client could fill the disk."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, asyncio.CancelledError):  # a request that the end of the server cut short
            _log.error("http server", text=record.getMessage().strip(), error=error)


def _take_over_log() -> None:
    log = logging.getLogger("uvicorn")
    log.propagate = False
    log.setLevel(logging.ERROR)
    log.handlers = [_ToOurLog(logging.ERROR)]


class Impatient(H11Protocol):
    """Closes a connection that has not sent a whole request by its deadline, or does not read its answer.

    So half a header, half a body or a full receive window hold a place for half a minute at most.
    """

    _deadline: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        self._read()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._unread is None:
            self._unread = self.loop.call_later(UNREAD_S, self.transport.abort)

    def resume_writing(self) -> None:
        self._read()
        super().resume_writing()

    def _read(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _wait(self) -> None:
        self._forget()
        if not self.transport.is_closing():
            self._deadline = self.loop.call_later(REQUEST_DEADLINE_S, self._late)

    def _forget(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        cycle: Any = self.cycle  # None before the first request, whatever its annotation says
        if cycle is None or cycle.response_complete or cycle.more_body:
            self.transport.abort()


class _Server(uvicorn.Server):
    """Ends as soon as it is told to, and leaves the signals to the process."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.told = asyncio.Event()
        self.up = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        """As uvicorn's, which looks ten times a second; the Date header wants one."""
        self.up.set()
        while not await self.on_tick(0):
            try:
                async with asyncio.timeout(1.0):
                    await self.told.wait()
            except TimeoutError:
                continue

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Requests under way are given a second; uvicorn's own way looks every 100 ms and waits for idle clients."""
        for server in self.servers:
            server.close()
        for one in sockets or ():
            one.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        if self.server_state.tasks:
            _, late = await asyncio.wait(set(self.server_state.tasks), timeout=STOP_WITHIN_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        for server in self.servers:
            await server.wait_closed()

    def stop(self) -> None:
        self.should_exit = True
        self.told.set()


@asynccontextmanager
async def serve(
    app: Application, sock: socket.socket, *, ssl: ssl.SSLContext | None = None
) -> AsyncIterator[None]:
    """Answer on a listening socket while the block runs. The socket is the server's from here on: it is closed at the end.

    Requests under way are given a second at the end, waits end at once.
    """
    config = uvicorn.Config(
        app,
        http=Impatient,
        ws="none",
        loop="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        limit_concurrency=MOST_CONNECTIONS,
        h11_max_incomplete_event_size=LONGEST_HEAD,
    )
    _take_over_log()
    config.load()
    config.ssl = ssl
    server = _Server(config)
    running = asyncio.create_task(server.serve(sockets=[sock]))
    try:
        up = asyncio.create_task(server.up.wait())
        await asyncio.wait({up, running}, return_when=asyncio.FIRST_COMPLETED)
        up.cancel()
        yield
    finally:
        await app.close()
        server.stop()
        await running
