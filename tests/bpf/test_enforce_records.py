"""Verdict records and hits from the packet programs: every denial is told or counted, and no rule is named wrongly."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator
from typing import Any

import pytest

from aegis._native.records import VERDICT, decode
from aegis._native.ringbuf import RingReader
from aegis.kernel import abi
from aegis.kernel.object import BpfObject
from aegis.kernel.policy_slots import Hits, PolicySlots
from tests.support import packets as p
from tests.support.flows import DROPPED, EGRESS, INGRESS, PASSED, Table, open_table

pytestmark = pytest.mark.require("root", "bpf", "ringbuf")

HERE, PEER, OTHER = "10.8.0.1", "10.8.0.2", "10.8.0.3"
LIMITS = abi.enum("aegis_verdict_limits")
BURST = LIMITS["AEGIS_VERDICT_BURST"]
DENY_TELNET: dict[str, Any] = {
    "mode": "enforce",
    "egressDeny": [{"toPorts": [{"ports": [{"port": 23, "protocol": "TCP"}]}]}],
}


class Records:
    """The ring of a table."""

    def __init__(self, core: BpfObject, stack: contextlib.ExitStack) -> None:
        memory = stack.enter_context(contextlib.closing(core.map("aegis_reader").mmap(writable=True)))
        self._reader = stack.enter_context(RingReader(core.map("aegis_ring").fd, memory))
        self._counters = core.map("aegis_record_counters")

    def take(self) -> list[tuple[Any, ...]]:
        """Verdict records since the last call."""
        return decode(self._reader.drain(1 << 16), (VERDICT,))

    def counters(self) -> dict[str, int]:
        names = abi.struct("aegis_record_counters").offsets
        return dict(zip(names, self._counters.sum_u64(abi.KIND_VERDICT.to_bytes(4, "little")), strict=True))


@pytest.fixture
def table() -> Iterator[Table]:
    with open_table() as made:
        yield made


@pytest.fixture
def records(table: Table) -> Iterator[Records]:
    with contextlib.ExitStack() as stack:
        yield Records(table.core, stack)


def syn(peer: str, source: int, port: int, *, into: bool = False) -> bytes:
    ends = (peer, HERE) if into else (HERE, peer)
    return p.ethernet(p.IPV4, p.ipv4(*ends, p.TCP, p.tcp(source, port, p.SYN)))


def test_a_record_says_what_was_denied(table: Table, records: Records) -> None:
    generation = table.apply(DENY_TELNET)
    assert table.send(EGRESS, syn(PEER, 40_001, 23)) == DROPPED
    assert table.send(EGRESS, syn(PEER, 40_002, 24)) == PASSED
    (record,) = records.take()
    (
        kind, ktime_ns, _, local, remote, local_port, remote_port, _, protocol, fragment, _, of, _,
        suppressed, rule, verdict, initiator,
    ) = record  # fmt: skip
    assert (kind, suppressed, of) == (VERDICT, 0, generation)
    assert ktime_ns > 0
    assert (local[-4:], remote[-4:]) == (p.address(HERE), p.address(PEER))
    assert (local_port, remote_port, protocol, fragment) == (40_001, 23, p.TCP, 0)
    assert (rule, verdict, initiator) == (1, abi.VERDICT_DENY, abi.EGRESS)


def test_an_observed_denial_is_recorded_as_audit(table: Table, records: Records) -> None:
    table.apply(
        {"ingressDeny": [{"fromCIDRSet": [{"cidr": f"{PEER}/32"}]}], "priority": 7},
        DENY_TELNET,
    )
    assert table.send(INGRESS, syn(PEER, 40_001, 22, into=True)) == PASSED
    assert table.send(EGRESS, syn(PEER, 40_002, 23)) == DROPPED
    audit, deny = records.take()
    assert (audit[-3], audit[-2], audit[-1]) == (1, abi.VERDICT_AUDIT, abi.INGRESS)
    assert (deny[-3], deny[-2], deny[-1]) == (2, abi.VERDICT_DENY, abi.EGRESS)


def test_every_denial_is_told_or_counted(table: Table, records: Records) -> None:
    """One peer is limited to a burst; what is withheld is told by its next record; another peer's first is not held."""
    table.apply(DENY_TELNET)
    told: list[tuple[Any, ...]] = []
    asked = 0
    for source in range(1, BURST + 14):
        asked += 1
        assert table.send(EGRESS, syn(PEER, source, 23)) == DROPPED
    told += records.take()
    assert BURST <= len(told) <= asked
    assert table.send(EGRESS, syn(OTHER, 1, 23)) == DROPPED
    (first,) = records.take()
    assert (first[4][-4:], first[-4]) == (p.address(OTHER), 0)
    while not told[-1][-4]:  # until a window later; each try is a new flow, and ports are finite
        time.sleep(0.01)
        asked += 1
        assert table.send(EGRESS, syn(PEER, 20_000 + asked, 23)) == DROPPED
        told += records.take()
    assert len(told) + sum(record[-4] for record in told) == asked
    counted = records.counters()
    assert counted["attempted"] == asked + 1
    assert counted["submitted"] == len(told) + 1
    assert counted["attempted"] == sum(counted.values()) - counted["attempted"]


def test_a_new_generation_tells_again(table: Table, records: Records) -> None:
    table.apply(DENY_TELNET)
    for source in range(1, BURST + 14):
        table.send(EGRESS, syn(PEER, source, 23))
    records.take()
    generation = table.apply(DENY_TELNET)
    table.send(EGRESS, syn(PEER, 1, 23))
    (record,) = records.take()
    assert record[11] == generation


def test_hits_are_packets_and_bytes_of_this_generation(table: Table) -> None:
    dice = random.Random(7)
    specs = (
        DENY_TELNET,
        {"mode": "observe", "egressDeny": [{"toPorts": [{"ports": [{"port": 80}]}]}]},
        {"mode": "enforce", "egress": [{"toPorts": [{"ports": [{"port": 443}]}]}]},
    )
    for count in (17, 31):
        table.apply(*specs)
        with contextlib.closing(PolicySlots.of(table.core)) as slots:
            assert set(slots.hits((0, 1, 2)).values()) == {Hits(packets=0, bytes=0)}
            sent = {23: 0, 80: 0, 443: 0}
            for _ in range(count):
                for port in sent:
                    packet = syn(PEER, dice.randint(1, 7), port)
                    table.send(EGRESS, packet)
                    sent[port] += len(packet)
            hits = slots.hits((0, 1, 2))
            assert hits[0] == Hits(packets=count, bytes=sent[23])
            assert hits[1] == Hits(packets=count, bytes=sent[80])
            assert hits[2] == Hits(packets=0, bytes=0), "what passes by a rule is counted in its flow"
