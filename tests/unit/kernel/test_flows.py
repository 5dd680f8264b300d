"""The identity of the packet totals, and the idle rules as the kernel takes them."""

from __future__ import annotations

import dataclasses

import pytest

pytest.importorskip("aegis._native._abi")

from aegis.kernel import abi
from aegis.kernel.flows import Count, IdleRules, Totals
from aegis.kernel.maps import possible_cpus

NOTHING = Count()
PLACES = (
    "live",
    "reaped",
    "table_full",
    "retired",
    "not_ip",
    "truncated",
    "bad_header",
    "extensions",
    "looped",
)


def count(number: int) -> Count:
    return Count(
        egress_packets=number, ingress_packets=2 * number, egress_bytes=3 * number, ingress_bytes=5 * number
    )


def totals(**changed: Count) -> Totals:
    parts = {name: count(2**at) for at, name in enumerate(PLACES)}
    whole = count(2 ** len(PLACES) - 1)
    base = Totals(
        **parts,
        seen=whole,
        seen_after=whole,
        denied=NOTHING,
        audited=NOTHING,
        refused_dropped=NOTHING,
    )
    return dataclasses.replace(base, **changed)


def test_every_place_counts() -> None:
    assert totals().placed() == count(2 ** len(PLACES) - 1)
    assert totals().balanced()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("field", Count.__dataclass_fields__)
@pytest.mark.parametrize("by", [-1, 1])
def test_one_unit_anywhere_breaks_it(place: str, field: str, by: int) -> None:
    whole = totals()
    part = getattr(whole, place)
    wrong = dataclasses.replace(part, **{field: getattr(part, field) + by})
    assert not dataclasses.replace(whole, **{place: wrong}).balanced()


def test_while_packets_come() -> None:
    """The sum lies between two readings of `seen`, less one packet a CPU that is on its way."""
    placed = totals().placed()
    between = totals(seen=count(500), seen_after=count(600))
    assert between.balanced()
    beyond = dataclasses.replace(placed, egress_packets=placed.egress_packets - 1)
    assert not totals(seen=count(500), seen_after=beyond).balanced()
    missing = dataclasses.replace(placed, ingress_packets=placed.ingress_packets + possible_cpus() + 1)
    assert not totals(seen=missing, seen_after=count(10_000)).balanced()


def test_idle_rules_reach_their_class() -> None:
    rules = IdleRules(
        tcp_established=11, tcp_opening=13, tcp_ended=17, datagram_established=19, datagram_new=23
    )
    classes = abi.enum("aegis_idle_class")
    seconds = rules.seconds()
    assert len(seconds) == classes["AEGIS_IDLE_CLASSES"]
    assert seconds[classes["AEGIS_IDLE_TCP_ESTABLISHED"]] == 11
    assert seconds[classes["AEGIS_IDLE_TCP_OPENING"]] == 13
    assert seconds[classes["AEGIS_IDLE_TCP_ENDED"]] == 17
    assert seconds[classes["AEGIS_IDLE_DATAGRAM_ESTABLISHED"]] == 19
    assert seconds[classes["AEGIS_IDLE_DATAGRAM_NEW"]] == 23
