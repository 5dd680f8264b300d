"""Looks names up once, when a policy that speaks of them is committed: what is known already, such as to a local stub or to
a program with its own cache, is not asked for again, so its answer would never be seen.

Blocking, with its own sockets; answers are read by the same rules as the kernel's. Truncated ones are asked for over TCP.
"""

from __future__ import annotations

import contextlib
import secrets
import selectors
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

from aegis.kernel.names_reference import AAAA, IN, MOST_BYTES, A, Count, Outcome, Question, read_answer

PORT: Final = 53
AT_ONCE: Final = 64  # questions whose answers are awaited
TRIES: Final = 2  # of each server
WAIT_S: Final = 1.5  # for an answer, then the next server
_EDNS: Final = b"\0" + struct.pack("!HHIH", 41, 1232, 0, 0)
_RECURSION: Final = 0x0100

Clock = Callable[[], float]  # seconds that only grow


@dataclass(slots=True, kw_only=True)
class Lookup:
    """What was found of one name: addresses of 16 bytes (IPv4 mapped) with their TTLs; `error` says why none."""

    addresses: dict[bytes, int] = field(default_factory=dict)
    error: str = ""


def encode_query(number: int, question: Question) -> bytes:
    """The bytes of a query with room for a long answer."""
    name = b"".join(bytes([len(label)]) + label for label in question.name)
    return (
        struct.pack("!6H", number, _RECURSION, 1, 0, 0, 1)
        + name
        + b"\0"
        + struct.pack("!HH", question.type, IN)
        + _EDNS
    )


def look_up(
    names: Sequence[str],
    servers: Sequence[bytes],
    clock: Clock,
    *,
    within_s: float = 5.0,
    port: int = PORT,
) -> dict[str, Lookup]:
    """Ask for A and AAAA of each name; what each server did not answer in time the next is asked.

    Never raises for what servers do, and ends within about `within_s`.
    """
    found = {name: Lookup() for name in names}
    open_: list[tuple[str, Question]] = []
    for name in found:
        labels = tuple(label.encode("ascii", "replace").lower() for label in name.rstrip(".").split("."))
        open_ += [(name, Question(name=labels, type=kind)) for kind in (A, AAAA)]
    end = clock() + within_s
    for server in [*servers] * TRIES:
        if not open_ or clock() >= end:
            break
        with contextlib.suppress(OSError), _Server(server, port) as asked:
            open_ = asked.ask(open_, found, end, clock)
    for name, _ in open_:
        if not found[name].addresses:
            found[name].error = "no resolver answered" if servers else "no resolver is known"
    return found


class _Server:
    """One server and the socket it is asked by."""

    def __init__(self, address: bytes, port: int) -> None:
        four = address[:12] == bytes(10) + b"\xff\xff"
        self._family = socket.AF_INET if four else socket.AF_INET6
        self._address = (socket.inet_ntop(self._family, address[12:] if four else address), port)
        self._socket = socket.socket(self._family, socket.SOCK_DGRAM)
        try:
            self._socket.settimeout(0)
            self._socket.connect(self._address)
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(
        self, wanted: list[tuple[str, Question]], found: dict[str, Lookup], end: float, clock: Clock
    ) -> list[tuple[str, Question]]:
        """Those of `wanted` it did not answer; what it said is in `found`."""
        left: list[tuple[str, Question]] = []
        waiting = iter(wanted)
        awaited: dict[int, tuple[str, Question]] = {}
        until = 0.0
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            while True:
                if self._more(waiting, awaited):
                    until = min(end, clock() + WAIT_S)
                if not awaited:
                    return left
                if clock() >= until or not selector.select(until - clock()):
                    return [*left, *awaited.values(), *waiting]
                try:
                    data = self._socket.recv(65_535)
                except OSError:  # such as one that says nobody listens there
                    return [*left, *awaited.values(), *waiting]
                number = int.from_bytes(data[:2], "big")
                if number not in awaited:
                    continue
                name, question = awaited[number]
                outcome = read_answer(data, question)
                if outcome.count is Count.MISMATCH:
                    continue
                del awaited[number]
                until = min(end, clock() + WAIT_S)
                if outcome.count is Count.TRUNCATED:
                    outcome = self._over_tcp(question, min(until, end) - clock())
                if not _keep(found[name], outcome):
                    left.append((name, question))

    def _more(
        self, waiting: Iterator[tuple[str, Question]], awaited: dict[int, tuple[str, Question]]
    ) -> bool:
        """Send questions while there is room for their answers; whether any was."""
        sent = False
        while len(awaited) < AT_ONCE:
            entry = next(waiting, None)
            if entry is None:
                break
            number = secrets.randbelow(65_536)
            while number in awaited:
                number = secrets.randbelow(65_536)
            awaited[number] = entry
            sent = True
            with contextlib.suppress(OSError):  # counts as not answered
                self._socket.send(encode_query(number, entry[1]))
        return sent

    def _over_tcp(self, question: Question, wait_s: float) -> Outcome:
        number = secrets.randbelow(65_536)
        query = encode_query(number, question)
        try:
            with socket.create_connection(self._address, timeout=max(0.05, wait_s)) as stream:
                stream.sendall(len(query).to_bytes(2, "big") + query)
                data = _exactly(stream, int.from_bytes(_exactly(stream, 2), "big"))
        except OSError:
            return Outcome(count=Count.TRUNCATED)
        if data[:2] != query[:2]:
            return Outcome(count=Count.MISMATCH)
        return read_answer(data[:MOST_BYTES], question)


def _keep(lookup: Lookup, outcome: Outcome) -> bool:
    """Note what an answer said; False where another server may know better."""
    if outcome.count is Count.LEARNT:
        for address, ttl in outcome.addresses:
            lookup.addresses[address] = max(ttl, lookup.addresses.get(address, 0))
        lookup.error = ""
        return True
    if not lookup.addresses:
        lookup.error = {Count.EMPTY: "it has no address", Count.ERROR: "the resolver knows no such name"}.get(
            outcome.count, f"its answer is not believed: {outcome.count}"
        )
    return outcome.count in {Count.EMPTY, Count.ERROR, Count.FORBIDDEN}


def _exactly(stream: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = stream.recv(size - len(data))
        if not piece:
            raise ConnectionResetError
        data += piece
    return data
