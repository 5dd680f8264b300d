"""A nonce is remembered for as long as it could be used again, and no longer; memory is bounded."""

from __future__ import annotations

import random

import pytest

from aegis.protocol.replay import ReplayCache

SECOND = 1_000_000_000
KEY, OTHER = bytes(32), bytes([1]) * 32


def test_a_nonce_is_one_of_its_key() -> None:
    cache = ReplayCache()
    assert not cache.seen(KEY, "n", 0)
    cache.remember(KEY, "n", 0)
    assert cache.seen(KEY, "n", 1)
    assert not cache.seen(OTHER, "n", 1)
    assert not cache.seen(KEY, "N", 1)


@pytest.mark.parametrize(("age_ns", "seen"), [(0, True), (600 * SECOND - 1, True), (600 * SECOND, False)])
def test_the_window(age_ns: int, seen: bool) -> None:
    cache = ReplayCache()
    cache.remember(KEY, "n", 5)
    assert cache.seen(KEY, "n", 5 + age_ns) is seen
    assert len(cache) == int(seen)


def test_the_oldest_goes_first_and_is_counted() -> None:
    cache = ReplayCache(capacity=3)
    for number in range(5):
        cache.remember(KEY, str(number), number)
    assert [cache.seen(KEY, str(number), 5) for number in range(5)] == [False, False, True, True, True]
    assert (len(cache), cache.evicted) == (3, 2)


def test_any_text_is_a_nonce() -> None:
    cache = ReplayCache()
    for nonce in ("", "x" * 10_000, "\ud800", "\0", "sixteen letters."):
        cache.remember(KEY, nonce, 0)
        assert cache.seen(KEY, nonce, 0)
    assert len(cache) == 5


def test_a_restart_keeps_what_is_still_in_the_window() -> None:
    old = ReplayCache()
    old.remember(KEY, "old", 0)
    old.remember(KEY, "new", 500 * SECOND)
    entries = old.entries(590 * SECOND)
    assert old.remember(OTHER, "newer", 595 * SECOND) == old.entries(595 * SECOND)[-1][0]
    new = ReplayCache()
    new.remember(OTHER, "own", 1 << 40)
    new.load(entries, 1 << 40)
    assert [new.seen(KEY, each, (1 << 40) + 9 * SECOND) for each in ("old", "new")] == [True, True]
    assert [new.seen(KEY, each, (1 << 40) + 10 * SECOND) for each in ("old", "new")] == [False, True]
    assert new.seen(OTHER, "own", (1 << 40) + 10 * SECOND)


def test_what_is_loaded_is_bounded_and_the_oldest_do_not_fit() -> None:
    cache = ReplayCache(capacity=2)
    entries = [(bytes([age % 256]) * 16, age * SECOND) for age in (1, 2, 3, 700)]
    random.Random(1).shuffle(entries)
    cache.load(entries, 0)
    assert cache.entries(0) == [(bytes([2]) * 16, 2 * SECOND), (bytes([1]) * 16, SECOND)]


def test_one_key_pushes_out_its_own_only() -> None:
    cache = ReplayCache(capacity=100, of_key=10)
    cache.remember(OTHER, "victim", 0)
    for number in range(500):
        cache.remember(KEY, str(number), number)
    assert cache.seen(OTHER, "victim", 500)
    assert [cache.seen(KEY, str(number), 500) for number in (0, 489, 490, 499)] == [False, False, True, True]
    assert (len(cache), cache.evicted) == (11, 490)


def test_a_share_holds_for_what_a_restart_kept() -> None:
    old, new = ReplayCache(of_key=4), ReplayCache(of_key=4)
    for number in range(4):
        old.remember(KEY, str(number), number)
    new.load(old.entries(10), 10)
    new.remember(KEY, "4", 11)
    assert [new.seen(KEY, str(number), 12) for number in range(5)] == [False, True, True, True, True]
    assert len(new) == 4


def test_a_nonce_again_is_one_entry() -> None:
    cache = ReplayCache(of_key=2)
    for number in range(5):
        cache.remember(KEY, "n", number)
    cache.remember(KEY, "m", 6)
    assert (len(cache), cache.evicted) == (2, 0)
    assert cache.seen(KEY, "n", 7)
    assert not cache.seen(KEY, "n", 600 * SECOND + 4)
    cache.remember(KEY, "n", 600 * SECOND + 7)
    assert len(cache) == 1
