"""The opening of a control connection: whatever is no WebSocket request is answered with a typed error, then cut.

The body is the frame an unreadable request gets later, without an id. The library alone says nothing to bytes that are
no HTTP, and speaks plain text to the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
from collections.abc import Callable
from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response

from aegis.agent import probes
from aegis.agent.control import envelope
from aegis.errors import EnvelopeInvalid

OPEN_S = 5.0  # for a whole request
DISCARD_S = 0.5  # how long one that was refused may go on sending, so that it comes to read the answer
START = b"GET "  # every request begins so; noise without an end of line need not be waited for


class AnsweringConnection(ServerConnection):
    """A connection that never ends without a word while it is opened. Lines are bounded by the library (8 KiB)."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head = b""
        self._refused = False

    def data_received(self, data: bytes) -> None:
        if len(self._head) < len(START):
            self._head = (self._head + data)[: len(START)]
            if not START.startswith(self._head):
                self._refuse()
        if not self._refused:
            super().data_received(data)

    def send_data(self) -> None:
        if self.request is None and self.protocol.handshake_exc is not None:
            self._refuse()
        if not self._refused:
            super().send_data()

    async def handshake(self, *arguments: Any, **options: Any) -> None:
        try:
            await super().handshake(*arguments, **options)
        except asyncio.CancelledError:  # its time is out
            if self.request is None:
                self._refuse()
            raise

    def _refuse(self) -> None:
        """Answer, once, and let go of what still comes."""
        if self._refused:
            return
        self._refused = True
        body = _body("what came is no WebSocket request over HTTP/1.1")
        head = (
            "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        with contextlib.suppress(OSError):  # it is gone already
            self.transport.write_eof()
        self.loop.call_later(DISCARD_S, self.transport.abort)


def probed(ready: Callable[[], bool], connection: ServerConnection, request: Request) -> Response | None:
    """The answer to a question for health, None for a client. `curl --unix-socket agent.sock http://agent/healthz`."""
    if request.path.partition("?")[0] not in probes.PATHS:
        return None
    return connection.respond(*_status(probes.answer("GET", request.path, ready)))


def _status(answer: tuple[int, str]) -> tuple[http.HTTPStatus, str]:
    return http.HTTPStatus(answer[0]), answer[1]


def typed(connection: ServerConnection, request: Request, response: Response) -> Response:
    """The library's refusal of a request that is HTTP, with the same status and a typed body."""
    if response.status_code != 101 and request.path.partition("?")[0] not in probes.PATHS:
        response.body = _body(str(connection.protocol.handshake_exc or response.reason_phrase))
        for name, value in (
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(response.body))),
        ):
            del response.headers[name]
            response.headers[name] = value
    return response


def _body(text: str) -> bytes:
    return envelope.error(
        None, EnvelopeInvalid(text, hint="open a WebSocket on this socket, as `aegis` does")
    )
