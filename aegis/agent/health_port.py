"""The health endpoint on TCP, where one is configured: two paths, one answer a connection, nothing to log in to."""

from __future__ import annotations

import asyncio
import http
from collections.abc import Callable
from typing import cast

from aegis.agent.probes import answer

MOST = 32  # connections at a time; of more, the new ones are cut
MOST_BYTES = 4096  # of a request's head
WITHIN_S = 5.0  # for a whole head, and for taking the answer
LINGER_S = 0.5  # for what still comes behind the answer: to close at once would take it with it


class HealthPort:
    """`ready` says what `/readyz` is. Make one with `open`; `close` cuts whoever is there."""

    def __init__(self, ready: Callable[[], bool]) -> None:
        self.ready = ready
        self.there: set[_Asking] = set()
        self.port = 0  # that is listened on
        self._server: asyncio.Server | None = None

    async def open(self, host: str, port: int) -> None:
        """Raises OSError."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Asking(self), host, port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            for one in tuple(self.there):
                one.cut()
            await self._server.wait_closed()
            self._server = None


class _Asking(asyncio.Protocol):
    """One connection."""

    def __init__(self, port: HealthPort) -> None:
        self._port = port
        self._head = b""
        self._answered = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._timer = asyncio.get_running_loop().call_later(WITHIN_S, self.cut)
        if len(self._port.there) >= MOST:
            self.cut()
        else:
            self._port.there.add(self)

    def cut(self) -> None:
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._answered:
            return
        self._head += data[: MOST_BYTES + 1]
        if b"\r\n\r\n" in self._head or len(self._head) > MOST_BYTES:
            self._answer()

    def _answer(self) -> None:
        self._answered = True
        words = self._head.partition(b"\r\n")[0].split(b" ")
        whole = b"\r\n\r\n" in self._head
        if whole and len(words) == 3 and words[2] in {b"HTTP/1.0", b"HTTP/1.1"}:
            method = words[0].decode("latin-1")
            status, text = answer(method, words[1].decode("latin-1"), self._port.ready)
        else:
            method, (status, text) = "", (400, "bad request\n")
        head = (
            f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}\r\nContent-Type: text/plain; charset=utf-8\r\n"
            f"Content-Length: {len(text)}\r\nConnection: close\r\n\r\n"
        )
        self._transport.write((head + ("" if method == "HEAD" else text)).encode())
        self._transport.write_eof()
        self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(LINGER_S, self.cut)

    def eof_received(self) -> bool:
        return False  # it has said all, so there is nobody to wait for

    def connection_lost(self, _error: Exception | None) -> None:
        self._timer.cancel()
        self._port.there.discard(self)
