"""Netlink: requests, dumps and attributes over one socket, for the routing tables and socket lists above it.

A socket belongs to the network namespace it was opened in and stays there wherever its thread goes later.
Layout: linux/netlink.h; every integer in the machine's byte order unless a reader says otherwise.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterator
from typing import Self

from aegis.errors import HostError

ROUTE = 0
SOCK_DIAG = 4

REQUEST = 0x1
ACK = 0x4
DUMP = 0x300
REPLACE = 0x100
EXCLUSIVE = 0x200
CREATE = 0x400

NESTED = 0x8000
_TYPE_MASK = 0x3FFF

_ERROR = 2
_DONE = 3
_DUMP_INTERRUPTED = 0x10
_ACK_TLVS = 0x200
_CAPPED = 0x100
_SOL_NETLINK = 270
_EXT_ACK = 11
_STRICT_CHECK = 12
_EXT_ACK_TEXT = 1

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_BUFFER_BYTES = 1 << 18
_DUMP_TRIES = 8
_ANSWER_SECONDS = 10.0


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    length = _ATTRIBUTE.size + len(payload)
    return _ATTRIBUTE.pack(length, kind) + payload + b"\0" * (-length % 4)


def nested(kind: int, *members: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | NESTED, b"".join(members))


def text(kind: int, value: str) -> bytes:
    """A string attribute with its NUL."""
    return attribute(kind, value.encode() + b"\0")


def number(kind: int, value: int) -> bytes:
    """A 32-bit attribute."""
    return attribute(kind, struct.pack("=I", value & 0xFFFFFFFF))


def attributes(data: bytes | memoryview) -> dict[int, memoryview]:
    """Attributes by kind; the last one wins where a kind comes twice. HostError where a length makes no sense."""
    found: dict[int, memoryview] = {}
    view = memoryview(data)
    offset, end = 0, len(view)
    while end - offset >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(view, offset)
        if not _ATTRIBUTE.size <= length <= end - offset:
            raise HostError(f"netlink: attribute of {length} bytes where {end - offset} are left")
        found[kind & _TYPE_MASK] = view[offset + _ATTRIBUTE.size : offset + length]
        offset += length + 3 & ~3
    return found


def string(value: bytes | memoryview) -> str:
    """A NUL-terminated attribute as text; bytes that are no UTF-8 are kept as escapes."""
    return bytes(value).split(b"\0", 1)[0].decode("utf-8", "backslashreplace")


class Netlink:
    """One netlink socket of `protocol` in the caller's network namespace. A context manager.

    Every method raises HostError with the kernel's errno and its own words where it gave any.
    """

    def __init__(self, protocol: int = ROUTE) -> None:
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        except OSError as error:
            raise failed("open a netlink socket", error.errno or 0) from error
        self._sequence = 0
        try:
            self._socket.bind((0, 0))
            self._socket.settimeout(_ANSWER_SECONDS)
            for option in (_EXT_ACK, _STRICT_CHECK):
                with contextlib.suppress(OSError):  # older kernels answer without them, in fewer words
                    self._socket.setsockopt(_SOL_NETLINK, option, 1)
        except OSError as error:
            self._socket.close()
            raise failed("set up a netlink socket", error.errno or 0) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket; twice is harmless."""
        self._socket.close()

    def fileno(self) -> int:
        """The descriptor."""
        return self._socket.fileno()

    def change(self, operation: str, kind: int, payload: bytes, flags: int = 0) -> None:
        """Ask for a change and wait for the kernel's yes. `operation` names it in errors."""
        sequence = self.send(operation, kind, payload, REQUEST | ACK | flags)
        for _ in self._answers(operation, sequence):
            pass

    def get(self, operation: str, kind: int, payload: bytes) -> bytes:
        """The body of the one message that answers."""
        sequence = self.send(operation, kind, payload, REQUEST | ACK)
        bodies = [body for _, body in self._answers(operation, sequence)]
        if len(bodies) != 1:
            raise HostError(f"{operation}: {len(bodies)} answers where one was due")
        return bodies[0]

    def dump(self, operation: str, kind: int, payload: bytes) -> list[bytes]:
        """Bodies of all messages of a table, taken again while the kernel says it changed meanwhile."""
        for _ in range(_DUMP_TRIES):
            sequence = self.send(operation, kind, payload, REQUEST | DUMP)
            bodies: list[bytes] = []
            whole = True
            for flags, body in self._answers(operation, sequence):
                whole = whole and not flags & _DUMP_INTERRUPTED
                bodies.append(body)
            if whole:
                return bodies
        raise failed(operation, errno.EINTR)

    def send(self, operation: str, kind: int, payload: bytes, flags: int) -> int:
        """Send one request; the sequence number its answers carry."""
        self._sequence += 1
        header = _HEADER.pack(_HEADER.size + len(payload), kind, flags, self._sequence, 0)
        try:
            self._socket.send(header + payload)
        except OSError as error:
            raise failed(operation, error.errno or 0) from error
        return self._sequence

    def _answers(self, operation: str, sequence: int) -> Iterator[tuple[int, bytes]]:
        """(flags, body) of the messages that answer request `sequence`, up to its end."""
        while True:
            for kind, flags, answered, body in self._receive(operation):
                if answered != sequence:
                    continue  # left over from a request that failed half-way
                if kind == _ERROR:
                    _raise_unless_ack(operation, flags, body)
                    return
                if kind == _DONE:
                    code = struct.unpack_from("=i", body)[0] if len(body) >= 4 else 0
                    if code < 0:
                        raise failed(operation, -code)
                    if flags & _DUMP_INTERRUPTED:
                        yield flags, b""
                    return
                yield flags, body

    def _receive(self, operation: str) -> list[tuple[int, int, int, bytes]]:
        return list(messages(operation, self.datagram(operation)))

    def datagram(self, operation: str) -> bytes:
        """The next datagram, messages back to back."""
        try:
            data, _, flags, _ = self._socket.recvmsg(_BUFFER_BYTES)
        except TimeoutError as error:
            raise failed(operation, errno.ETIMEDOUT) from error
        except OSError as error:
            raise failed(operation, error.errno or 0) from error
        if flags & socket.MSG_TRUNC:
            raise HostError(f"{operation}: a netlink message longer than {_BUFFER_BYTES} bytes")
        return data


def messages(operation: str, data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """(kind, flags, sequence, body) of each message in one datagram."""
    offset = 0
    while len(data) - offset >= _HEADER.size:
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        if not _HEADER.size <= length <= len(data) - offset:
            left = len(data) - offset
            raise HostError(f"{operation}: netlink message of {length} bytes where {left} are left")
        yield kind, flags, sequence, data[offset + _HEADER.size : offset + length]
        offset += length + 3 & ~3


def _raise_unless_ack(operation: str, flags: int, body: bytes) -> None:
    if len(body) < 4 + _HEADER.size:
        raise HostError(f"{operation}: netlink error of {len(body)} bytes")
    code, echoed = struct.unpack_from("=iI", body)
    if code == 0:
        return
    said = ""
    if flags & _ACK_TLVS:
        start = 4 + (_HEADER.size if flags & _CAPPED else echoed + 3 & ~3)
        said = string(attributes(body[start:]).get(_EXT_ACK_TEXT, b""))
    raise failed(operation, -code, said)


def failed(operation: str, code: int, said: str = "") -> HostError:
    """The HostError for an errno, with the kernel's own words where it gave any."""
    tail = f" ({said})" if said else ""
    return HostError(f"{operation}: {os.strerror(code)}{tail}", errno=code)
