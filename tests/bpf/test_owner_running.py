"""Who only happens to run when a packet leaves is not its sender, not even with the socket among its descriptors."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import time
from pathlib import Path

import pytest

from tests.support import packets as p
from tests.support import testers
from tests.support.flows import settled, watched
from tests.support.owners import Identity, flows, forked, identity, is_of, make_and_pass, received
from tests.support.world import World

pytestmark = pytest.mark.require("root", "bpf", "cgroup", "tracing", "sk_storage")

NOARP, SIOCGIFFLAGS, SIOCSIFFLAGS, SIOCDARP = 0x80, 0x8913, 0x8914, 0x8953


def resolves(world: World) -> None:
    """From now on the host under test asks for its peer's address, a minute long, and is not answered."""
    with world.a.entered():
        Path(f"/proc/sys/net/ipv4/neigh/{world.a.interface}/mcast_solicit").write_text("60")
    with world.a.socket(kind=socket.SOCK_DGRAM) as control:
        name = world.a.interface.encode()
        answer = fcntl.ioctl(control, SIOCGIFFLAGS, struct.pack("16sH14x", name, 0))
        flags = struct.unpack_from("H", answer, 16)[0]
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH14x", name, flags & ~NOARP))


def wait_for_neighbour(channel: socket.socket, source: str, address: str, port: int) -> Identity:
    """Make a socket, give a copy away, and send what has to wait."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.bind((source, 0))
        made.sendto(b"x", (address, port))
        socket.send_fds(channel, [b"!"], [made.fileno()])
    return identity()


def answer_for(channel: socket.socket, frame: bytes, raw: socket.socket) -> Identity:
    """With the other's socket open, send the answer that lets its packet go."""
    with received(channel, socket.SOCK_DGRAM, socket.AF_INET):
        raw.send(frame)
    return identity()


def neighbour_answer(world: World, address: str = "") -> bytes:
    """The frame by which the peer tells that an address, by default its own, is its."""
    told = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 2)
    told += world.b.mac + socket.inet_aton(address or world.b.v4) + world.a.mac + socket.inet_aton(world.a.v4)
    return p.ethernet(p.ARP, told, macs=world.a.mac + world.b.mac)


def test_waiting_packet_goes_in_a_softirq(world: World) -> None:
    """In whose call the answer came matters nothing, not even when that process has the socket too."""
    resolves(world)
    frame = neighbour_answer(world)
    ours, theirs = socket.socketpair()
    with ours, theirs, watched(world) as reader, world.b.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((world.b.interface, 0))
        sender = world.a.run(wait_for_neighbour, ours, world.a.v4, world.b.v4, 9, cgroup=world.cgroup)
        assert flows(reader, p.UDP) == []
        other = world.a.run(answer_for, theirs, frame, raw, cgroup=world.cgroup)
        settled(world)
        (row,) = (row for row in flows(reader, p.UDP) if row.packets_egress)
        assert sender.pid != other.pid
        assert is_of(reader.owner(row.owner), sender)


def spin(seconds: float) -> None:
    """Burn processor time, nearly all of it outside the kernel."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        for _ in range(100_000):
            pass


def spin_with(channel: socket.socket, announce: int, processor: int) -> int:
    """Have the other's socket open and call nothing; the processor's number."""
    os.sched_setaffinity(0, {processor})
    with received(channel, socket.SOCK_DGRAM, socket.AF_INET):
        os.write(announce, b"!")
        spin(1)
    return processor


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one processor")
def test_waiting_packet_goes_in_an_interrupt(world: World) -> None:
    """What comes in is handled on a processor where a process that has the socket runs in no call."""
    resolves(world)
    busy, free = sorted(os.sched_getaffinity(0))[:2]
    steer = f"mount -t sysfs sysfs /sys && echo {1 << busy:x} > /sys/class/net/{world.a.interface}/queues/rx-0/rps_cpus"
    world.a.command("unshare", "-m", "sh", "-c", steer)
    out, into = os.pipe()
    ours, theirs = socket.socketpair()
    with ours, theirs, watched(world) as reader, world.b.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((world.b.interface, 0))
        sender = world.a.run(wait_for_neighbour, ours, world.a.v4, world.b.v4, 9, cgroup=world.cgroup)
        with world.a.start(spin_with, theirs, into, busy, cgroup=world.cgroup) as spinning:
            os.read(out, 1)
            assert flows(reader, p.UDP) == []
            world.b.run(send_from, raw, neighbour_answer(world), free)
            spinning.result(60)
        (row,) = (row for row in flows(reader, p.UDP) if row.packets_egress)
        assert is_of(reader.owner(row.owner), sender)
    os.close(out)
    os.close(into)


def send_from(raw: socket.socket, frame: bytes, processor: int) -> None:
    os.sched_setaffinity(0, {processor})
    time.sleep(0.2)  # the other is busy by now
    raw.send(frame)


def test_waiting_packet_let_go_by_a_call(world: World) -> None:
    """Who enters a neighbour sends what waited for it, in a call of its own, and is not its owner."""
    resolves(world)
    ours, theirs = socket.socketpair()
    with ours, theirs, watched(world) as reader:
        sender = world.a.run(wait_for_neighbour, ours, world.a.v4, world.b.v4, 9, cgroup=world.cgroup)
        assert flows(reader, p.UDP) == []
        with world.a.netlink() as netlink:
            netlink.add_neighbour(world.a.interface, world.b.v4, world.b.mac)
        (row,) = (row for row in flows(reader, p.UDP) if row.packets_egress)
        assert is_of(reader.owner(row.owner), sender)


def forget(world: World, address: str) -> None:
    """Take the neighbour's entry away."""
    with world.a.socket(kind=socket.SOCK_DGRAM) as control:
        request = struct.pack(
            "HH4s8x36x16s", socket.AF_INET, 0, socket.inet_aton(address), world.a.interface.encode()
        )
        fcntl.ioctl(control, SIOCDARP, request)


def make_send_and_pass(channel: socket.socket, source: str, far: tuple[str, int]) -> Identity:
    return make_and_pass(channel, source, *far, 1)


def send_to_both(channel: socket.socket, near: tuple[str, int], far: tuple[str, int]) -> Identity:
    with received(channel, socket.SOCK_DGRAM, socket.AF_INET) as sender:
        sender.sendto(b"x", near)
        sender.sendto(b"x", far)
    return identity()


def test_the_socket_s_other_flow_follows_in_the_next_epoch(world: World) -> None:
    """Also by a packet that leaves in nobody's call, once the socket is known to have another owner."""
    resolves(world)
    ours, theirs = socket.socketpair()
    near, far = (world.b.v4, 9), ("10.77.0.9", 9)
    with ours, theirs, watched(world) as reader, world.a.netlink() as netlink:
        reader.advance()
        for address in (near[0], far[0]):
            netlink.add_neighbour(world.a.interface, address, world.b.mac)
        maker = world.a.run(make_send_and_pass, ours, world.a.v4, far, cgroup=world.cgroup)
        forget(world, far[0])
        user = world.a.run(send_to_both, theirs, near, far, cgroup=world.cgroup)
        found = {row.remote[12:]: reader.owner(row.owner) for row in flows(reader, p.UDP)}
        assert is_of(found[socket.inet_aton(far[0])], maker), "its packet waits"
        assert is_of(found[socket.inet_aton(near[0])], user)
        time.sleep(1.1)  # an epoch is a second
        reader.advance()
        with world.b.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind((world.b.interface, 0))
            raw.send(neighbour_answer(world, far[0]))
        settled(world)
        (row,) = (row for row in flows(reader, p.UDP) if row.remote[12:] == socket.inet_aton(far[0]))
        assert row.packets_egress == 2
        assert is_of(reader.owner(row.owner), user)


def send_unanswered_and_spin(address: str, port: int, announce: int, go: int) -> tuple[Identity, Identity]:
    """A child sends on our connection, to nobody; what the kernel sends again comes while we do not call it."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with socket.create_connection((address, port), timeout=10) as client:
        client.sendall(b"x")
        os.write(announce, b"!")
        os.read(go, 1)

        def send() -> Identity:
            client.sendall(b"x" * 307)
            return identity()

        child = forked(send)
        spin(1.5)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.write(announce, b"!")
        os.read(go, 1)
    return identity(), child


def test_sent_again_while_another_runs(world: World) -> None:
    """A timer's packets are of who sent them first, whoever the timer met, also one that has the socket."""
    (out, into), (back, go) = os.pipe(), os.pipe()
    with (
        watched(world) as reader,
        testers.tcp_server(world.b, world.b.v4) as port,
        world.a.start(send_unanswered_and_spin, world.b.v4, port, into, back, cgroup=world.cgroup) as running,
    ):
        os.read(out, 1)
        settled(world)
        world.b.command(
            "nft",
            "add table inet deaf; add chain inet deaf in { type filter hook prerouting priority 0; policy drop; }",
        )
        (before,) = flows(reader, p.TCP)
        os.write(go, b"!")
        os.read(out, 1)
        (row,) = flows(reader, p.TCP)
        os.write(go, b"!")
        _, child = running.result(20)
        assert row.packets_egress > before.packets_egress + 2
        assert is_of(reader.owner(row.owner), child)
    for end in (out, into, back, go):
        os.close(end)
