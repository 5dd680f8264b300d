"""One socket of the agents' port: HTTP until the upgrade, then WebSocket messages, both by the library's sans-IO core.

No task and no queue a connection: what comes is handled when it comes, in slices, so that one that floods leaves room
for the others; what goes is the transport's buffer, watched and bounded. An idle one is a few objects in memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final, Protocol, cast

from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol

from aegis.gateway import opening
from aegis.gateway.limits import Limits

# Handled before the others get their turn; SLICE_BYTES has a few messages of the size of a heartbeat.
SLICE_MESSAGES: Final = 16
SLICE_BYTES: Final = 4 * 1024
LARGE_BYTES: Final = 32 * 1024  # fed at once in the middle of a large message
INVALID_DATA, TOO_BIG = 1007, 1009
_READING_SLICE, _READING_STORE, _READING_ANSWERS = 1, 2, 4  # who paused the reading
_BAD_REQUEST: Final = (
    b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Content-Length: 12\r\n\r\nBad request\n"
)
_HEADERS_TOO_LARGE: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\nContent-Length: 28\r\n\r\nRequest header is too large\n"
)


class Receiver(Protocol):
    """Who gets what an upgraded connection receives."""

    def received(self, message: str | bytes) -> None: ...

    def pinged(self) -> None:
        """A ping or a pong came."""

    def look(self, now_ns: int) -> int | None:
        """As `wheel.Timed.look`."""
        ...

    def ended(self) -> None:
        """The connection is gone. Once."""


class Owner(Protocol):
    """The port, as its connections know it."""

    limits: Limits

    def arrived(self, connection: Connection) -> bool: ...

    def request(
        self, connection: Connection, method: str, target: str, headers: Iterable[tuple[str, str]]
    ) -> Response | Receiver: ...

    def left(self, connection: Connection) -> None: ...

    def soon(self, connection: Connection, due_ns: int) -> None: ...

    def now_ns(self) -> int: ...

    def count(self, what: str) -> None: ...

    def failed(self, connection: Connection, error: Exception) -> None:
        """What handles it raised, which is a fault of ours."""


class Connection(asyncio.Protocol):
    """`number` is never given twice. `heard_ns` is the last byte's instant, `began_ns` the accept's."""

    __slots__ = (
        "_finished",
        "_fragments",
        "_left",
        "_left_at",
        "_owner",
        "_paused",
        "_protocol",
        "_receiver",
        "_text",
        "_transport",
        "address",
        "authenticated",
        "began_ns",
        "close_by_ns",
        "due_ns",
        "heard_ns",
        "lent_bytes",
        "number",
        "pinged_ns",
        "stalled_bytes",
        "stalled_ns",
        "unread",
        "upgraded",
        "written_bytes",
    )

    def __init__(self, owner: Owner, number: int) -> None:
        self._owner = owner
        self.number = number
        self.address = ""
        self.authenticated = False
        self.upgraded = False
        self.due_ns = 0
        self.began_ns = self.heard_ns = self.pinged_ns = owner.now_ns()
        self.close_by_ns = 0
        self.stalled_bytes = self.stalled_ns = 0
        self.written_bytes = 0  # given to the transport so far
        self.lent_bytes = 0  # of them those that wait under a window of their own, and cut nobody
        self.unread = 0  # bytes of the upgrade request so far
        self._receiver: Receiver | None = None
        self._fragments: list[Any] | None = None
        self._text = False  # what the fragments are of
        self._left: bytes | None = None
        self._left_at = 0
        self._paused = 0
        self._finished = False  # nothing goes out any more, and what comes is not looked at
        self._transport: asyncio.Transport | None = None
        self._protocol: ServerProtocol | None = None  # from the first byte on

    # What the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name
        self._transport = transport
        peer = transport.get_extra_info("peername")
        self.address = peer[0].removeprefix("::ffff:") if peer else ""
        if not self._owner.arrived(self):
            self._transport = None
            transport.abort()
            return

    def data_received(self, data: bytes) -> None:
        if self._transport is None or self._finished:
            return
        self.heard_ns = self._owner.now_ns()
        if self._receiver is None:
            if self._protocol is None and not self.unread and self._refused_at_once(data):
                return
            if not self._take_header(data):
                return
            if self._protocol is None:
                if self._opened_at_once(data):
                    return
                self._protocol = ServerProtocol(max_size=self._owner.limits.frame_bytes)
        if len(data) > SLICE_BYTES:
            self._left, self._left_at = data, 0
            self._slice()
        else:
            self._feed(data)

    def eof_received(self) -> bool:
        if self._transport is None or self._left is not None:
            return False
        if self._protocol is None:
            self._finish(self._transport)
            return False
        self._protocol.receive_eof()
        self._write_out()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        if self._transport is None:
            return
        self._transport = None
        # The wheel may know this one for a minute to come, and the protocol keeps its last message.
        self._left = self._fragments = self._protocol = None
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.ended()
        self._owner.left(self)

    # What the receiver and the port call

    @property
    def is_open(self) -> bool:
        """Whether something sent now may still arrive."""
        protocol = self._protocol
        return self._transport is not None and protocol is not None and protocol.state is State.OPEN

    @property
    def is_ending(self) -> bool:
        """Whether it was said goodbye to."""
        return self.close_by_ns != 0

    @property
    def is_held(self) -> bool:
        """Whether we do not read from it for now, so that its silence means nothing."""
        return self._paused != 0

    @property
    def waiting_bytes(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def authenticated_now(self) -> None:
        """Larger messages may come from here on."""
        self.authenticated = True
        if self._protocol is not None:
            self._protocol.max_message_size = self._owner.limits.frame_bytes_after

    def send(self, text: str) -> None:
        """Write a text message. One that does not read is cut once too much waits for it."""
        protocol = self._protocol
        if protocol is None or not self.is_open:
            return
        protocol.send_text(text.encode())
        self._write_out()
        self._cut_if_slow()

    def _cut_if_slow(self) -> None:
        """What its own pings and requests are answered with counts too."""
        limits = self._owner.limits
        most = limits.send_bytes + self.lent_bytes if self.authenticated else limits.send_bytes_before
        if self.waiting_bytes > most:
            self._owner.count("slow_consumer")
            self.abort()

    def ping(self) -> None:
        if self._protocol is not None and self.is_open:
            self.pinged_ns = self._owner.now_ns()
            self._protocol.send_ping(b"aegis")
            self._write_out()

    def close(self, code: int, reason: str) -> None:
        """Say goodbye; what does not answer in time is cut."""
        if self._transport is None:
            return
        if self._protocol is not None and self._protocol.state is State.OPEN:
            self._protocol.send_close(code, reason[:120])
            self._write_out()
        self._expect_end()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def hold_reading(self, *, on: bool) -> None:
        """The store is behind with what this one sent: what comes next waits in the kernel."""
        self._pause(_READING_STORE, on=on)

    def hold_answers(self, *, on: bool) -> None:
        """The same for the messages that its answers are looked up among."""
        self._pause(_READING_ANSWERS, on=on)

    @property
    def is_cut(self) -> bool:
        """Whether the transport is closed or about to be, so that what it says of its buffer means nothing."""
        return self._transport is None or self._transport.is_closing()

    def look(self, now_ns: int) -> int | None:
        """What is due for the socket; then what is for who receives."""
        limits = self._owner.limits
        if self._transport is None:
            return None
        if self.is_ending:
            if now_ns >= self.close_by_ns:
                self.abort()
                return None
            return self.close_by_ns
        by_ns = self.began_ns + int(limits.authenticate_s * 1e9)
        if not self.authenticated and now_ns >= by_ns:
            self._owner.count("not_authenticated_in_time")
            if self._receiver is None:
                self.abort()
                return None
            self.close(1008, "not authenticated in time")
            return self.close_by_ns
        due = self._look_at_stall(now_ns)
        if due is None:
            return None
        if not self.authenticated:
            due = min(due, by_ns)
        if self._receiver is not None:
            following = self._receiver.look(now_ns)
            due = due if following is None else min(due, following)
        # It may have been closed just now: then the wheel has its last instant already.
        return due

    def _look_at_stall(self, now_ns: int) -> int | None:
        """Cut one that takes nothing while bytes wait for it."""
        limits = self._owner.limits
        waiting = self.waiting_bytes
        stall_ns = int(limits.send_stall_s * 1e9)
        taken = self.written_bytes - waiting
        if not waiting or taken > self.stalled_bytes or not self.stalled_ns:
            self.stalled_ns = now_ns if waiting else 0
            self.stalled_bytes = taken
        elif now_ns - self.stalled_ns >= stall_ns:
            self._owner.count("slow_consumer")
            self.abort()
            return None
        return now_ns + (stall_ns // 4 if waiting else 3600 * 1_000_000_000)

    # Inside

    def _take_header(self, data: bytes) -> bool:
        self.unread += len(data)
        if self.unread <= self._owner.limits.header_bytes:
            return True
        self._owner.count("header_too_large")
        self._last_words(_HEADERS_TOO_LARGE)
        return False

    def _slice(self) -> None:
        """Handle some of what was read at once, and let the others have their turn before the rest.

        A part without the end of a message costs next to nothing, so a large message is no reason to stop.
        """
        size, handled = SLICE_BYTES, 0
        while self._left is not None and handled < SLICE_MESSAGES:
            part = self._left[self._left_at : self._left_at + size]
            self._left_at += size
            if self._left_at >= len(self._left):
                self._left, self._left_at = None, 0
            count = self._feed(part)
            handled += count
            size = SLICE_BYTES if count else LARGE_BYTES
        self._pause(_READING_SLICE, on=self._left is not None)
        if self._left is not None:
            asyncio.get_running_loop().call_soon(self._slice)

    def _feed(self, data: bytes) -> int:
        """The number of frames that were in it."""
        protocol = self._protocol
        assert protocol is not None
        try:
            protocol.receive_data(data)
        except EOFError:
            return 0
        events = protocol.events_received()
        if self._receiver is None and not self._upgrade(protocol, events):
            return 0
        for event in events:
            if isinstance(event, Frame):
                self._frame(event)
        self._write_out()
        self._cut_if_slow()
        return len(events)

    def _refused_at_once(self, data: bytes) -> bool:
        """Whether it was a request of a kind that the library does not read: those have bodies, and none is looked at."""
        asked = opening.other(data)
        answer = None if asked is None else self._owner.request(self, *asked, ())
        if not isinstance(answer, Response):
            return False
        self._respond(answer)
        return True

    def _respond(self, answer: Response) -> None:
        self._protocol = ServerProtocol(max_size=self._owner.limits.frame_bytes)
        self._protocol.send_response(answer)
        self._write_out()

    def _opened_at_once(self, data: bytes) -> bool:
        """Whether it was a request as most are; it is answered then."""
        asked = opening.read(data)
        if asked is None:
            return False
        answer = self._owner.request(self, "GET", asked.target, asked.headers)
        if isinstance(answer, Response):
            self._respond(answer)
            return True
        self._protocol = ServerProtocol(max_size=self._owner.limits.frame_bytes, state=State.OPEN)
        self._receiver = answer
        if self._transport is not None:
            self._transport.write(opening.answer(asked))
        self._owner.soon(self, self._owner.now_ns())
        return True

    def _upgrade(self, protocol: ServerProtocol, events: list[Any]) -> bool:
        if protocol.handshake_exc is not None and not protocol.writes[:1]:
            self._last_words(_BAD_REQUEST)
            return False
        if protocol.handshake_exc is not None:
            self._last_words(protocol.data_to_send()[0] or _BAD_REQUEST)
            return False
        if not events:
            return False
        request = events.pop(0)
        assert isinstance(request, Request)
        if events or protocol.reader.buffer or protocol.writes:
            self._last_words(_BAD_REQUEST)  # who speaks before it was answered does not speak WebSocket
            return False
        answer = self._owner.request(self, request.method, request.path, request.headers.raw_items())
        if isinstance(answer, Response):
            protocol.send_response(answer)
            self._write_out()
            return False
        response = protocol.accept(request)
        protocol.send_response(response)
        if response.status_code != 101:
            answer.ended()
            self._write_out()
            return False
        self._receiver = answer
        self._write_out()
        self._owner.soon(self, self._owner.now_ns())
        return True

    def _frame(self, frame: Frame) -> None:
        opcode = frame.opcode
        if opcode is Opcode.TEXT or opcode is Opcode.BINARY:
            if frame.fin:
                self._message(frame.data, text=opcode is Opcode.TEXT)
            else:
                self._fragments, self._text = [frame.data], opcode is Opcode.TEXT
        elif opcode is Opcode.CONT:
            fragments = self._fragments
            if fragments is None:
                return
            fragments.append(frame.data)
            if frame.fin:
                self._fragments = None
                self._message(b"".join(fragments), text=self._text)
            elif len(fragments) > self._owner.limits.fragments:
                self._fragments = None
                self._owner.count("fragments")
                self._fail(TOO_BIG, "a message in too many fragments")
        elif self._receiver is not None:
            self._receiver.pinged()

    def _message(self, data: Any, *, text: bool) -> None:
        if self._receiver is None or self.close_by_ns:
            return
        message: str | bytes = data
        if text:
            try:
                message = data.decode()
            except UnicodeDecodeError:
                self._fail(INVALID_DATA, "text that is not UTF-8")
                return
        else:
            message = bytes(data)
        try:
            self._receiver.received(message)
        except Exception as error:  # noqa: BLE001  counted and told; the other connections go on
            self._owner.failed(self, error)

    def _fail(self, code: int, reason: str) -> None:
        if self._transport is not None and self._protocol is not None and not self._protocol.eof_sent:
            self._protocol.fail(code, reason)
            self._write_out()

    def _write_out(self) -> None:
        transport, protocol = self._transport, self._protocol
        if transport is None or protocol is None:
            return
        for data in protocol.data_to_send():
            if data:
                self.written_bytes += len(data)
                transport.write(data)
            else:
                self._finish(transport)
                return
        if protocol.parser_exc is not None:
            self._expect_end()

    def _last_words(self, data: bytes) -> None:
        transport = self._transport
        if transport is not None:
            transport.write(data)
            self._finish(transport)

    def _finish(self, transport: asyncio.Transport) -> None:
        """Nothing more goes out. To close while bytes come in would reset the connection, and take our words with it."""
        self._finished = True
        self._left = None
        self._pause(_READING_SLICE | _READING_STORE | _READING_ANSWERS, on=False)
        self._expect_end()
        if transport.can_write_eof():
            transport.write_eof()
        else:
            transport.close()

    def _expect_end(self) -> None:
        if not self.close_by_ns:
            self.close_by_ns = self._owner.now_ns() + int(self._owner.limits.close_s * 1e9)
            self._owner.soon(self, self.close_by_ns)

    def _pause(self, who: int, *, on: bool) -> None:
        before = self._paused
        self._paused = before | who if on else before & ~who
        if self._transport is None or self._transport.is_closing() or bool(before) == bool(self._paused):
            return
        if self._paused:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()
