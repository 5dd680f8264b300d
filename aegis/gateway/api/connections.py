"""A client's connection to the Actions API: how long it may take, when it makes room for another, how it is written to."""

from __future__ import annotations

import asyncio
import itertools
import socket
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from aegis.gateway.api.gate import OPERATOR

MOST_CONNECTIONS = 256
REQUEST_DEADLINE_S = 30.0  # from the connection, or the end of the answer before, to the end of a request
UNREAD_S = 30.0  # how long a client may leave an answer unread
JOINED_BYTES = 64 << 10  # so much written in one turn of the loop goes out as one
_numbers = itertools.count()


class Impatient(H11Protocol):
    """Closes a connection that has not sent a whole request by its deadline, or does not read its answer.

    So half a header, half a body or a full receive window hold a place for half a minute at most; and less where there
    are too many: then the oldest that never showed the operator's token goes, or else the oldest that asks nothing now.
    """

    _deadline: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    _was_admitted = False
    goes = False  # it is closed, and has yet to be told so

    def connection_made(self, transport: Any) -> None:
        _write_at_once(transport)
        super().connection_made(Joining(transport, self.loop))  # type: ignore[arg-type]
        self.number = next(_numbers)
        self._wait()
        self._make_room()

    def on_response_complete(self) -> None:
        self._was_admitted = self.is_admitted
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

    @property
    def is_admitted(self) -> bool:
        """Whether a request of it showed the operator's token."""
        scope: Any = self.scope  # None before the first request, whatever its annotation says
        return self._was_admitted or (scope is not None and bool(scope["state"].get(OPERATOR)))

    @property
    def is_answered(self) -> bool:
        """Whether there is no request of it that waits for its answer."""
        cycle: Any = self.cycle  # as above
        return cycle is None or bool(cycle.response_complete)

    def _make_room(self) -> None:
        """Of one more than there may be, the one that is missed least."""
        if len(self.connections) <= MOST_CONNECTIONS:
            return
        others = [one for one in self.connections if isinstance(one, Impatient) and not one.goes]
        if len(others) <= MOST_CONNECTIONS:
            return
        others.remove(self)
        spare = [one for one in others if not one.is_admitted] or [one for one in others if one.is_answered]
        if spare:
            oldest = min(spare, key=lambda one: one.number)
            oldest.goes = True
            oldest.transport.abort()

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
        if self.is_answered or self.cycle.more_body:
            self.transport.abort()


def _write_at_once(transport: Any) -> None:
    """Off with Nagle's wait: asyncio does it for its own sockets only, and ours was bound before."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family in {socket.AF_INET, socket.AF_INET6}:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class Joining:
    """A transport whose writes of one turn of the loop are one: head and body of an answer are one segment, not two."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []
        self._size = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not data:
            return
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(data)
        self._size += len(data)
        if self._size > JOINED_BYTES:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        self._held.clear()
        self._transport.abort()

    def _flush(self) -> None:
        held, self._held, self._size = self._held, [], 0
        if held:
            self._transport.write(b"".join(held) if len(held) > 1 else held[0])
