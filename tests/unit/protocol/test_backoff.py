"""Full jitter: from zero to the span, which is what was waited already; a hint comes on top."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from aegis.protocol.backoff import Backoff


def constant(byte: int) -> Callable[[int], bytes]:
    return lambda size: bytes([byte]) * size


def test_spans_double_up_to_the_cap() -> None:
    backoff = Backoff(entropy=constant(255))
    assert [round(backoff.next_s(), 3) for _ in range(7)] == [5, 5, 10, 20, 40, 60, 60]
    assert backoff.failures == 7
    backoff.reset()
    assert round(backoff.next_s(), 3) == 5


def test_who_tried_often_in_a_short_outage_is_back_as_soon_as_the_others() -> None:
    backoff = Backoff(entropy=constant(25))  # a tenth of the span each time
    first = [backoff.next_s() for _ in range(9)]
    assert sum(first) < 5
    assert max(first) == pytest.approx(5 / 10, rel=0.05)
    later = [backoff.next_s() for _ in range(60)]
    assert max(later) == pytest.approx(60 / 10, rel=0.05)


def test_a_hint_that_was_waited_counts() -> None:
    backoff = Backoff(entropy=constant(255))
    backoff.next_s(20.0)
    assert backoff.next_s() == pytest.approx(25)
    backoff.reset()
    assert backoff.next_s() == pytest.approx(5)


def test_no_wait_is_possible_too() -> None:
    backoff = Backoff(entropy=constant(0))
    assert [backoff.next_s() for _ in range(100)] == [0.0] * 100


def test_waits_are_spread_evenly() -> None:
    dice = random.Random(4)
    waits = [Backoff(entropy=dice.randbytes).next_s() for _ in range(5000)]
    counts = [sum(first <= wait < first + 1 for wait in waits) for first in range(5)]
    assert sum(counts) == 5000
    assert all(850 < count < 1150 for count in counts), counts


@pytest.mark.parametrize(("hint", "least"), [(3.0, 3.0), (0.0, 0.0), (-5.0, 0.0), (1e9, 600.0), (None, 0.0)])
def test_a_hint_is_the_least_and_keeps_its_jitter(hint: float | None, least: float) -> None:
    assert Backoff(entropy=constant(0)).next_s(hint) == least
    assert Backoff(entropy=constant(255)).next_s(hint) == pytest.approx(least + 5)


def test_ten_thousand_failures_are_still_a_minute() -> None:
    backoff = Backoff(entropy=constant(255))
    assert max(backoff.next_s() for _ in range(10_000)) <= 60
