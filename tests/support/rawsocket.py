"""A WebSocket end that may say anything: frames by hand over a plain TCP socket, for what no library would send."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import socket
import struct
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

TEXT, BINARY, CLOSE, PING, PONG, CONTINUATION = 1, 2, 8, 9, 10, 0
SEND_S = 10.0
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def frame(
    payload: bytes,
    opcode: int = TEXT,
    *,
    mask: bool,
    fin: bool = True,
    reserved: int = 0,
    announced: int | None = None,
) -> bytes:
    """One frame. `announced` is the length it claims where that is not its own; `reserved` are RSV1-3 as a number."""
    size = len(payload) if announced is None else announced
    head = bytes([(0x80 if fin else 0) | reserved << 4 | opcode])
    bit = 0x80 if mask else 0
    if size < 126:
        head += bytes([bit | size])
    elif size < 1 << 16:
        head += bytes([bit | 126]) + struct.pack("!H", size)
    else:
        head += bytes([bit | 127]) + struct.pack("!Q", size)
    if not mask:
        return head + payload
    key = os.urandom(4)
    masked = bytes(byte ^ key[at % 4] for at, byte in enumerate(payload))
    return head + key + masked


@dataclass(frozen=True)
class Heard:
    """What came: a frame's opcode and payload; or the end of the connection (opcode CLOSE, `code` 1006 without a frame)."""

    opcode: int
    payload: bytes
    code: int = 0


class RawEnd:
    """One side of a connection. `mask` says whether what it sends is masked, as a client's must be."""

    def __init__(self, connection: socket.socket, *, mask: bool, early: bytes = b"") -> None:
        self.connection = connection
        self.mask = mask
        self._waiting = early

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.connection.close()

    @classmethod
    def dial(cls, host: str, port: int, headers: dict[str, str], path: str = "/ws/agent") -> RawEnd:
        """Upgrade as a client. Raises ConnectionError with the status line when it is refused."""
        connection = socket.create_connection((host, port), timeout=10)
        lines = {
            "Host": f"{host}:{port}",
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
            **headers,
        }
        text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        connection.sendall(f"GET {path} HTTP/1.1\r\n{text}\r\n".encode("latin-1"))
        answer, rest = cls._head(connection)
        if not answer.startswith(b"HTTP/1.1 101"):
            connection.close()
            raise ConnectionError(answer.split(b"\r\n")[0].decode())
        return cls(connection, mask=True, early=rest)

    @classmethod
    def accept(cls, listener: socket.socket, seconds: float = 30) -> RawEnd:
        """Take the next client and upgrade it."""
        listener.settimeout(seconds)
        connection, _ = listener.accept()
        connection.settimeout(10)
        request, rest = cls._head(connection)
        key = next(
            line.split(b":", 1)[1].strip()
            for line in request.split(b"\r\n")
            if line.lower().startswith(b"sec-websocket-key:")
        )
        accept = base64.b64encode(hashlib.sha1(key + GUID).digest())
        connection.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        end = cls(connection, mask=False, early=rest)
        end.request = request.decode("latin-1")
        return end

    request = ""

    @staticmethod
    def _head(connection: socket.socket) -> tuple[bytes, bytes]:
        data = b""
        while b"\r\n\r\n" not in data:
            piece = connection.recv(4096)
            if not piece:
                raise ConnectionError(f"closed after {data[:80]!r}")
            data += piece
        head, _, rest = data.partition(b"\r\n\r\n")
        return head, rest

    def send(self, data: bytes) -> None:
        """Raw bytes. A peer that has closed already is no error: what it said is still to be heard."""
        self.connection.settimeout(SEND_S)  # and not what was left of the last `hear`
        with contextlib.suppress(ConnectionError):
            self.connection.sendall(data)

    def say(self, text: str | bytes) -> None:
        """One good text frame."""
        self.send(frame(text.encode() if isinstance(text, str) else text, mask=self.mask))

    def hear(self, seconds: float) -> Heard | None:
        """The next frame, or the end; None when neither came in time. Masking is undone."""
        deadline = time.monotonic() + seconds
        while True:
            found = self._parsed()
            if found is not None:
                return found
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            self.connection.settimeout(left)
            try:
                piece = self.connection.recv(1 << 16)
            except TimeoutError:
                return None
            except ConnectionError:
                piece = b""
            if not piece:
                return Heard(CLOSE, b"", 1006)
            self._waiting += piece

    def _parsed(self) -> Heard | None:
        data = self._waiting
        if len(data) < 2:
            return None
        opcode, size, at = data[0] & 15, data[1] & 127, 2
        if size == 126:
            if len(data) < 4:
                return None
            size, at = struct.unpack("!H", data[2:4])[0], 4
        elif size == 127:
            if len(data) < 10:
                return None
            size, at = struct.unpack("!Q", data[2:10])[0], 10
        key = b""
        if data[1] & 128:
            key, at = data[at : at + 4], at + 4
        if len(data) < at + size:
            return None
        payload = data[at : at + size]
        if key:
            payload = bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))
        self._waiting = data[at + size :]
        code = 0
        if opcode == CLOSE:
            code = struct.unpack("!H", payload[:2])[0] if len(payload) >= 2 else 1005
        return Heard(opcode, payload, code)
