"""What the demo's own processes do in their namespaces; each says what it saw, by errno and by count."""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from dataclasses import dataclass

CONNECT_SECONDS = 0.8


def serve(address: str, ports: tuple[int, ...], ready: int) -> None:
    """Accept on each port for ever: read all, send back as many bytes as the client's first four ask for."""
    import selectors

    chooser = selectors.DefaultSelector()
    for port in ports:
        listener = socket.create_server((address, port), backlog=512)
        chooser.register(listener, selectors.EVENT_READ)
    os.write(ready, b"1")
    while True:
        for key, _ in chooser.select():
            listener = key.fileobj  # type: ignore[assignment]
            connection, _peer = listener.accept()
            with connection:
                connection.settimeout(5)
                wanted = struct.unpack("!I", _read(connection, 4))[0]
                _read_to_end(connection)
                connection.sendall(b"\0" * wanted)


def _read(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise ConnectionError(f"the client ended after {len(data)} of {size} bytes")
        data += part
    return data


def _read_to_end(connection: socket.socket) -> None:
    while connection.recv(1 << 16):
        pass


@dataclass(frozen=True)
class Outcome:
    """How one connection went: the client's errno (0: all bytes went both ways)."""

    errno: int
    sent: int
    received: int

    @property
    def name(self) -> str:
        """The errno by name, `ok` for none."""
        return errno.errorcode.get(self.errno, str(self.errno)) if self.errno else "ok"


def talk(address: str, port: int, sizes: list[tuple[int, int]]) -> list[Outcome]:
    """One TCP connection after the other: send so many bytes, take so many back."""
    outcomes = []
    for up, down in sizes:
        try:
            with socket.create_connection((address, port), timeout=CONNECT_SECONDS) as connection:
                connection.settimeout(5)
                connection.sendall(struct.pack("!I", down) + b"\0" * up)
                connection.shutdown(socket.SHUT_WR)
                received = 0
                while part := connection.recv(1 << 16):
                    received += len(part)
            outcomes.append(Outcome(0, up + 4, received))
        except TimeoutError:
            outcomes.append(Outcome(errno.ETIMEDOUT, 0, 0))
        except OSError as error:
            outcomes.append(Outcome(error.errno or errno.EIO, 0, 0))
    return outcomes


def send_datagrams(address: str, port: int, sizes: list[int]) -> int:
    """UDP datagrams of the given sizes; how many were sent."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sender:
        return sum(sender.sendto(b"\0" * size, (address, port)) == size for size in sizes)


def run_programs(path: str, count: int) -> int:
    """Fork and exec `path` so many times, one after the other; how many ended with 0."""
    good = 0
    for _ in range(count):
        pid = os.posix_spawn(path, [path], {})
        good += os.waitpid(pid, 0)[1] == 0
    return good


def run_spaced(path: str, count: int, pause_s: float) -> int:
    """As run_programs, with a pause before each."""
    good = 0
    for _ in range(count):
        time.sleep(pause_s)
        good += run_programs(path, 1)
    return good
