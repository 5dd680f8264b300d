from __future__ import annotations

import asyncio

import pytest

from aegis.gateway.api import repeats
from aegis.gateway.api.problems import Refusal
from aegis.gateway.api.repeats import Repeats


class Made:
    """Counts its calls; each takes a turn of the loop."""

    def __init__(self, error: Exception | None = None) -> None:
        self.count = 0
        self.error = error

    async def __call__(self) -> int:
        self.count += 1
        await asyncio.sleep(0.01)
        if self.error:
            raise self.error
        return self.count


async def test_without_a_key_each_call_makes() -> None:
    make = Made()
    kept = Repeats()
    assert [await kept.once(None, "x", make) for _ in range(2)] == [1, 2]


async def test_an_error_is_not_kept() -> None:
    kept, make = Repeats(), Made(ValueError("no"))
    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            await kept.once("k", "x", make)
    assert make.count == 2
    make.error = None
    assert [await kept.once("k", "x", make) for _ in range(2)] == [3, 3]


async def test_the_answer_survives_who_asked_first() -> None:
    kept, make = Repeats(), Made()
    first = asyncio.create_task(kept.once("k", "x", make))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await kept.once("k", "x", make) == 1
    assert make.count == 1


async def test_too_many_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "MOST_KEYS", 2)
    kept, make = Repeats(), Made()
    await kept.once("a", "x", make)
    await kept.once("b", "x", make)
    with pytest.raises(Refusal) as refused:
        await kept.once("c", "x", make)
    assert refused.value.status == 429
    assert await kept.once("a", "x", make) == 1


async def test_a_key_is_forgotten_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0
    monkeypatch.setattr(repeats, "_monotonic_ns", lambda: now)
    kept, make = Repeats(), Made()
    assert await kept.once("k", "x", make) == 1
    now = repeats.KEPT_NS + 1
    assert await kept.once("k", "y", make) == 2


async def test_close_lets_go_of_what_is_under_way() -> None:
    kept = Repeats()
    waiting = asyncio.create_task(kept.once("k", "x", lambda: asyncio.sleep(60)))
    await asyncio.sleep(0.01)
    await kept.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
