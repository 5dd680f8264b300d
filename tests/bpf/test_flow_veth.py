"""Known workloads over a veth pair, counted by the flow programs, by the interface and by nftables."""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
import random
import re
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aegis._native.flowtable import FlowTable
from aegis.kernel.flows import Count, IdleRules
from aegis.kernel.tc import Way
from tests.support import packets as p
from tests.support import testers
from tests.support.flows import counted, family_of, harvested, settled, total, watched
from tests.support.world import World

pytestmark = pytest.mark.require("root", "bpf")

REPORTS = 2  # of a join: the kernel's robustness variable, of IGMPv3 and MLDv2
PRIMES = (101, 211, 307, 401, 503, 601, 701, 809, 907, 1009)


@pytest.fixture(params=["tcx", "clsact"])
def way(request: pytest.FixtureRequest) -> Way:
    return "tcx" if request.param == "tcx" else "clsact"


@pytest.mark.parametrize("version", [4, 6])
def test_tcp(world: World, way: Way, version: int) -> None:
    number = random.choice(PRIMES)
    payload = bytes(random.randrange(1, 90_000))  # super-packets included
    target = world.b.v4 if version == 4 else world.b.v6
    with watched(world, way) as reader:
        before = world.a.statistics()
        with testers.tcp_server(world.b, target) as port:
            outcome = world.a.run(testers.tcp_connects, target, port, number, payload)
            after = settled(world)
        assert outcome.done == number
        rows = [row for row in harvested(reader) if row.protocol == p.TCP]
        assert len(rows) == len(set(outcome.ports)) == number
        assert {row.remote_port for row in rows} == {port}
        totals = reader.totals()
        assert totals.balanced()
        assert totals.seen == total(rows) == counted(before, after)
        reached = {row.state for row in rows}
        assert reached == {7}, "each connection was closed by both sides"


@pytest.mark.parametrize("version", [4, 6])
def test_udp_against_the_interface_and_nftables(world: World, way: Way, version: int) -> None:
    number, size = random.choice(PRIMES), random.randrange(1, 1400)
    source, target = (world.a.v4, world.b.v4) if version == 4 else (world.a.v6, world.b.v6)
    world.b.command(
        "nft",
        "add table inet judge; add chain inet judge in { type filter hook input priority 0; };"
        "add rule inet judge in meta l4proto udp counter",
    )
    with watched(world, way) as reader, world.b.socket(family_of(target), socket.SOCK_DGRAM) as sink:
        sink.bind((target, 0))
        before = world.a.statistics()
        outcome = world.a.run(testers.udp_datagrams, source, target, sink.getsockname()[1], number, size)
        after = settled(world)
        assert outcome.done == number
        (row,) = harvested(reader)
        header = 14 + (20 if version == 4 else 40) + 8
        assert (row.packets_egress, row.bytes_egress) == (number, number * (size + header))
        assert (row.local_port, row.remote_port) == (outcome.ports[0], sink.getsockname()[1])
        listing = world.b.command("nft", "list", "chain", "inet", "judge", "in").stdout
        judged = re.search(r"counter packets (\d+) bytes (\d+)", listing)
        assert judged is not None
        assert (int(judged[1]), int(judged[2])) == (number, row.bytes_egress - number * 14)
        assert total([row]) == counted(before, after)
        assert reader.totals().balanced()


@pytest.mark.parametrize("version", [4, 6])
def test_icmp(world: World, way: Way, version: int) -> None:
    number, size = random.choice(PRIMES), random.randrange(8, 1300)
    source, target = (world.a.v4, world.b.v4) if version == 4 else (world.a.v6, world.b.v6)
    with watched(world, way) as reader:
        before = world.a.statistics()
        outcome = world.a.run(testers.icmp_echoes, source, target, number, size)
        after = settled(world)
        assert outcome.done == number
        (row,) = harvested(reader)
        assert (row.packets_egress, row.packets_ingress) == (number, number)
        assert total([row]) == counted(before, after)
        assert reader.totals().balanced()


def report_soon(world: World) -> None:
    """A group joined is reported twice, the second time up to a second later: here within milliseconds."""
    with world.a.entered():
        for name in ("ipv4/conf/{}/igmpv3_unsolicited", "ipv6/conf/{}/mldv2_unsolicited"):
            path = Path("/proc/sys/net", name.format(world.a.interface) + "_report_interval")
            path.write_text("1")  # ms


def await_reports(world: World, before: int) -> None:
    """Both reports have gone: none is sent between two readings any more."""
    deadline = time.monotonic() + 20
    while world.a.statistics().tx_packets < before + REPORTS:
        assert time.monotonic() < deadline, "the group was not reported"
        time.sleep(0.005)


@pytest.mark.parametrize("target", ["broadcast", "239.77.1.2", "ff05::7701"])
def test_what_the_kernel_hands_back_of_what_is_sent(world: World, way: Way, target: str) -> None:
    """The copy of an own broadcast or multicast passes the ingress, and the interface received none."""
    number, size = random.choice(PRIMES[:4]), random.randrange(1, 1000)  # fits a receive buffer
    broadcast = str(ipaddress.ip_interface(f"{world.a.v4}/24").network.broadcast_address)
    target = broadcast if target == "broadcast" else target
    header, level = (40, socket.IPPROTO_IPV6) if ":" in target else (20, socket.IPPROTO_IP)
    report_soon(world)
    unreported = world.a.statistics().tx_packets
    with (
        world.a.socket(family_of(target), socket.SOCK_DGRAM) as member,
        world.a.socket(family_of(target), socket.SOCK_DGRAM) as sender,
    ):
        member.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        member.bind((target, 0))
        member.settimeout(10)
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sender.bind((world.a.v6 if ":" in target else world.a.v4, 0))
        if ":" in target:
            group = socket.inet_pton(socket.AF_INET6, target) + struct.pack("i", world.a.index)
            member.setsockopt(level, socket.IPV6_JOIN_GROUP, group)
            sender.setsockopt(level, socket.IPV6_MULTICAST_IF, world.a.index)
        elif target.startswith("239."):
            group = socket.inet_aton(target) + socket.inet_aton(world.a.v4)
            member.setsockopt(level, socket.IP_ADD_MEMBERSHIP, group)
            sender.setsockopt(level, socket.IP_MULTICAST_IF, socket.inet_aton(world.a.v4))
        if target != broadcast:
            await_reports(world, unreported)
        settled(world)
        with watched(world, way) as reader:
            before = world.a.statistics()
            port = member.getsockname()[1]
            for _ in range(number):
                sender.sendto(bytes(size), (target, port))
            for _ in range(number):
                assert len(member.recv(2000)) == size
            after = settled(world)
            rows = harvested(reader)
            (row,) = (row for row in rows if row.protocol == p.UDP)
            assert (row.remote, row.remote_port, row.packets_ingress) == (packed(target), port, 0)
            assert (row.packets_egress, row.bytes_egress) == (number, number * (14 + header + 8 + size))
            totals = reader.totals()
            assert totals.balanced()
            copies = Count(ingress_packets=number, ingress_bytes=number * (header + 8 + size))
            assert totals.looped == copies
            assert total(rows) == counted(before, after)
            assert totals.seen == counted(before, after) + copies


def test_vlan_tags(world: World) -> None:
    """In the frame (a raw socket's) and in the packet's metadata (where the receiving side puts it)."""
    inner = p.ipv4(world.b.v4, world.a.v4, p.UDP, p.udp(1009, 53, bytes(31)))
    once = p.ethernet(p.VLAN, p.tag(211, p.IPV4, inner), macs=world.a.mac + world.b.mac)
    twice = p.ethernet(p.QINQ, p.tag(307, p.VLAN, p.tag(101, p.IPV4, inner)), macs=world.a.mac + world.b.mac)
    with watched(world) as reader:
        for place, frame in ((world.b, once), (world.b, twice), (world.a, once), (world.a, twice)):
            with place.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
                raw.bind((place.interface, 0))
                raw.send(frame)
        settled(world)
        rows = harvested(reader)
        tags = {(row.vlan_outer, row.vlan_inner): (row.packets_egress, row.packets_ingress) for row in rows}
        # Sender and receiver are mirrored in the frame, so what a sends is another flow than what it gets.
        assert sorted((row.vlan_outer, row.vlan_inner) for row in rows) == [
            (211, 0),
            (211, 0),
            (307, 101),
            (307, 101),
        ]
        assert set(tags) == {(211, 0), (307, 101)}
        assert {(row.packets_egress, row.packets_ingress) for row in rows} == {(1, 0), (0, 1)}
        assert reader.totals().balanced()


def test_frames_cut_in_their_header(world: World) -> None:
    whole = p.ethernet(p.IPV4, p.ipv4(world.a.v4, world.b.v4, p.UDP, b""))
    six = p.ethernet(p.IPV6, p.ipv6(world.a.v6, world.b.v6, p.UDP, b""))
    cut = [whole[:15], whole[:-3], six[:-3], p.ethernet(p.VLAN, bytes(3))]
    with watched(world) as reader, world.a.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((world.a.interface, 0))
        for frame in cut:
            raw.send(frame)
        settled(world)
        totals = reader.totals()
        assert (
            totals.truncated == totals.seen == Count(egress_packets=len(cut), egress_bytes=sum(map(len, cut)))
        )
        assert totals.balanced()


@contextlib.contextmanager
def tunnel(world: World, *addresses: str) -> Iterator[tuple[int, int]]:
    """A device without link headers in a's namespace: its index, and the descriptor of its far side."""
    with world.a.entered():
        far = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(
            far, 0x400454CA, struct.pack("16sH14x", b"aegistun", 0x1001)
        )  # TUNSETIFF, IFF_TUN | IFF_NO_PI
        with world.a.netlink() as netlink:
            for address in addresses:
                netlink.add_address("aegistun", address)
            netlink.set_up("aegistun")
            index = netlink.link("aegistun").index
    try:
        yield index, far
    finally:
        os.close(far)


def test_a_device_without_link_headers(world: World) -> None:
    """Also where an address says what the type field of an Ethernet header would say."""
    inside = [("8.0.0.1", "8.0.0.2"), ("fd00:0:86dd::1", "fd00:0:86dd::2"), ("10.3.0.1", "10.3.0.2")]
    with (
        tunnel(world, "8.0.0.1/24", "fd00:0:86dd::1/64", "10.3.0.1/24") as (index, far),
        watched(world, interfaces=[index]) as reader,
    ):
        expected = set()
        for number, (here, there) in enumerate(inside):
            with world.a.socket(family_of(here), socket.SOCK_DGRAM) as receiver:
                receiver.bind((here, 5003 + number))
                receiver.settimeout(10)
                carried = p.udp(53, 5003 + number, bytes(31))
                build = p.ipv6 if ":" in here else p.ipv4
                os.write(far, build(there, here, p.UDP, p.checked_udp(there, here, carried)))
                receiver.recv(100)
                receiver.sendto(bytes(31), (there, 53))
            header = 40 if ":" in here else 20
            expected.add((packed(there), 5003 + number, 53, 1, 1, header + 8 + 31))
        found = {
            (
                row.remote,
                row.local_port,
                row.remote_port,
                row.packets_egress,
                row.packets_ingress,
                row.bytes_ingress,
            )
            for row in harvested(reader)
            if row.protocol == p.UDP
        }
        assert found == expected
        assert reader.totals().balanced()


def packed(address: str) -> bytes:
    found = p.address(address)
    return found if len(found) == 16 else bytes(10) + b"\xff\xff" + found


def test_no_byte_is_lost_while_flows_are_reaped(world: World, way: Way) -> None:
    """Hot flows are retired and reaped as fast as can be under traffic from both sides, and told whole."""
    number = 20_011
    rules = IdleRules(datagram_new=0, datagram_established=0)
    with (
        watched(world, way) as reader,
        world.a.socket(socket.AF_INET, socket.SOCK_DGRAM) as near,
        world.b.socket(socket.AF_INET, socket.SOCK_DGRAM) as far,
    ):
        near.bind((world.a.v4, 0))
        far.bind((world.b.v4, 0))
        before = world.a.statistics()
        final = Count()

        def reap() -> Count:
            known = FlowTable(64)
            known.next_harvest()
            known.ingest(reader.reap(rules), reaped=True)
            return total(known.rows())

        there, here = (far.getsockname()[1], near.getsockname()[1])
        with (
            world.a.start(testers.udp_datagrams, world.a.v4, world.b.v4, there, number, 101) as out,
            world.b.start(testers.udp_datagrams, world.b.v4, world.a.v4, here, number, 211) as into,
        ):
            while out.running() or into.running():
                final += reap()
            assert (out.result().done, into.result().done) == (number, number)
        after = settled(world)
        totals = reader.totals()
        assert totals.seen == counted(before, after)
        assert totals.balanced()
        assert totals.reaped == final
        assert min(final.egress_packets, final.ingress_packets) > 0
        final += reap()
        totals = reader.totals()
        assert (totals.live, totals.reaped) == (Count(), final)
        assert totals.balanced()
