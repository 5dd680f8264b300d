"""What a process says about itself, against the owner a flow names; sockets given away."""

from __future__ import annotations

import array
import dataclasses
import os
import pickle
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aegis._native.flowtable import FlowRow
from aegis.kernel.flows import FlowReader, SocketOwner
from tests.support.flows import family_of, harvested


@dataclasses.dataclass(frozen=True)
class Identity:
    """What a process says about itself."""

    pid: int
    uid: int
    ticks: int  # start, in clock ticks since boot
    comm: bytes


def identity() -> Identity:
    stat = Path("/proc/self/stat").read_bytes()
    comm, _, rest = stat.partition(b"(")[2].rpartition(b") ")
    return Identity(os.getpid(), os.getuid(), int(rest.split()[19]), comm)


def is_of(owner: SocketOwner, process: Identity) -> bool:
    assert owner.label == "process"
    assert owner.start_ns is not None
    ticks = owner.start_ns * os.sysconf("SC_CLK_TCK") // 1_000_000_000
    return (owner.pid, owner.uid, owner.comm, ticks) == (
        process.pid,
        process.uid,
        process.comm,
        process.ticks,
    )


def flows(reader: FlowReader, protocol: int) -> list[FlowRow]:
    return [row for row in harvested(reader) if row.protocol == protocol]


def serve(listener: socket.socket, count: int) -> Identity:
    """Accept, read to the end, answer and close."""
    listener.settimeout(20)
    for _ in range(count):
        connection, _ = listener.accept()
        with connection:
            while connection.recv(4096):
                pass
            connection.sendall(b"done")
    return identity()


def forked(function: Callable[..., Any], *arguments: Any) -> Any:
    """The value of `function(*arguments)` in a child by fork alone, which has all that is open here."""
    out, into = os.pipe()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            os.write(into, pickle.dumps(function(*arguments)))
            code = 0
        finally:
            os._exit(code)
    os.close(into)
    with open(out, "rb") as file:
        content = file.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return pickle.loads(content)


def received(channel: socket.socket, kind: int, family: int) -> socket.socket:
    """The socket that comes through the channel."""
    _, ancillary, _, _ = channel.recvmsg(1, socket.CMSG_SPACE(4))
    return socket.socket(family, kind, fileno=array.array("i", ancillary[0][2])[0])


def make_and_pass(channel: socket.socket, source: str, address: str, port: int, before: int) -> Identity:
    """Make a datagram socket, send `before` times, and give it away."""
    with socket.socket(family_of(address), socket.SOCK_DGRAM) as made:
        made.bind((source, 0))
        for _ in range(before):
            made.sendto(b"x", (address, port))
        socket.send_fds(channel, [b"!"], [made.fileno()])
    return identity()
