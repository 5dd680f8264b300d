"""Testers: each does one thing N times and says exactly how often it was done and with which errno it failed.

Run one inside a place of the world: `world.b.run(testers.tcp_connects, world.a.v4, port, 13)`. What N is belongs to
the test; a prime is best, so that nothing that doubles or halves can hit it. `program` is the same in C, for workloads
whose processes live under a millisecond or come by the ten thousand.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import errno
import functools
import json
import os
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.world import Place

SOURCE = Path(__file__).with_name("tester.c")
_ANSWER_SECONDS = 5.0


@dataclasses.dataclass
class Outcome:
    """What a tester did: `done` attempts that worked, failures by errno, and what it can name about them."""

    done: int = 0
    errors: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)
    pids: list[int] = dataclasses.field(default_factory=list)
    ports: list[int] = dataclasses.field(default_factory=list)
    packets_sent: int = 0
    packets_received: int = 0
    bytes_sent: int = 0

    @property
    def failed(self) -> int:
        """Attempts that did not work."""
        return sum(self.errors.values())

    def only_error(self) -> str:
        """The name of the one errno all failures had, such as ECONNREFUSED."""
        (number,) = self.errors
        return errno.errorcode[number]


def _pace(start: float, done: int, per_second: float | None) -> None:
    """Wait until `done` attempts are due at the rate."""
    if per_second is not None and (left := start + done / per_second - time.monotonic()) > 0:
        time.sleep(left)


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def execs(count: int, path: str = "/bin/true", *arguments: str, per_second: float | None = None) -> Outcome:
    """Start the program `count` times, one after the other, and wait for each."""
    outcome, start = Outcome(), time.monotonic()
    for done in range(count):
        _pace(start, done, per_second)
        try:
            pid = os.posix_spawn(path, [path, *arguments], os.environ)
        except OSError as error:
            outcome.errors[error.errno or 0] += 1
            continue
        os.waitpid(pid, 0)
        outcome.pids.append(pid)
        outcome.done += 1
    return outcome


def tcp_connects(
    address: str,
    port: int,
    count: int,
    payload: bytes = b"",
    seconds: float = _ANSWER_SECONDS,
    per_second: float | None = None,
) -> Outcome:
    """Connect `count` times, send `payload` each time and close in order; a try lasts at most `seconds`."""
    outcome, start = Outcome(), time.monotonic()
    outcome.pids.append(os.getpid())
    for done in range(count):
        _pace(start, done, per_second)
        with socket.socket(_family(address), socket.SOCK_STREAM) as client:
            client.settimeout(seconds)
            try:
                client.connect((address, port))
                client.sendall(payload)
            except TimeoutError:
                outcome.errors[errno.ETIMEDOUT] += 1
                continue
            except OSError as error:
                outcome.errors[error.errno or 0] += 1
                continue
            outcome.ports.append(client.getsockname()[1])
            outcome.bytes_sent += len(payload)
            client.shutdown(socket.SHUT_WR)
            with contextlib.suppress(OSError):
                client.recv(1)
        outcome.done += 1
    return outcome


def tcp_accepts(listener: socket.socket, count: int, seconds: float = 30.0) -> Outcome:
    """Accept `count` connections from a listening socket, read each to its end and close it."""
    outcome = Outcome(pids=[os.getpid()])
    listener.settimeout(seconds)
    for _ in range(count):
        connection, peer = listener.accept()
        with connection:
            connection.settimeout(seconds)
            while connection.recv(1 << 16):
                pass
        outcome.ports.append(peer[1])
        outcome.done += 1
    return outcome


@contextlib.contextmanager
def tcp_server(place: Place, address: str, cgroup: Path | None = None) -> Iterator[int]:
    """A server in a child of the place for the length of the block; the port it listens at."""
    with place.entered():
        listener = socket.create_server((address, 0), family=_family(address), backlog=4096)
    with listener, place.start(tcp_accepts, listener, 1 << 40, 3600.0, cgroup=cgroup):
        yield listener.getsockname()[1]


def udp_datagrams(
    source: str,
    target: str,
    port: int,
    count: int,
    size: int,
    per_second: float | None = None,
) -> Outcome:
    """Send `count` datagrams of `size` bytes of payload from one socket; nothing is read."""
    outcome, start = Outcome(pids=[os.getpid()]), time.monotonic()
    with socket.socket(_family(target), socket.SOCK_DGRAM) as sender:
        sender.bind((source, 0))
        outcome.ports.append(sender.getsockname()[1])
        payload = os.urandom(size)
        for done in range(count):
            _pace(start, done, per_second)
            try:
                sender.sendto(payload, (target, port))
            except OSError as error:
                outcome.errors[error.errno or 0] += 1
                continue
            outcome.done += 1
            outcome.packets_sent += 1
            outcome.bytes_sent += size
    return outcome


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def icmp_echoes(source: str, target: str, count: int, size: int, seconds: float = _ANSWER_SECONDS) -> Outcome:
    """Send `count` echo requests with `size` bytes of payload by a raw socket, each after the answer to the last."""
    outcome = Outcome(pids=[os.getpid()])
    v6 = ":" in target
    protocol = socket.IPPROTO_ICMPV6 if v6 else socket.IPPROTO_ICMP
    request, reply = (128, 129) if v6 else (8, 0)
    identifier = os.getpid() & 0xFFFF
    with socket.socket(_family(target), socket.SOCK_RAW, protocol) as raw:
        raw.bind((source, 0))
        payload = os.urandom(size)
        for sequence in range(count):
            head = struct.pack("!BBHHH", request, 0, 0, identifier, sequence & 0xFFFF)
            if not v6:  # the kernel fills in the one of ICMPv6, whose sum covers the IP header
                total = _checksum(head + payload)
                head = struct.pack("!BBHHH", request, 0, total, identifier, sequence & 0xFFFF)
            try:
                raw.sendto(head + payload, (target, 0))
            except OSError as error:
                outcome.errors[error.errno or 0] += 1
                continue
            outcome.packets_sent += 1
            outcome.bytes_sent += size
            if _await_reply(raw, v6, reply, identifier, sequence & 0xFFFF, seconds):
                outcome.packets_received += 1
                outcome.done += 1
            else:
                outcome.errors[errno.ETIMEDOUT] += 1
    return outcome


def _await_reply(
    raw: socket.socket, v6: bool, reply: int, identifier: int, sequence: int, seconds: float
) -> bool:
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        raw.settimeout(left)
        try:
            data = raw.recv(1 << 16)
        except TimeoutError:
            return False
        start = 0 if v6 else (data[0] & 15) * 4
        kind, _, _, number, order = struct.unpack_from("!BBHHH", data, start)
        if (kind, number, order) == (reply, identifier, sequence):
            return True
    return False


@functools.cache
def _compiled() -> tuple[tempfile.TemporaryDirectory[str], Path]:
    directory = tempfile.TemporaryDirectory(prefix="aegis-tester-")
    path = Path(directory.name) / "tester"
    command = ["gcc", "-O2", "-Wall", "-Werror", "-static", "-o", str(path), str(SOURCE)]
    subprocess.run(command, check=True)
    return directory, path


def parse(text: str) -> Outcome:
    """The outcome a run of the C tester printed."""
    found = json.loads(text)
    errors = {int(number): count for number, count in found["errors"].items()}
    return Outcome(
        done=found["done"],
        errors=collections.Counter(errors),
        pids=found["pids"],
        ports=found["ports"],
        packets_sent=found["packets_sent"],
        bytes_sent=found["bytes_sent"],
    )


@pytest.fixture(scope="session")
def tester() -> Iterator[Path]:
    """Path of the compiled C tester; `tester` alone prints its verbs."""
    directory, path = _compiled()
    yield path
    directory.cleanup()
    _compiled.cache_clear()
