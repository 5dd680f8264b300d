"""What the flow program makes of every class of packet: key, verdict and counter, by packets written byte for byte."""

from __future__ import annotations

import dataclasses
import ipaddress
import random
from collections.abc import Iterator

import pytest

from aegis._native.flowtable import FlowRow
from aegis.kernel import abi
from tests.support import packets as p
from tests.support.flows import EGRESS, INGRESS, PASSED, Table, open_table

pytestmark = pytest.mark.require("root", "bpf")

A, B = "10.9.0.1", "10.9.0.2"
A6, B6 = "fd09::1", "fd09::2"
SAMPLES = 4_001
SHORTEST = 54  # BPF_PROG_TEST_RUN refuses packets without room for the header their type announces


@pytest.fixture(scope="module")
def table() -> Iterator[Table]:
    with open_table() as made:
        yield made


@dataclasses.dataclass(frozen=True)
class Key:
    """The part of a flow's key that a packet decides. The sender is the local side at egress."""

    local: str
    remote: str
    local_port: int = 0
    remote_port: int = 0
    protocol: int = p.UDP
    fragment: int = 0
    vlan_outer: int = 0
    vlan_inner: int = 0


def key_of(row: FlowRow) -> Key:
    return Key(
        local=text(row.local),
        remote=text(row.remote),
        local_port=row.local_port,
        remote_port=row.remote_port,
        protocol=row.protocol,
        fragment=row.fragment,
        vlan_outer=row.vlan_outer,
        vlan_inner=row.vlan_inner,
    )


def text(packed: bytes) -> str:
    address = ipaddress.IPv6Address(packed)
    return str(address.ipv4_mapped or address)


def four(protocol: int, carried: bytes, **options: int | bytes) -> bytes:
    return p.ethernet(p.IPV4, p.ipv4(A, B, protocol, carried, **options))  # type: ignore[arg-type]


def six(following: int, carried: bytes, **options: int) -> bytes:
    return p.ethernet(p.IPV6, p.ipv6(A6, B6, following, carried, **options))


SEGMENT = p.tcp(40001, 443, p.ACK, bytes(17))
DATAGRAM = p.udp(40001, 53, bytes(17))
LATER = 3  # a fragment offset in units of 8 bytes
MORE = 0x2000

COUNTED = {
    "TCP": (four(p.TCP, SEGMENT), Key(A, B, 40001, 443, p.TCP)),
    "TCP with options": (
        four(p.TCP, p.tcp(40001, 443, p.ACK, bytes(3), words=8, options=bytes(12))),
        Key(A, B, 40001, 443, p.TCP),
    ),
    "TCP without payload": (four(p.TCP, p.tcp(40001, 443, p.ACK)), Key(A, B, 40001, 443, p.TCP)),
    "UDP": (four(p.UDP, DATAGRAM), Key(A, B, 40001, 53)),
    "UDP without payload": (four(p.UDP, p.udp(40001, 53)), Key(A, B, 40001, 53)),
    "SCTP": (four(p.SCTP, p.sctp(40001, 3868, bytes(16))), Key(A, B, 40001, 3868, p.SCTP)),
    "padded to the Ethernet minimum": (four(p.UDP, p.udp(40001, 53)) + bytes(18), Key(A, B, 40001, 53)),
    "IPv4 options": (four(p.UDP, DATAGRAM, options=bytes(12)), Key(A, B, 40001, 53)),
    "IPv4, longest options": (four(p.TCP, SEGMENT, options=bytes(40)), Key(A, B, 40001, 443, p.TCP)),
    "GRE": (four(47, bytes(24)), Key(A, B, protocol=47)),
    "protocol without payload": (four(59, b""), Key(A, B, protocol=59)),
    "ICMPv6 in IPv4": (four(p.ICMPV6, p.icmp(128, 0, 77)), Key(A, B, protocol=p.ICMPV6)),
    "first fragment": (
        four(p.UDP, p.udp(40001, 53, bytes(16), length=4000), fragment=MORE),
        Key(A, B, 40001, 53),
    ),
    "later fragment": (four(p.UDP, bytes(24), fragment=MORE | LATER), Key(A, B, protocol=p.UDP, fragment=1)),
    "last fragment": (four(p.TCP, bytes(8), fragment=LATER), Key(A, B, protocol=p.TCP, fragment=1)),
    "do not fragment": (four(p.UDP, DATAGRAM, fragment=0x4000), Key(A, B, 40001, 53)),
    "TCP over IPv6": (six(p.TCP, SEGMENT), Key(A6, B6, 40001, 443, p.TCP)),
    "UDP over IPv6": (six(p.UDP, DATAGRAM), Key(A6, B6, 40001, 53)),
    "IPv4-mapped addresses over IPv6": (
        p.ethernet(p.IPV6, p.ipv6("::ffff:10.9.0.1", "::ffff:10.9.0.2", p.UDP, DATAGRAM)),
        Key(A, B, 40001, 53),
    ),
    "SCTP over IPv6": (six(p.SCTP, p.sctp(40001, 3868, bytes(16))), Key(A6, B6, 40001, 3868, p.SCTP)),
    "ICMP in IPv6": (six(p.ICMP, p.icmp(8, 0, 77)), Key(A6, B6, protocol=p.ICMP)),
    "hop-by-hop": (six(p.HOP_BY_HOP, p.extension(p.TCP, SEGMENT)), Key(A6, B6, 40001, 443, p.TCP)),
    "routing": (six(p.ROUTING, p.extension(p.TCP, SEGMENT, units=2)), Key(A6, B6, 40001, 443, p.TCP)),
    "destination options": (six(p.DESTINATION, p.extension(p.UDP, DATAGRAM)), Key(A6, B6, 40001, 53)),
    "authentication": (six(p.AUTHENTICATION, p.authentication(p.UDP, DATAGRAM)), Key(A6, B6, 40001, 53)),
    "hop-by-hop, destination, routing, destination": (
        six(
            p.HOP_BY_HOP,
            p.extension(
                p.DESTINATION,
                p.extension(p.ROUTING, p.extension(p.DESTINATION, p.extension(p.TCP, SEGMENT), units=1)),
            ),
        ),
        Key(A6, B6, 40001, 443, p.TCP),
    ),
    "atomic fragment": (six(p.FRAGMENT, p.fragment6(p.UDP, 0, False, DATAGRAM)), Key(A6, B6, 40001, 53)),
    "first fragment over IPv6": (
        six(p.FRAGMENT, p.fragment6(p.UDP, 0, True, p.udp(40001, 53, bytes(16), length=4000))),
        Key(A6, B6, 40001, 53),
    ),
    "later fragment over IPv6": (
        six(p.FRAGMENT, p.fragment6(p.UDP, LATER, True, bytes(24))),
        Key(A6, B6, protocol=p.UDP, fragment=1),
    ),
    "no next header": (six(59, b""), Key(A6, B6, protocol=59)),
    "ESP": (six(50, bytes(32)), Key(A6, B6, protocol=50)),
    "VLAN": (
        p.ethernet(p.VLAN, p.tag(0x6007, p.IPV4, p.ipv4(A, B, p.UDP, DATAGRAM))),
        Key(A, B, 40001, 53, vlan_outer=7),
    ),
    "QinQ": (
        p.ethernet(p.QINQ, p.tag(1009, p.VLAN, p.tag(13, p.IPV6, p.ipv6(A6, B6, p.TCP, SEGMENT)))),
        Key(A6, B6, 40001, 443, p.TCP, vlan_outer=1009, vlan_inner=13),
    ),
    "echo request": (four(p.ICMP, p.icmp(8, 0, 771)), Key(A, B, 771, 8 << 8, p.ICMP)),
    "echo reply": (four(p.ICMP, p.icmp(0, 0, 771)), Key(A, B, 8 << 8, 771, p.ICMP)),
    "timestamp request": (four(p.ICMP, p.icmp(13, 0, 771, bytes(12))), Key(A, B, 771, 13 << 8, p.ICMP)),
    "timestamp reply": (four(p.ICMP, p.icmp(14, 0, 771, bytes(12))), Key(A, B, 13 << 8, 771, p.ICMP)),
    "ICMP redirect": (four(p.ICMP, p.icmp(5, 1, 0, bytes(28))), Key(A, B, 0, 5 << 8 | 1, p.ICMP)),
    "echo request over IPv6": (six(p.ICMPV6, p.icmp(128, 0, 771)), Key(A6, B6, 771, 128 << 8, p.ICMPV6)),
    "echo reply over IPv6": (six(p.ICMPV6, p.icmp(129, 0, 771)), Key(A6, B6, 128 << 8, 771, p.ICMPV6)),
    "neighbour solicitation": (
        six(p.ICMPV6, p.icmp(135, 0, 0, bytes(16))),
        Key(A6, B6, 0, 135 << 8, p.ICMPV6),
    ),
    "ICMP error about an unknown flow": (
        four(p.ICMP, p.icmp(3, 3, 0, p.ipv4("10.9.7.7", "10.9.7.8", p.UDP, p.udp(1, 2)))),
        Key(A, B, 0, 3 << 8 | 3, p.ICMP),
    ),
    "ICMP error that quotes nothing": (four(p.ICMP, p.icmp(11, 0)), Key(A, B, 0, 11 << 8, p.ICMP)),
    "MAC address that looks like IPv4": (
        p.ethernet(p.IPV4, p.ipv4(A, B, p.UDP, DATAGRAM), macs=bytes.fromhex("460000000002020000000001")),
        Key(A, B, 40001, 53),
    ),
    "MAC address that looks like IPv6": (
        p.ethernet(p.IPV6, p.ipv6(A6, B6, p.UDP, DATAGRAM), macs=bytes.fromhex("620000000002020000000001")),
        Key(A6, B6, 40001, 53),
    ),
}

SEVEN = p.DESTINATION, p.extension(p.UDP, DATAGRAM)
for _ in range(6):
    SEVEN = p.DESTINATION, p.extension(p.DESTINATION, SEVEN[1])

REFUSED = {
    "ARP": (p.ethernet(p.ARP, bytes(28)), "not_ip"),
    "VLAN with ARP": (p.ethernet(p.VLAN, p.tag(7, p.ARP, bytes(28))), "not_ip"),
    "802.3 with LLC": (p.ethernet(38, bytes(46)), "not_ip"),
    "IPv4 longer than the packet": (four(p.UDP, DATAGRAM, length=46), "truncated"),
    "IPv4 shorter than its header": (four(p.UDP, DATAGRAM, length=19), "bad_header"),
    "IPv4 header of four words": (four(p.UDP, DATAGRAM, words=4), "bad_header"),
    "IPv4 header longer than the packet": (four(p.UDP, b"", words=15), "bad_header"),
    "version 5": (four(p.UDP, DATAGRAM, version=5), "bad_header"),
    "version 4 under the type of IPv6": (p.ethernet(p.IPV6, p.ipv4(A, B, p.UDP, bytes(40))), "bad_header"),
    "half a TCP header": (four(p.TCP, SEGMENT[:19]), "truncated"),
    "TCP header of four words": (four(p.TCP, p.tcp(1, 2, p.ACK, words=4)), "bad_header"),
    "TCP header longer than the packet": (four(p.TCP, p.tcp(1, 2, p.ACK, words=6)), "truncated"),
    "TCP header split by fragments": (four(p.TCP, SEGMENT[:16], fragment=MORE), "truncated"),
    "half a UDP header": (four(p.UDP, DATAGRAM[:7]), "truncated"),
    "UDP of seven bytes": (four(p.UDP, p.udp(1, 2, length=7)), "bad_header"),
    "UDP longer than the packet": (four(p.UDP, p.udp(1, 2, length=9)), "truncated"),
    "half an SCTP header": (four(p.SCTP, p.sctp(1, 2)[:11]), "truncated"),
    "half an ICMP header": (four(p.ICMP, p.icmp(8, 0)[:7]), "truncated"),
    "IPv6 longer than the packet": (six(p.UDP, DATAGRAM, length=26), "truncated"),
    "version 7": (six(p.UDP, DATAGRAM, version=7), "bad_header"),
    "hop-by-hop in second place": (
        six(p.DESTINATION, p.extension(p.HOP_BY_HOP, p.extension(p.UDP, DATAGRAM))),
        "bad_header",
    ),
    "two fragment headers": (
        six(p.FRAGMENT, p.fragment6(p.FRAGMENT, 0, True, p.fragment6(p.UDP, 0, True, DATAGRAM))),
        "bad_header",
    ),
    "extension longer than the packet": (
        six(p.ROUTING, p.extension(p.UDP, b"")[:1] + b"\x02" + bytes(6)),
        "truncated",
    ),
    "half an extension": (six(p.ROUTING, p.extension(p.UDP, b"")[:7]), "truncated"),
    "seven extensions": (six(*SEVEN), "extensions"),
    "three VLAN tags": (
        p.ethernet(p.QINQ, p.tag(1, p.VLAN, p.tag(2, p.VLAN, p.tag(3, p.IPV4, p.ipv4(A, B, 17, DATAGRAM))))),
        "extensions",
    ),
}


@pytest.mark.parametrize("direction", [EGRESS, INGRESS])
@pytest.mark.parametrize("name", COUNTED)
def test_counted(table: Table, name: str, direction: str) -> None:
    packet, expected = COUNTED[name]
    if direction == INGRESS:  # the sender is the remote side
        expected = dataclasses.replace(
            expected,
            local=expected.remote,
            remote=expected.local,
            local_port=expected.remote_port,
            remote_port=expected.local_port,
        )
    table.changed()
    assert table.send(direction, packet) == PASSED
    (row,) = table.changed()
    assert key_of(row) == expected
    assert (row.ifindex, row.verdict) == (1, abi.VERDICT_ALLOW)
    out = (row.added_packets_egress, row.added_bytes_egress)
    into = (row.added_packets_ingress, row.added_bytes_ingress)
    counted = (1, len(packet))
    assert (out, into) == ((counted, (0, 0)) if direction == EGRESS else ((0, 0), counted))
    assert table.reader.totals().balanced()


@pytest.mark.parametrize("direction", [EGRESS, INGRESS])
@pytest.mark.parametrize("name", REFUSED)
def test_refused(table: Table, name: str, direction: str) -> None:
    packet, reason = REFUSED[name]
    table.changed()
    before = table.term(reason)
    side = abi.EGRESS if direction == EGRESS else abi.INGRESS
    assert table.send(direction, packet) == PASSED, "without a policy nothing is dropped"
    after = table.term(reason)
    assert after[side] - before[side] == 1
    assert after[2 + side] - before[2 + side] == len(packet)
    assert table.changed() == []
    assert table.reader.totals().balanced()


@pytest.mark.parametrize(
    ("request_", "reply"),
    [
        (four(p.ICMP, p.icmp(8, 0, 5003)), p.ethernet(p.IPV4, p.ipv4(B, A, p.ICMP, p.icmp(0, 0, 5003)))),
        (
            six(p.ICMPV6, p.icmp(128, 0, 5003)),
            p.ethernet(p.IPV6, p.ipv6(B6, A6, p.ICMPV6, p.icmp(129, 0, 5003))),
        ),
    ],
)
@pytest.mark.parametrize("first", [EGRESS, INGRESS])
def test_echo_is_one_flow(table: Table, request_: bytes, reply: bytes, first: str) -> None:
    """Whoever asks, request and answer are one flow, and two hosts asking with one identifier are two."""
    second = INGRESS if first == EGRESS else EGRESS
    table.send(first, request_)
    table.send(second, reply)
    (row,) = table.changed()
    assert row.added_packets_egress == row.added_packets_ingress == 1
    assert row.state == abi.FLOW_ESTABLISHED
    assert row.initiator == (abi.EGRESS if first == EGRESS else abi.INGRESS)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", [p.TCP, p.UDP, p.ICMP])
def test_error_counts_in_the_quoted_flow(table: Table, version: int, protocol: int) -> None:
    """An ICMP error stands in the flow of the packet it quotes; neither state nor flags of that flow move."""
    table.changed()
    local, remote = (A, B) if version == 4 else (A6, B6)
    carried = {
        p.TCP: p.tcp(45001, 443, p.SYN),
        p.UDP: p.udp(45001, 53, bytes(31)),
        p.ICMP: p.icmp(8 if version == 4 else 128, 0, 4501),
    }[protocol]
    number = p.ICMPV6 if (protocol, version) == (p.ICMP, 6) else protocol
    inner = (p.ipv4 if version == 4 else p.ipv6)(local, remote, number, carried)
    kind = p.IPV4 if version == 4 else p.IPV6
    router = "10.9.9.9" if version == 4 else "fd09::9"
    # RFC 792 promises 8 bytes behind the quoted header.
    quoted = inner[: (20 if version == 4 else 40) + 8]
    if version == 4:
        error = p.ipv4(router, local, p.ICMP, p.icmp(11, 0, 0, quoted))
    else:
        error = p.ipv6(router, local, p.ICMPV6, p.icmp(3, 0, 0, quoted))
    sent, back = p.ethernet(kind, inner), p.ethernet(kind, error)
    table.send(EGRESS, sent)
    table.send(INGRESS, back)
    (row,) = table.changed()
    assert (row.added_packets_egress, row.added_bytes_egress) == (1, len(sent))
    assert (row.added_packets_ingress, row.added_bytes_ingress) == (1, len(back))
    assert row.state == abi.FLOW_NEW
    assert row.tcp_flags_ingress == 0


def test_tcp_states(table: Table) -> None:
    """new, established, closing, closed; and a SYN begins anew on the closed entry."""

    def out(flags: int) -> bytes:
        return p.ethernet(p.IPV4, p.ipv4(A, B, p.TCP, p.tcp(46001, 80, flags)))

    def back(flags: int) -> bytes:
        return p.ethernet(p.IPV4, p.ipv4(B, A, p.TCP, p.tcp(80, 46001, flags)))

    steps = [
        (EGRESS, out(p.SYN), abi.FLOW_NEW),
        (INGRESS, back(p.SYN | p.ACK), abi.FLOW_ESTABLISHED),
        (EGRESS, out(p.ACK), abi.FLOW_ESTABLISHED),
        (INGRESS, back(p.FIN | p.ACK), abi.FLOW_CLOSING),
        (EGRESS, out(p.ACK), abi.FLOW_CLOSING),
        (EGRESS, out(p.FIN | p.ACK), abi.FLOW_CLOSED),
        (EGRESS, out(p.SYN), abi.FLOW_NEW),
        (INGRESS, back(p.RST | p.ACK), abi.FLOW_CLOSED),
    ]
    table.changed()
    for direction, packet, state in steps:
        table.send(direction, packet)
        (row,) = table.changed()
        assert (row.state, row.initiator) == (state, abi.EGRESS), (direction, packet)


@pytest.mark.parametrize(
    ("direction", "flags", "ports", "initiator"),
    [
        (EGRESS, p.SYN, (47001, 80), abi.EGRESS),
        (INGRESS, p.SYN, (80, 47003), abi.INGRESS),
        (EGRESS, p.SYN | p.ACK, (47005, 47007), abi.INGRESS),
        (INGRESS, p.SYN | p.ACK, (47009, 47011), abi.EGRESS),
        (EGRESS, p.ACK, (47013, 80), abi.EGRESS),
        (EGRESS, p.ACK, (80, 47015), abi.INGRESS),
        (INGRESS, p.ACK, (47017, 80), abi.EGRESS),
        (INGRESS, p.ACK, (80, 47019), abi.INGRESS),
    ],
)
def test_initiator(table: Table, direction: str, flags: int, ports: tuple[int, int], initiator: int) -> None:
    """`ports` are the local and the remote one."""
    local, remote = ports
    table.changed()
    if direction == EGRESS:
        table.send(EGRESS, p.ethernet(p.IPV4, p.ipv4(A, B, p.TCP, p.tcp(local, remote, flags))))
    else:
        table.send(INGRESS, p.ethernet(p.IPV4, p.ipv4(B, A, p.TCP, p.tcp(remote, local, flags))))
    (row,) = table.changed()
    assert (row.local_port, row.remote_port, row.initiator) == (local, remote, initiator)


def test_random_packets_are_all_counted(table: Table) -> None:
    """Whatever the bytes: no packet is lost, dropped or counted twice."""
    dice = random.Random()  # the identity holds for any seed
    seeds = [packet for packet, _ in (*COUNTED.values(), *REFUSED.values())]
    before = table.reader.totals()
    sizes = 0
    for _ in range(SAMPLES):
        packet = bytearray(dice.choice(seeds))
        for _ in range(dice.randint(0, 4)):
            packet[dice.randrange(12, len(packet))] = dice.randrange(256)
        if dice.random() < 0.2:
            del packet[max(SHORTEST, dice.randrange(len(packet))) :]
        assert table.send(dice.choice((EGRESS, INGRESS)), bytes(packet)) == PASSED
        sizes += len(packet)
    after = table.reader.totals()
    assert after.balanced()
    assert after.seen == after.seen_after
    seen = after.seen.egress_packets + after.seen.ingress_packets
    assert seen - before.seen.egress_packets - before.seen.ingress_packets == SAMPLES
    size = after.seen.egress_bytes + after.seen.ingress_bytes
    assert size - before.seen.egress_bytes - before.seen.ingress_bytes == sizes
