from __future__ import annotations

import asyncio

import pytest

from aegis.runtime.bus import Bus


async def test_items_arrive_in_order_and_iteration_ends_with_the_subscription() -> None:
    bus = Bus()
    with bus.subscribe("event", capacity=10) as queue:
        bus.publish("event", [1, 2])
        bus.publish("event", [3])
        assert [await anext(queue), await anext(queue)] == [[1, 2], [3]]
        waiting = asyncio.create_task(anext(queue, "closed"))
        await asyncio.sleep(0)
    assert await waiting == "closed"
    assert bus.listeners("event") == 0


@pytest.mark.parametrize(
    ("full", "kept", "dropped"),
    [("drop_newest", [[1, 2], [3]], 4), ("drop_oldest", [[4, 5, 6]], 4 + 0), ("drop_oldest", [[3], [4]], 2)],
)
def test_a_full_queue_counts_records(full: str, kept: list, dropped: int) -> None:
    bus = Bus()
    queue = bus.subscribe("event", capacity=3, full=full)
    sent = [[1, 2], [3], [4, 5, 6]] if kept[-1] != [4] else [[1, 2], [3], [4]]
    if full == "drop_newest":
        sent.append([7])
    for item in sent:
        bus.publish("event", item)
    found = []
    while (item := queue.get_nowait()) is not None:
        found.append(item)
    assert found == kept
    assert queue.received == sum(map(len, sent)) == sum(map(len, kept)) + queue.dropped
    queue.close()
    assert bus.dropped()["event"] == queue.dropped


def test_an_item_larger_than_the_queue_is_dropped_whole() -> None:
    bus = Bus()
    queue = bus.subscribe("event", capacity=2, full="drop_oldest")
    bus.publish("event", [1, 2, 3])
    assert (queue.get_nowait(), queue.dropped) == (None, 3)


def test_a_sensor_is_wanted_from_its_first_listener_to_its_last() -> None:
    said: list[str] = []
    bus = Bus(lambda topic: said.append(f"+{topic}"), lambda topic: said.append(f"-{topic}"))
    first, second = (bus.subscribe("process", capacity=1) for _ in range(2))
    assert said == ["+process"]
    first.close()
    first.close()
    assert said == ["+process"]
    second.close()
    assert said == ["+process", "-process"]
    bus.subscribe("event", capacity=1).close()
    assert len(said) == 2


def test_a_sensor_that_cannot_be_loaded_has_no_listener() -> None:
    def refuse(topic: str) -> None:
        raise OSError(topic)

    bus = Bus(refuse)
    with pytest.raises(OSError, match="process"):
        bus.subscribe("process", capacity=1)
    assert bus.listeners("process") == 0


def test_an_unknown_topic_is_refused() -> None:
    with pytest.raises(LookupError):
        Bus().subscribe("nonsense", capacity=1)


async def test_a_listener_is_called_at_once() -> None:
    bus = Bus()
    seen: list[object] = []
    with bus.listen("event", seen.append) as listening, bus.subscribe("event", capacity=2):
        bus.publish("event", [1, 2])
        assert seen == [[1, 2]]
        assert bus.listeners("event") == 2
        watching = asyncio.create_task(listening.watch())
        await asyncio.sleep(0)
        assert not watching.done()
    await watching
    bus.publish("event", [3])
    assert seen == [[1, 2]]


async def test_what_a_listener_raises_reaches_who_watches_it_and_nobody_else() -> None:
    bus = Bus()
    seen: list[object] = []

    def fail(item: object) -> None:
        raise ZeroDivisionError

    with bus.listen("event", fail) as broken, bus.listen("event", seen.append):
        watching = asyncio.create_task(broken.watch())
        await asyncio.sleep(0)
        bus.publish("event", [1, 2])
        bus.publish("event", [3])
        with pytest.raises(ZeroDivisionError):
            await watching
        assert seen == [[1, 2], [3]]
    assert bus.dropped()["event"] == 3


@pytest.mark.parametrize("order", [("listen", "subscribe"), ("subscribe", "listen")])
def test_a_sensor_is_wanted_once_by_listeners_and_queues(order: tuple[str, str]) -> None:
    said: list[str] = []
    bus = Bus(lambda topic: said.append(f"+{topic}"), lambda topic: said.append(f"-{topic}"))
    sides = [
        bus.listen("process", id) if each == "listen" else bus.subscribe("process", capacity=1)
        for each in order
    ]
    for side in sides:
        side.close()
    assert said == ["+process", "-process"]


def test_a_sensor_that_cannot_be_had_is_not_listened_to() -> None:
    def refuse(topic: str) -> None:
        raise LookupError(topic)

    bus = Bus(refuse)
    with pytest.raises(LookupError):
        bus.listen("process", id)
    assert bus.listeners("process") == 0
