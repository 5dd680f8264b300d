"""Sockets that came to another process: by a descriptor passed, by a fork, by an accept. The flow is of who sends."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
from collections.abc import Iterator

import pytest

from aegis.kernel.constants import Constants
from aegis.kernel.datapath import Datapath
from aegis.kernel.datapath_plan import CORE
from aegis.kernel.flows import FlowReader
from tests.support import packets as p
from tests.support import testers
from tests.support.flows import boottime_ns, family_of, watched
from tests.support.owners import Identity, flows, forked, identity, is_of, make_and_pass, received, serve
from tests.support.world import World

pytestmark = pytest.mark.require("root", "bpf", "cgroup", "tracing", "sk_storage")

PRIME = 13


@pytest.fixture(params=[4, 6])
def ends(request: pytest.FixtureRequest, world: World) -> tuple[str, str]:
    """Addresses of the host under test and of its peer."""
    return (world.a.v4, world.b.v4) if request.param == 4 else (world.a.v6, world.b.v6)


@contextlib.contextmanager
def sink(world: World, address: str) -> Iterator[int]:
    """The port of a socket in the peer that takes datagrams."""
    with world.b.socket(family_of(address), socket.SOCK_DGRAM) as receiver:
        receiver.bind((address, 0))
        yield receiver.getsockname()[1]


def send_passed(channel: socket.socket, address: str, port: int) -> Identity:
    with received(channel, socket.SOCK_DGRAM, family_of(address)) as sender:
        for _ in range(PRIME):
            sender.sendto(b"x", (address, port))
    return identity()


@pytest.mark.parametrize("before", [0, PRIME])
def test_passed_datagram_socket(world: World, ends: tuple[str, str], before: int) -> None:
    """Unconnected, also where the flow is one its maker began."""
    here, there = ends
    ours, theirs = socket.socketpair()
    with ours, theirs, watched(world) as reader, sink(world, there) as port:
        maker = world.a.run(make_and_pass, ours, here, there, port, before, cgroup=world.cgroup)
        if before:
            (row,) = flows(reader, p.UDP)
            assert is_of(reader.owner(row.owner), maker)
        user = world.a.run(send_passed, theirs, there, port, cgroup=world.cgroup)
        assert maker.pid != user.pid
        (row,) = flows(reader, p.UDP)
        assert row.packets_egress == before + PRIME
        assert is_of(reader.owner(row.owner), user)


def send_by_child(source: str, address: str, port: int, before: int, after: int) -> tuple[Identity, Identity]:
    """Make a datagram socket, send, let a child send, and send again; who the two are."""
    with socket.socket(family_of(address), socket.SOCK_DGRAM) as made:
        made.bind((source, 0))

        def send() -> Identity:
            made.sendto(b"x", (address, port))
            return identity()

        for _ in range(before):
            send()
        child = forked(send)
        for _ in range(after):
            send()
    return identity(), child


@pytest.mark.parametrize(("before", "after"), [(0, 0), (PRIME, 0), (PRIME, 1)])
def test_forked_child_sends(world: World, ends: tuple[str, str], before: int, after: int) -> None:
    """Of who sent last."""
    here, there = ends
    with watched(world) as reader, sink(world, there) as port:
        parent, child = world.a.run(send_by_child, here, there, port, before, after, cgroup=world.cgroup)
        (row,) = flows(reader, p.UDP)
        assert row.packets_egress == before + 1 + after
        assert is_of(reader.owner(row.owner), parent if after else child)


def serve_by_children(address: str, announce: int, count: int) -> tuple[Identity, list[Identity]]:
    """Listen; each connection is accepted and answered by a child of its own."""
    with socket.create_server((address, 0), family=family_of(address)) as listener:
        os.write(announce, listener.getsockname()[1].to_bytes(2, "little"))
        return identity(), [forked(serve, listener, 1) for _ in range(count)]


def request(address: str, port: int) -> int:
    """Ask, read the answer to its end; the port that asked."""
    with socket.create_connection((address, port), timeout=10) as client:
        local: int = client.getsockname()[1]
        client.sendall(b"x" * 211)
        client.shutdown(socket.SHUT_WR)
        while client.recv(4096):
            pass
    return local


def test_accepting_child(world: World, ends: tuple[str, str]) -> None:
    """Prefork: the flow is of the child that answers, from its answer on."""
    here, _ = ends
    out, into = os.pipe()
    with watched(world) as reader:
        with world.a.start(serve_by_children, here, into, PRIME, cgroup=world.cgroup) as server:
            port = int.from_bytes(os.read(out, 2), "little")
            asked = [world.b.run(request, here, port) for _ in range(PRIME)]
            parent, children = server.result(20)
        assert parent.pid not in {child.pid for child in children}
        found = {row.remote_port: reader.owner(row.owner) for row in flows(reader, p.TCP)}
        wrong = [
            (found[port], child)
            for port, child in zip(asked, children, strict=True)
            if not is_of(found[port], child)
        ]
        assert not wrong, parent
    os.close(out)
    os.close(into)


def connect_and_pass(channel: socket.socket, address: str, port: int) -> Identity:
    with socket.create_connection((address, port), timeout=10) as client:
        client.sendall(b"x" * 101)
        socket.send_fds(channel, [b"!"], [client.fileno()])
    return identity()


def go_on(channel: socket.socket, family: int, before: int, after: int) -> Identity:
    """Send on the connection that comes, with that many descriptors opened before it and after."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    for _ in range(before):
        os.dup(channel.fileno())
    with received(channel, socket.SOCK_STREAM, family) as client:
        assert client.fileno() > before
        for _ in range(after):
            os.dup(channel.fileno())
        client.sendall(b"x" * 307)
    return identity()


@pytest.mark.parametrize(("before", "after"), [(0, 0), (500, 0), (1500, 0), (0, 1500)])
def test_passed_connection(world: World, ends: tuple[str, str], before: int, after: int) -> None:
    """Also where the process has many descriptors."""
    _, there = ends
    ours, theirs = socket.socketpair()
    with ours, theirs, watched(world) as reader, testers.tcp_server(world.b, there) as port:
        maker = world.a.run(connect_and_pass, ours, there, port, cgroup=world.cgroup)
        user = world.a.run(go_on, theirs, family_of(there), before, after, cgroup=world.cgroup)
        assert maker.pid != user.pid
        (row,) = flows(reader, p.TCP)
        assert is_of(reader.owner(row.owner), user)


def test_other_sockets_of_the_maker_keep_their_owner(world: World) -> None:
    """The label that changes is the passed socket's own."""
    ours, theirs = socket.socketpair()
    with (
        ours,
        theirs,
        watched(world) as reader,
        sink(world, world.b.v4) as port,
        sink(world, world.b.v4) as other,
    ):
        maker = world.a.run(
            make_two_and_pass, ours, world.a.v4, world.b.v4, (port, other), cgroup=world.cgroup
        )
        user = world.a.run(send_passed, theirs, world.b.v4, port, cgroup=world.cgroup)
        found = {row.remote_port: reader.owner(row.owner) for row in flows(reader, p.UDP)}
        assert is_of(found[port], user)
        assert is_of(found[other], maker)


def make_two_and_pass(channel: socket.socket, source: str, address: str, ports: tuple[int, int]) -> Identity:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as kept:
        kept.sendto(b"x", (address, ports[1]))
        return make_and_pass(channel, source, address, ports[0], 1)


def test_without_the_look_at_who_sends(world: World) -> None:
    """As older kernels load it: the flow is of the socket's maker."""
    constants = Constants(agent_tgid=0, ring_bytes=1 << 20, ring_reserved_bytes=0, senders=False)
    ours, theirs = socket.socketpair()
    with world.a.entered():
        path = Datapath.install(
            CORE,
            constants=constants,
            map_sizes={"aegis_flows": 4096, "aegis_owners": 1024},
            interfaces=[world.a.index],
            cgroup_root=world.cgroup,
            pin_dir=None,
        )
    with (
        ours,
        theirs,
        contextlib.closing(path),
        FlowReader(path.object, boottime_ns) as reader,
        sink(world, world.b.v4) as port,
    ):
        maker = world.a.run(make_and_pass, ours, world.a.v4, world.b.v4, port, 0, cgroup=world.cgroup)
        world.a.run(send_passed, theirs, world.b.v4, port, cgroup=world.cgroup)
        (row,) = flows(reader, p.UDP)
        assert is_of(reader.owner(row.owner), maker)
