"""A socket carried to a task of another subject without a connect of its own: its packets are of who sends them."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from aegis.kernel.flows import FlowReader
from tests.support import packets as p
from tests.support import testers
from tests.support.flows import boottime_ns, family_of
from tests.support.owners import Identity, flows, forked, identity, is_of, received
from tests.support.subjects import Judged, deny, judged
from tests.support.world import World

pytestmark = pytest.mark.require("root", "bpf", "cgroup", "tracing", "sk_storage", "iterators")

PRIME = 7


@pytest.fixture(params=[4, 6])
def ends(request: pytest.FixtureRequest, world: World) -> tuple[str, str]:
    return (world.a.v4, world.b.v4) if request.param == 4 else (world.a.v6, world.b.v6)


@pytest.fixture
def units(world: World) -> tuple[Path, Path]:
    """Of a unit that is denied, and of one that is not."""
    return world.make_cgroup("system.slice/denied.service"), world.make_cgroup("system.slice/allowed.service")


@pytest.fixture
def host(world: World, units: tuple[Path, Path]) -> Iterator[Judged]:
    with judged(world) as made:
        made.apply(deny(unit="denied.service"))
        yield made


@contextlib.contextmanager
def sink(world: World, address: str) -> Iterator[socket.socket]:
    """A socket in the peer that takes datagrams."""
    with world.b.socket(family_of(address), socket.SOCK_DGRAM) as receiver:
        receiver.bind((address, 0))
        receiver.settimeout(0.5)
        yield receiver


def taken(receiver: socket.socket) -> list[bytes]:
    found = []
    with contextlib.suppress(TimeoutError):
        while True:
            found.append(receiver.recv(16))
    return found


def connect_and_pass(channel: socket.socket, address: str, port: int, before: int) -> Identity:
    with socket.socket(family_of(address), socket.SOCK_DGRAM) as made:
        made.connect((address, port))
        for _ in range(before):
            made.send(b"maker")
        socket.send_fds(channel, [b"!"], [made.fileno()])
    return identity()


def send_passed(channel: socket.socket, family: int) -> Identity:
    with received(channel, socket.SOCK_DGRAM, family) as passed:
        for _ in range(PRIME):
            passed.send(b"user")
    return identity()


@pytest.mark.parametrize("before", [0, PRIME])
@pytest.mark.parametrize("user", [0, 1])
def test_connected_datagram_socket(
    world: World, host: Judged, units: tuple[Path, Path], ends: tuple[str, str], user: int, before: int
) -> None:
    """Whether or not the flow is there already, and allowed."""
    ours, theirs = socket.socketpair()
    with ours, theirs, sink(world, ends[1]) as peer, FlowReader(host.path.object, boottime_ns) as reader:
        port = peer.getsockname()[1]
        world.a.run(connect_and_pass, ours, ends[1], port, before, cgroup=units[1])
        sender = world.a.run(send_passed, theirs, family_of(ends[1]), cgroup=units[user])
        assert taken(peer) == [b"maker"] * before + [b"user"] * (PRIME * user)
        (row,) = flows(reader, p.UDP)
        assert is_of(reader.owner(row.owner), sender)
        assert row.packets_egress == before + PRIME
        assert row.dropped_packets == PRIME * (1 - user)


def send_in_turns(to: Path, address: str, port: int) -> None:
    """Parent, child in another control group, parent again, by one connected socket."""
    with socket.socket(family_of(address), socket.SOCK_DGRAM) as made:
        made.connect((address, port))

        def send() -> None:
            (to / "cgroup.procs").write_text("0")
            for _ in range(PRIME):
                made.send(b"child")

        made.send(b"first")
        forked(send)
        made.send(b"last")


@pytest.mark.parametrize("child", [0, 1])
def test_a_forked_child_that_moves(
    world: World, host: Judged, units: tuple[Path, Path], ends: tuple[str, str], child: int
) -> None:
    """Each sends as what it is; one denied takes nothing from the other."""
    with sink(world, ends[1]) as peer:
        port = peer.getsockname()[1]
        world.a.run(send_in_turns, units[child], ends[1], port, cgroup=units[1])
        assert taken(peer) == [b"first", *[b"child"] * (PRIME * child), b"last"]


def open_and_pass(channel: socket.socket, address: str, port: int) -> None:
    with socket.create_connection((address, port), timeout=10) as client:
        client.sendall(b"x" * 101)
        socket.send_fds(channel, [b"!"], [client.fileno()])


def go_on(channel: socket.socket, family: int, done: int) -> None:
    with received(channel, socket.SOCK_STREAM, family) as client:
        client.settimeout(5)
        client.sendall(b"y" * 103)
        os.write(done, b"!")


@pytest.mark.parametrize("user", [0, 1])
def test_connection(
    world: World, host: Judged, units: tuple[Path, Path], ends: tuple[str, str], user: int
) -> None:
    """An open one is cut by its packets, where it comes to who may not have it."""
    ours, theirs = socket.socketpair()
    out, into = os.pipe()
    with (
        ours,
        theirs,
        testers.tcp_server(world.b, ends[1]) as port,
        FlowReader(host.path.object, boottime_ns) as reader,
    ):
        world.a.run(open_and_pass, ours, ends[1], port, cgroup=units[1])
        world.a.run(go_on, theirs, family_of(ends[1]), into, cgroup=units[user])
        assert os.read(out, 1) == b"!"
        (row,) = flows(reader, p.TCP)
        assert bool(row.dropped_packets) is (not user)
    os.close(out)
    os.close(into)
