from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest

from aegis.agent.control import follow
from aegis.agent.control.follow import Events
from aegis.errors import EnvelopeInvalid
from aegis.model.event import Event, LossEvent
from aegis.runtime.bus import Bus
from aegis.runtime.clock import SystemClock
from aegis.runtime.counters import Counters
from aegis.runtime.history import EventHistory


def loss(number: int) -> Event:
    return LossEvent(time_ns=number, stage="test", kind="event", reason="made", count=number)


def read(item: object) -> dict[str, Any]:
    return json.loads(msgspec.json.encode(item))


class Served:
    def __init__(self, capacity: int = 100) -> None:
        self.bus = Bus()
        self.history = EventHistory(self.bus, capacity)
        self.counters = Counters()
        self.events = Events(self.bus, self.history, self.counters, SystemClock())

    async def all(self, **args: Any) -> list[int]:
        return [read(item)["count"] async for item in self.events.stream(args)]


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ({}, [1, 2, 3, 4, 5]),
        ({"last": 0}, []),
        ({"last": 2}, [4, 5]),
        ({"last": 9}, [1, 2, 3, 4, 5]),
        ({"since": 3}, [3, 4, 5]),
        ({"since": 2, "last": 2}, [4, 5]),
        ({"types": ["exec"]}, []),
        ({"types": ["exec", "loss"], "last": 1}, [5]),
    ],
)
async def test_the_past(args: dict[str, Any], expected: list[int]) -> None:
    it = Served()
    it.history.append([loss(1), loss(2)])
    it.history.append([loss(3), loss(4), loss(5)])
    assert await it.all(**args) == expected


async def test_what_is_evicted_is_not_the_past() -> None:
    it = Served(capacity=3)
    it.history.append([loss(1), loss(2), loss(3)])
    it.history.append([loss(4)])
    assert await it.all() == [2, 3, 4]
    assert await it.all(last=9) == [2, 3, 4]
    assert await it.all(since=1, last=3) == [2, 3, 4]


class Watched(list[Event]):
    """A batch that knows how often it was read."""

    reads = 0

    def __getitem__(self, index: Any) -> Any:
        self.reads += 1
        return super().__getitem__(index)


async def test_only_what_is_asked_for_is_read() -> None:
    it = Served(10_000)
    batches = [Watched([loss(10 * at + each) for each in range(10)]) for at in range(50)]
    for batch in batches:
        it.history.append(batch)
    assert await it.all(last=15, types=["loss"]) == list(range(485, 500))
    assert [at for at, batch in enumerate(batches) if batch.reads] == [48, 49]
    assert await it.all(last=0) == []
    assert sum(batch.reads for batch in batches) == 2


async def test_a_long_past_lets_others_in_between() -> None:
    it = Served(10_000)
    for at in range(10):
        it.history.append([loss(at)] * 500)
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    busy = asyncio.create_task(other())
    assert len(await it.all(types=["loss"])) == 5000
    assert len(await it.all(types=["loss"], last=5000)) == 5000
    busy.cancel()
    assert turns >= 15


@pytest.mark.parametrize("args", [{"types": ["nonsense"]}, {"types": [1]}, {"last": -1}])
async def test_what_makes_no_sense_is_refused(args: dict[str, Any]) -> None:
    with pytest.raises(EnvelopeInvalid):
        await Served().all(**args)


async def test_the_past_and_then_what_comes_without_gap_or_double() -> None:
    it = Served()
    it.history.append([loss(1), loss(2)])
    stream = it.events.stream({"follow": True, "last": 1})
    found = [read(await anext(stream))["count"]]
    it.history.append([loss(3)])
    it.history.append([loss(4), loss(5)])
    found += [read(await anext(stream))["count"] for _ in range(3)]
    assert found == [2, 3, 4, 5]
    (stage,) = it.counters.read()
    assert stage.balanced
    assert stage.terms["received"] == 3
    await stream.aclose()
    assert it.counters.read() == ()
    assert it.bus.listeners("event") == 0


async def test_other_types_are_filtered_and_counted() -> None:
    it = Served()
    stream = it.events.stream({"follow": True, "types": ["exec"]})
    waiting = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    it.history.append([loss(1), loss(2)])
    await asyncio.sleep(0)
    (stage,) = it.counters.read()
    assert (stage.terms["filtered"], stage.balanced) == (2, True)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await stream.aclose()


async def test_a_slow_client_is_told_what_it_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "QUEUE_EVENTS", 3)
    it = Served()
    stream = it.events.stream({"follow": True})
    first = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    it.history.append([loss(1)])
    assert read(await first)["count"] == 1
    for number in range(2, 13):
        it.history.append([loss(number)])
    rest = [read(await anext(stream)) for _ in range(4)]
    assert [(one["stage"], one["count"]) for one in rest] == [
        ("client", 8),
        ("test", 2),
        ("test", 3),
        ("test", 4),
    ]
    (stage,) = it.counters.read()
    assert stage.balanced
    assert (stage.terms["received"], stage.terms["dropped"]) == (12, 8)
    await stream.aclose()
