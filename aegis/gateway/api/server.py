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

from aegis.gateway.api.app import Application
from aegis.gateway.api.connections import Impatient
from aegis.gateway.api.gate import refuse
from aegis.gateway.api.problems import Refusal
from aegis.runtime.log import logger

MOST_REQUESTS = 256  # under way, waits included
ALWAYS = frozenset({"/healthz"})
BUSY = "too many requests are under way"
LONGEST_HEAD = 16 << 10  # bytes of request line and headers
KEEP_ALIVE_S = 15
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


class _Bounded:
    """The application, with so many requests under way at most; the health of the process may always be asked."""

    def __init__(self, app: Application) -> None:
        self._app = app
        self._running = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self._running >= MOST_REQUESTS and scope["path"] not in ALWAYS:
            await refuse(send, Refusal(503, "too_busy", BUSY, headers={"Retry-After": "1"}))
            return
        self._running += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._running -= 1


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
        _Bounded(app),
        http=Impatient,
        ws="none",
        loop="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
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
