"""Whose direction a flow is judged by, when it is judged again, and what a forged packet can and cannot do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from aegis.kernel import abi
from aegis.kernel.flows import IdleRules
from tests.support import packets as p
from tests.support.flows import DROPPED, EGRESS, INGRESS, PASSED, Table, open_table

pytestmark = pytest.mark.require("root", "bpf")

HERE, THERE = "10.8.0.1", "10.8.0.2"
HERE6, THERE6 = "fd08::1", "fd08::2"


@pytest.fixture
def table() -> Iterator[Table]:
    with open_table() as made:
        yield made


def out(protocol: int, carried: bytes, **options: Any) -> bytes:
    return p.ethernet(p.IPV4, p.ipv4(HERE, THERE, protocol, carried, **options))


def back(protocol: int, carried: bytes, **options: Any) -> bytes:
    return p.ethernet(p.IPV4, p.ipv4(THERE, HERE, protocol, carried, **options))


def deny(
    section: str, *, port: int | None = None, protocol: str = "ANY", mode: str = "enforce"
) -> dict[str, Any]:
    """Deny the peer, or one port of it (egress) or of this host (ingress)."""
    word = "toCIDRSet" if section == "egressDeny" else "fromCIDRSet"
    rule: dict[str, Any] = {word: [{"cidr": f"{THERE}/32"}]}
    if port is not None:
        rule["toPorts"] = [{"ports": [{"port": port, "protocol": protocol}]}]
    return {"mode": mode, section: [rule]}


def test_a_denied_flow_is_dropped_and_counted(table: Table) -> None:
    generation = table.apply(deny("egressDeny", port=23))
    packet = out(p.TCP, p.tcp(40001, 23, p.SYN))
    for _ in range(7):
        assert table.send(EGRESS, packet) == DROPPED
    assert table.send(EGRESS, out(p.TCP, p.tcp(40001, 24, p.SYN))) == PASSED
    rows = {row.remote_port: row for row in table.changed()}
    denied = rows[23]
    assert (denied.verdict, denied.rule, denied.generation) == (abi.VERDICT_DENY, 1, generation)
    assert (denied.packets_egress, denied.dropped_packets) == (7, 7)
    assert (rows[24].verdict, rows[24].dropped_packets) == (abi.VERDICT_ALLOW, 0)
    assert table.term("denied") == (7, 0, 7 * len(packet), 0)
    assert table.reader.totals().balanced()


def test_a_decision_is_told_once(table: Table) -> None:
    """A record where a denial is decided, for a new flow and under a new policy; none for packets that follow."""

    def told() -> tuple[int, ...]:
        return table.core.map("aegis_record_counters").sum_u64(abi.KIND_VERDICT.to_bytes(4, "little"))[:2]

    packet = out(p.TCP, p.tcp(40001, 23, p.SYN))
    table.apply(deny("egressDeny", port=23))
    for _ in range(11):
        table.send(EGRESS, packet)
    assert told() == (1, 1)
    table.apply(deny("egressDeny", port=23))
    for _ in range(11):
        table.send(EGRESS, packet)
    assert told() == (2, 2)


def test_observe_passes_and_counts(table: Table) -> None:
    table.apply(deny("egressDeny", port=23, mode="observe"))
    packet = out(p.TCP, p.tcp(40001, 23, p.SYN))
    for _ in range(5):
        assert table.send(EGRESS, packet) == PASSED
    (row,) = table.changed()
    assert (row.verdict, row.rule, row.dropped_packets) == (abi.VERDICT_AUDIT, 1, 0)
    assert table.term("audited") == (5, 0, 5 * len(packet), 0)
    assert table.term("denied") == (0, 0, 0, 0)


@pytest.mark.parametrize("protocol", [p.TCP, p.UDP])
def test_answers_need_no_rule(table: Table, protocol: int) -> None:
    """Ingress from the peer is denied, but not the answers to what this host began."""
    table.apply(deny("ingressDeny"))
    ask = p.tcp(40001, 80, p.SYN) if protocol == p.TCP else p.udp(40001, 80)
    answer = p.tcp(80, 40001, p.SYN | p.ACK) if protocol == p.TCP else p.udp(80, 40001)
    assert table.send(INGRESS, back(protocol, answer)) == (PASSED if protocol == p.TCP else DROPPED)
    assert table.send(EGRESS, out(protocol, ask)) == PASSED
    assert table.send(INGRESS, back(protocol, answer)) == PASSED
    assert table.send(INGRESS, back(p.TCP, p.tcp(9, 40003, p.SYN))) == DROPPED
    assert table.reader.totals().balanced()


def test_echo_answers_need_no_rule(table: Table) -> None:
    table.apply({"mode": "enforce", "ingressDeny": [{"fromCIDRSet": [{"cidr": f"{THERE}/32"}]}]})
    assert table.send(EGRESS, out(p.ICMP, p.icmp(8, 0, 77))) == PASSED
    assert table.send(INGRESS, back(p.ICMP, p.icmp(0, 0, 77))) == PASSED
    assert table.send(INGRESS, back(p.ICMP, p.icmp(8, 0, 77))) == DROPPED, "the same identifier the other way"


def test_a_new_policy_judges_open_flows(table: Table) -> None:
    """At their next packet, by the initiator's direction, whichever way that packet goes."""
    table.apply()
    assert table.send(EGRESS, out(p.TCP, p.tcp(40001, 23, p.SYN))) == PASSED
    assert table.send(INGRESS, back(p.TCP, p.tcp(23, 40001, p.SYN | p.ACK))) == PASSED
    table.apply(deny("egressDeny", port=23))
    assert table.send(INGRESS, back(p.TCP, p.tcp(23, 40001, p.ACK))) == DROPPED
    assert table.send(EGRESS, out(p.TCP, p.tcp(40001, 23, p.ACK))) == DROPPED
    generation = table.apply()
    assert table.send(INGRESS, back(p.TCP, p.tcp(23, 40001, p.ACK))) == PASSED
    (row,) = table.changed()
    assert (row.generation, row.initiator, row.verdict) == (generation, abi.EGRESS, abi.VERDICT_ALLOW)
    assert row.dropped_packets == 2


def test_a_forged_ack_opens_nothing(table: Table) -> None:
    """An ACK that looks like the answer of a server makes an entry; the SYN that follows is judged by itself."""
    table.apply(deny("ingressDeny", port=50000, protocol="TCP"))
    assert table.send(INGRESS, back(p.TCP, p.tcp(80, 50000, p.ACK))) == PASSED
    for _ in range(3):
        assert table.send(INGRESS, back(p.TCP, p.tcp(80, 50000, p.SYN))) == DROPPED
    (row,) = table.changed()
    assert row.dropped_packets == 3


def test_a_forged_syn_cuts_nothing(table: Table) -> None:
    """A SYN from the denied side on an open connection goes; the connection stays."""
    table.apply(deny("ingressDeny"))
    assert table.send(EGRESS, out(p.TCP, p.tcp(40001, 80, p.SYN))) == PASSED
    assert table.send(INGRESS, back(p.TCP, p.tcp(80, 40001, p.SYN | p.ACK))) == PASSED
    assert table.send(INGRESS, back(p.TCP, p.tcp(80, 40001, p.SYN))) == DROPPED
    assert table.send(INGRESS, back(p.TCP, p.tcp(80, 40001, p.ACK))) == PASSED
    assert table.send(EGRESS, out(p.TCP, p.tcp(40001, 80, p.ACK))) == PASSED


def test_only_this_host_says_who_reuses_the_ports(table: Table) -> None:
    """Its own SYN does; a peer's SYN passes without becoming the flow's."""
    table.apply()
    assert table.send(INGRESS, back(p.TCP, p.tcp(40002, 40001, p.SYN))) == PASSED
    assert table.send(EGRESS, out(p.TCP, p.tcp(40001, 40002, p.RST | p.ACK))) == PASSED
    (row,) = table.changed()
    assert (row.initiator, row.state) == (abi.INGRESS, abi.FLOW_CLOSED)
    assert table.send(EGRESS, out(p.TCP, p.tcp(40001, 40002, p.SYN))) == PASSED
    (row,) = table.changed()
    assert (row.initiator, row.state) == (abi.EGRESS, abi.FLOW_NEW)
    assert table.send(INGRESS, back(p.TCP, p.tcp(40002, 40001, p.RST | p.ACK))) == PASSED
    assert table.send(INGRESS, back(p.TCP, p.tcp(40002, 40001, p.SYN))) == PASSED
    (row,) = table.changed()
    assert row.initiator == abi.EGRESS


@pytest.mark.parametrize("flags", [p.ACK, p.RST, p.RST | p.ACK, p.FIN | p.ACK, p.SYN])
def test_a_peer_does_not_take_over_a_cut_connection(table: Table, flags: int) -> None:
    """Its SYN may pass, but the host's answer is not one to a connection of the peer's."""
    table.apply()
    assert table.send(EGRESS, out(p.TCP, p.tcp(40001, 4444, p.SYN))) == PASSED
    assert table.send(INGRESS, back(p.TCP, p.tcp(4444, 40001, p.SYN | p.ACK))) == PASSED
    assert table.send(EGRESS, out(p.TCP, p.tcp(40001, 4444, p.ACK))) == PASSED
    for _ in range(2):  # under a later policy too
        table.apply(deny("egressDeny"))
        table.send(INGRESS, back(p.TCP, p.tcp(4444, 40001, flags)))
        assert table.send(INGRESS, back(p.TCP, p.tcp(4444, 40001, p.SYN))) == PASSED
        assert table.send(EGRESS, out(p.TCP, p.tcp(40001, 4444, p.ACK))) == DROPPED
        assert table.send(INGRESS, back(p.TCP, p.tcp(4444, 40001, p.PSH | p.ACK))) == DROPPED
        assert table.send(EGRESS, out(p.TCP, p.tcp(40001, 4444, p.PSH | p.ACK))) == DROPPED
    (row,) = table.changed()
    assert (row.initiator, row.verdict, row.state) == (abi.EGRESS, abi.VERDICT_DENY, abi.FLOW_ESTABLISHED)


@pytest.mark.parametrize("first", ["ours", "theirs"])
@pytest.mark.parametrize("reset", [False, True])
def test_opening_from_both_sides_at_once_passes_no_denial(table: Table, first: str, reset: bool) -> None:
    """The peer's SYN is allowed and meets ours, which is denied: the host's SYN-ACK is no listener's."""
    table.apply(deny("egressDeny"))
    if first == "theirs":  # nobody is there yet
        assert table.send(INGRESS, back(p.TCP, p.tcp(4444, 40001, p.SYN))) == PASSED
        assert table.send(EGRESS, out(p.TCP, p.tcp(40001, 4444, p.RST | p.ACK))) == PASSED
    for _ in range(2):
        assert table.send(EGRESS, out(p.TCP, p.tcp(40001, 4444, p.SYN))) == DROPPED
        if reset:
            table.send(INGRESS, back(p.TCP, p.tcp(4444, 40001, p.RST | p.ACK)))
        assert table.send(INGRESS, back(p.TCP, p.tcp(4444, 40001, p.SYN))) == PASSED
        for _ in range(2):
            assert table.send(EGRESS, out(p.TCP, p.tcp(40001, 4444, p.SYN | p.ACK))) == DROPPED
        assert table.send(INGRESS, back(p.TCP, p.tcp(4444, 40001, p.SYN | p.ACK))) == DROPPED
        assert table.send(EGRESS, out(p.TCP, p.tcp(40001, 4444, p.PSH | p.ACK))) == DROPPED


def test_the_answer_to_a_syn_makes_the_peer_the_initiator(table: Table) -> None:
    """A stray ACK made the entry look like a connection of this host; what the host sends says otherwise."""
    table.apply(deny("egressDeny"))
    assert table.send(INGRESS, back(p.TCP, p.tcp(80, 50000, p.ACK))) == DROPPED
    assert table.send(INGRESS, back(p.TCP, p.tcp(80, 50000, p.SYN))) == PASSED
    assert table.send(EGRESS, out(p.TCP, p.tcp(50000, 80, p.SYN | p.ACK))) == PASSED
    (row,) = table.changed()
    assert (row.initiator, row.verdict, row.state) == (abi.INGRESS, abi.VERDICT_ALLOW, abi.FLOW_ESTABLISHED)
    assert table.send(INGRESS, back(p.TCP, p.tcp(80, 50000, p.ACK))) == PASSED
    table.apply(deny("egressDeny"))
    assert table.send(EGRESS, out(p.TCP, p.tcp(50000, 80, p.PSH | p.ACK))) == PASSED


def test_what_meets_a_retired_entry_is_judged_by_its_own_direction(table: Table) -> None:
    table.apply(deny("ingressDeny"))
    assert table.send(EGRESS, out(p.TCP, p.tcp(40001, 40002, p.SYN))) == PASSED
    assert table.send(INGRESS, back(p.UDP, p.udp(53, 40003))) == DROPPED
    assert table.reader.retire(IdleRules(tcp_opening=0, datagram_new=0)) == 2
    assert table.send(INGRESS, back(p.TCP, p.tcp(40002, 40001, p.SYN | p.ACK))) == PASSED
    assert table.send(INGRESS, back(p.TCP, p.tcp(40002, 40001, p.SYN))) == DROPPED
    assert table.send(INGRESS, back(p.UDP, p.udp(53, 40003))) == DROPPED
    assert table.send(EGRESS, out(p.UDP, p.udp(40003, 53))) == PASSED
    assert table.term("retired")[:2] == (1, 3)
    assert table.reader.totals().balanced()


@pytest.mark.parametrize("protocol", [p.UDP, p.TCP])
def test_a_denied_packet_does_not_close_a_port_of_ours(table: Table, protocol: int) -> None:
    """What comes in first from a denied peer is dropped, and our own query from that port works all the same."""
    table.apply(deny("ingressDeny"))
    unasked = p.udp(53, 40001) if protocol == p.UDP else p.tcp(53, 40001, p.SYN)
    ask = p.udp(40001, 53) if protocol == p.UDP else p.tcp(40001, 53, p.SYN)
    answer = p.udp(53, 40001) if protocol == p.UDP else p.tcp(53, 40001, p.SYN | p.ACK)
    for _ in range(3):
        assert table.send(INGRESS, back(protocol, unasked)) == DROPPED
    assert table.send(EGRESS, out(protocol, ask)) == PASSED
    assert table.send(INGRESS, back(protocol, answer)) == PASSED


def test_later_fragments(table: Table) -> None:
    """A rule with ports that denies holds for later fragments, which have none."""
    table.apply(deny("egressDeny", port=53, protocol="UDP"))
    assert table.send(EGRESS, out(p.UDP, bytes(64), fragment=185)) == DROPPED
    assert table.send(EGRESS, out(p.UDP, p.udp(1009, 54, bytes(8), length=4000), fragment=0x2000)) == PASSED
    assert table.send(EGRESS, out(p.TCP, bytes(64), fragment=185)) == PASSED


def test_refused_packets_are_dropped_while_a_policy_enforces(table: Table) -> None:
    broken = out(p.TCP, p.tcp(1, 2, p.ACK, words=4))
    arp = p.ethernet(p.ARP, bytes(28))
    table.apply(deny("egressDeny", port=23, mode="observe"))
    assert table.send(INGRESS, broken) == PASSED
    table.apply(deny("egressDeny", port=23))
    assert table.send(INGRESS, broken) == DROPPED
    assert table.send(INGRESS, arp) == PASSED, "what is not IP is not policy's"
    assert table.term("refused_dropped") == (0, 1, 0, len(broken))
    assert table.term("bad_header") == (0, 2, 0, 2 * len(broken))
    assert table.reader.totals().balanced()


def test_errors_follow_the_quoted_flow(table: Table) -> None:
    """Nobody may send errors about a denied flow, and those about an allowed one pass whoever sends them."""
    table.apply(deny("ingressDeny"), deny("egressDeny", port=23))
    router = "10.8.9.9"

    def error(port: int) -> bytes:
        quoted = p.ipv4(HERE, THERE, p.UDP, p.udp(40001, port))
        return p.ethernet(p.IPV4, p.ipv4(router, HERE, p.ICMP, p.icmp(3, 3, 0, quoted)))

    assert table.send(EGRESS, out(p.UDP, p.udp(40001, 23))) == DROPPED
    assert table.send(EGRESS, out(p.UDP, p.udp(40001, 25))) == PASSED
    assert table.send(INGRESS, error(23)) == DROPPED
    assert table.send(INGRESS, error(25)) == PASSED
    assert table.reader.totals().balanced()


@pytest.mark.parametrize("version", [4, 6])
def test_quoting_a_flow_passes_no_denial(table: Table, version: int) -> None:
    """An error is about a flow of an allowed peer, and from or to a denied one."""
    here, there, other = (HERE, THERE, "10.8.0.3") if version == 4 else (HERE6, THERE6, "fd08::3")
    bits, kind = (32, p.IPV4) if version == 4 else (128, p.IPV6)
    build = p.ipv4 if version == 4 else p.ipv6
    protocol, number = (p.ICMP, 11) if version == 4 else (p.ICMPV6, 3)
    both = {
        "mode": "enforce",
        "egressDeny": [{"toCIDRSet": [{"cidr": f"{there}/{bits}"}]}],
        "ingressDeny": [{"fromCIDRSet": [{"cidr": f"{there}/{bits}"}]}],
    }
    table.apply(both)
    asked = build(here, other, p.UDP, p.udp(40001, 53))
    answered = build(other, here, p.UDP, p.udp(53, 40001))
    assert table.send(EGRESS, p.ethernet(kind, asked)) == PASSED
    assert table.send(INGRESS, p.ethernet(kind, answered)) == PASSED
    table.changed()

    def error(source: str, destination: str, quoted: bytes) -> bytes:
        return p.ethernet(
            kind, build(source, destination, protocol, p.icmp(number, 0, 0, quoted + bytes(64)))
        )

    assert table.send(INGRESS, error(other, here, asked)) == PASSED
    assert table.send(EGRESS, error(here, other, answered)) == PASSED
    (row,) = table.changed()
    assert (row.added_packets_ingress, row.added_packets_egress, row.dropped_packets) == (1, 1, 0)
    assert table.send(INGRESS, error(there, here, asked)) == DROPPED
    (row,) = table.changed()
    assert (row.added_packets_ingress, row.dropped_packets, row.verdict) == (1, 1, abi.VERDICT_ALLOW)
    assert table.send(EGRESS, error(here, there, answered)) == DROPPED
    (row,) = table.changed()
    assert (row.protocol, row.verdict) == (protocol, abi.VERDICT_DENY), (
        "not to whom it is about: its own flow"
    )
    assert table.term("denied")[:2] == (1, 1)
    assert table.send(INGRESS, error(other, there, asked)) == PASSED
    (row,) = table.changed()
    assert (row.protocol, row.verdict) == (protocol, abi.VERDICT_ALLOW)
    both["mode"] = "observe"
    table.apply(both)
    assert table.send(INGRESS, error(there, here, asked)) == PASSED
    assert table.term("audited")[:2] == (0, 1)
    assert table.reader.totals().balanced()


def test_a_full_table_judges_all_the_same() -> None:
    flows = 64
    with open_table(flows=flows) as table:
        table.apply(deny("egressDeny", port=23))
        sent = 0
        for source in range(1, 3 * flows):
            for port, verdict in ((23, DROPPED), (25, PASSED)):
                packet = out(p.TCP, p.tcp(source, port, p.SYN))
                assert table.send(EGRESS, packet) == verdict
                sent += 1
        assert table.reader.live() == flows
        full = table.term("table_full")
        assert full[0] == sent - flows
        assert table.term("denied")[0] == sent // 2
        assert table.reader.totals().balanced()


def test_super_packets_count_as_one_and_say_their_segments(table: Table) -> None:
    """`gso_segs` of the context: 5 segments in one packet, as the interface counts."""
    context = bytearray(192)
    context[164:168] = (5).to_bytes(4, "little")  # struct __sk_buff.gso_segs
    packet = out(p.TCP, p.tcp(40001, 80, p.ACK, bytes(1000)))
    for _ in range(3):
        table.send(EGRESS, packet, ctx=bytes(context))
    (row,) = table.changed()
    assert (row.packets_egress, row.bytes_egress, row.extra_segments) == (3, 3 * len(packet), 12)
