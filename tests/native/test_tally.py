"""Tallies by themselves; what they count is tested on a ring in test_ringbuf.py."""

from __future__ import annotations

import pytest

from aegis._native import records
from aegis._native.ringbuf import RingReader
from aegis._native.tally import Tally
from tests.support.ring import ProbeRing


@pytest.mark.parametrize("capacity", [0, -1, 1 << 25])
def test_a_capacity_has_bounds(capacity: int) -> None:
    with pytest.raises(ValueError, match="capacity"):
        Tally(records.SYNTHETIC, capacity)


def test_a_kind_without_a_key_is_refused() -> None:
    with pytest.raises(ValueError, match="no key"):
        Tally(records.EXEC, 7)


@pytest.mark.require("bpf", "ringbuf")
def test_more_keys_than_room_are_counted_as_overflow() -> None:
    tally = Tally(records.SYNTHETIC, 101)
    with ProbeRing() as ring, RingReader(ring.fd, ring.shared, [tally]) as reader:
        ring.flood(4999, keys=503)
        while True:
            reader.drain(512)
            if not reader.more:
                break
    assert len(tally) == len(tally.items()) == 101
    assert sum(count for _, count, _ in tally.items()) + tally.overflow == 4999
    assert tally.overflow > 0
    tally.clear()
    assert (len(tally), tally.overflow, tally.items()) == (0, 0, [])
