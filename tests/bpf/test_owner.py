"""Whose socket a flow is: every kind of process and every named label, told by the process itself."""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from aegis._native.flowtable import FlowRow
from aegis.kernel.flows import IdleRules, SocketOwner
from tests.support import packets as p
from tests.support import testers
from tests.support.flows import family_of, harvested, settled, watched
from tests.support.owners import Identity, flows, identity, is_of, serve
from tests.support.world import World

pytestmark = pytest.mark.require("root", "bpf", "cgroup", "tracing", "sk_storage", "iterators")

PRIME = 13


def connect(address: str, port: int) -> tuple[Identity, int]:
    with socket.create_connection((address, port), timeout=10) as client:
        client.sendall(b"x" * 997)
        return identity(), client.getsockname()[1]


def listen_and_serve(address: str, announce: int, count: int) -> Identity:
    with socket.create_server((address, 0), family=family_of(address)) as listener:
        os.write(announce, listener.getsockname()[1].to_bytes(2, "little"))
        return serve(listener, count)


def request(address: str, port: int) -> None:
    with socket.create_connection((address, port), timeout=10) as client:
        client.sendall(b"x" * 211)
        client.shutdown(socket.SHUT_WR)
        while client.recv(4096):
            pass


def send(source: str, address: str, port: int) -> Identity:
    with socket.socket(family_of(address), socket.SOCK_DGRAM) as sender:
        sender.bind((source, 0))
        sender.sendto(b"x", (address, port))
    return identity()


def receive(address: str, announce: int) -> Identity:
    with socket.socket(family_of(address), socket.SOCK_DGRAM) as receiver:
        receiver.bind((address, 0))
        receiver.settimeout(20)
        os.write(announce, receiver.getsockname()[1].to_bytes(2, "little"))
        receiver.recv(100)
    return identity()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


@pytest.fixture(params=[4, 6])
def ends(request: pytest.FixtureRequest, world: World) -> tuple[str, str]:
    """Addresses of the host under test and of its peer."""
    return (world.a.v4, world.b.v4) if request.param == 4 else (world.a.v6, world.b.v6)


def test_client(world: World, ends: tuple[str, str]) -> None:
    _, there = ends
    with watched(world) as reader, testers.tcp_server(world.b, there) as port:
        process, local_port = world.a.run(connect, there, port, cgroup=world.cgroup)
        (row,) = flows(reader, p.TCP)
        assert row.local_port == local_port
        assert is_of(reader.owner(row.owner), process)
        assert row.cookie != 0


def test_accepted_socket(world: World, ends: tuple[str, str], pipe: tuple[int, int]) -> None:
    """From the SYN on, which finds the listener."""
    here, _ = ends
    with (
        watched(world) as reader,
        world.a.start(listen_and_serve, here, pipe[1], PRIME, cgroup=world.cgroup) as server,
    ):
        port = int.from_bytes(os.read(pipe[0], 2), "little")
        for _ in range(PRIME):
            world.b.run(request, here, port)
        process = server.result(20)
        rows = flows(reader, p.TCP)
        assert len(rows) == PRIME
        for row in rows:
            assert is_of(reader.owner(row.owner), process)
            assert row.local_port == port
        assert len({row.cookie for row in rows}) == PRIME, "of the connection, not of the listener"


def test_udp_sent(world: World, ends: tuple[str, str]) -> None:
    here, there = ends
    with watched(world) as reader, world.b.socket(family_of(there), socket.SOCK_DGRAM) as sink:
        sink.bind((there, 0))
        process = world.a.run(send, here, there, sink.getsockname()[1], cgroup=world.cgroup)
        (row,) = flows(reader, p.UDP)
        assert is_of(reader.owner(row.owner), process)


def test_udp_received(world: World, ends: tuple[str, str], pipe: tuple[int, int]) -> None:
    here, there = ends
    with (
        watched(world) as reader,
        world.a.start(receive, here, pipe[1], cgroup=world.cgroup) as server,
    ):
        port = int.from_bytes(os.read(pipe[0], 2), "little")
        world.b.run(send, there, here, port)
        process = server.result(20)
        (row,) = flows(reader, p.UDP)
        assert is_of(reader.owner(row.owner), process)


def test_processes_of_a_millisecond(world: World, tester: Path) -> None:
    """Each datagram from a process of its own, gone before anybody could ask /proc."""
    number = 53
    with watched(world) as reader, world.b.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.bind((world.b.v4, 0))
        port = str(sink.getsockname()[1])
        done = world.a.command(tester, "udp-each", str(number), "31", world.b.v4, port, cgroup=world.cgroup)
        outcome = testers.parse(done.stdout)
        assert outcome.done == number
        rows = flows(reader, p.UDP)
        owners = [reader.owner(row.owner) for row in rows]
        assert sum(row.packets_egress for row in rows) == number
        found = [owner.pid for owner in owners]
        # Two of them may have had one port, one after the other; then the flow is the second one's.
        assert len(found) == len(set(found))
        assert set(found) <= set(outcome.pids)
        assert number - len(rows) == sum(row.packets_egress - 1 for row in rows)
        assert {owner.comm for owner in owners} == {b"tester"}


def send_from(source: str, source_port: int, address: str, port: int) -> Identity:
    with socket.socket(family_of(address), socket.SOCK_DGRAM) as sender:
        sender.bind((source, source_port))
        sender.sendto(b"x", (address, port))
    return identity()


def test_a_port_that_passes_to_another_process(world: World, ends: tuple[str, str]) -> None:
    """One flow to everybody's eyes; its owner is who sent last."""
    here, there = ends
    with watched(world) as reader, world.b.socket(family_of(there), socket.SOCK_DGRAM) as sink:
        sink.bind((there, 0))
        for _ in range(3):
            process = world.a.run(send_from, here, 5003, there, sink.getsockname()[1], cgroup=world.cgroup)
            (row,) = flows(reader, p.UDP)
            assert is_of(reader.owner(row.owner), process)
        assert flows(reader, p.UDP)[0].packets_egress == 3


def hold_and_send(address: str, port: int, announce: int, go: int) -> Identity:
    """Connect, say so, and send once told to."""
    with socket.create_connection((address, port), timeout=10) as client:
        os.write(announce, b"!")
        os.read(go, 1)
        client.sendall(b"x" * 101)
    return identity()


def test_socket_older_than_the_agent(world: World, pipe: tuple[int, int]) -> None:
    go = os.pipe()
    with (
        testers.tcp_server(world.b, world.b.v4) as port,
        world.a.start(hold_and_send, world.b.v4, port, pipe[1], go[0]) as child,
    ):
        os.read(pipe[0], 1)
        with watched(world) as reader:
            os.write(go[1], b"!")
            process = child.result(20)
            (row,) = flows(reader, p.TCP)
            assert is_of(reader.owner(row.owner), process)
    for end in go:
        os.close(end)


def connect_passed(channel: socket.socket, address: str, port: int) -> Identity:
    """Connect the socket that comes through the channel."""
    _, ancillary, _, _ = channel.recvmsg(1, socket.CMSG_SPACE(4))
    descriptor = array.array("i", ancillary[0][2])[0]
    with socket.socket(fileno=descriptor) as client:
        client.connect((address, port))
        client.sendall(b"x" * 307)
    return identity()


def make_and_pass(channel: socket.socket) -> Identity:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as made:
        socket.send_fds(channel, [b"!"], [made.fileno()])
    return identity()


def test_passed_descriptor(world: World) -> None:
    """The process that connects owns it, not the one that made it."""
    ours, theirs = socket.socketpair()
    with ours, theirs, watched(world) as reader, testers.tcp_server(world.b, world.b.v4) as port:
        maker = world.a.run(make_and_pass, ours, cgroup=world.cgroup)
        user = world.a.run(connect_passed, theirs, world.b.v4, port, cgroup=world.cgroup)
        (row,) = flows(reader, p.TCP)
        assert maker.pid != user.pid
        assert is_of(reader.owner(row.owner), user)


def test_labels(world: World) -> None:
    """The kernel's own answers, what is forwarded, and a socket that nobody could label."""
    third = world.add_peer()
    with world.a.entered():
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    for place, network, gateway in (
        (world.b, "10.77.1.0/24", world.a.v4),
        (third, "10.77.0.0/24", "10.77.1.1"),
    ):
        with place.netlink() as netlink:
            netlink.add_route(network, place.interface, gateway)
    with watched(world) as reader:
        assert world.b.run(testers.icmp_echoes, world.b.v4, world.a.v4, PRIME, 31).done == PRIME
        refused = world.b.run(testers.tcp_connects, world.a.v4, 9, 1)
        assert refused.only_error() == "ECONNREFUSED"
        assert world.b.run(testers.icmp_echoes, world.b.v4, "10.77.1.2", PRIME, 31).done == PRIME
        settled(world)
        labels = {
            (row.protocol, local_address(row)): reader.owner(row.owner).label for row in harvested(reader)
        }
        assert labels == {
            (p.ICMP, world.a.v4): "kernel",
            (p.TCP, world.a.v4): "kernel",
            (p.ICMP, "10.77.1.2"): "forwarded",
        }


def local_address(row: FlowRow) -> str:
    return socket.inet_ntop(socket.AF_INET, row.local[12:])


def test_outside_the_hook_is_unknown(world: World) -> None:
    """A UDP socket made where no hook sees it and after the backfill."""
    with watched(world) as reader, world.b.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.bind((world.b.v4, 0))
        world.a.run(send, world.a.v4, world.b.v4, sink.getsockname()[1])
        (row,) = flows(reader, p.UDP)
        assert reader.owner(row.owner) == SocketOwner(label="unknown")


def test_owners_beyond_the_table_are_counted(world: World, tester: Path) -> None:
    """The flow still names pid and start; what else is known of the process is lost, and that is counted."""
    number = 17
    with watched(world, owners=1) as reader, world.b.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.bind((world.b.v4, 0))
        before = reader.losses()["owner_full"]
        port = str(sink.getsockname()[1])
        done = world.a.command(tester, "udp-each", str(number), "31", world.b.v4, port, cgroup=world.cgroup)
        owners = [reader.owner(row.owner) for row in flows(reader, p.UDP)]
        assert {owner.pid for owner in owners} <= set(testers.parse(done.stdout).pids)
        nameless = sum(owner.comm is None for owner in owners)
        assert len(owners) - 1 <= nameless <= reader.losses()["owner_full"] - before


def test_owners_are_forgotten_when_process_and_flows_are_gone(world: World) -> None:
    with watched(world) as reader, world.b.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.bind((world.b.v4, 0))
        process = world.a.run(send, world.a.v4, world.b.v4, sink.getsockname()[1], cgroup=world.cgroup)

        def alive(owner: SocketOwner) -> bool:
            return bool(owner.pid != process.pid)

        (row,) = flows(reader, p.UDP)
        assert reader.forget_owners(alive) == 0, "a flow uses it"
        reader.reap(IdleRules(datagram_new=0))
        assert reader.forget_owners(alive, [row.owner]) == 0, "the caller uses it"
        assert reader.forget_owners(alive) == 1
        assert reader.owner(row.owner).comm is None
