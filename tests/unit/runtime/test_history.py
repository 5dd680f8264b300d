from __future__ import annotations

import random

from aegis.model.block import BlockClass, Encoded
from aegis.model.records import EncodedEvents
from aegis.runtime.bus import Bus
from aegis.runtime.history import EVENT_BYTES, EventHistory, LatestSamples


def test_it_keeps_the_last_events_whatever_the_batches() -> None:
    chance = random.Random(7)
    for capacity in (0, 1, 13, 100):
        history, expected, number = EventHistory(Bus(), capacity), [], 0
        for _ in range(211):
            batch = list(range(number, number + chance.choice((0, 1, 2, 5, 17))))
            number += len(batch)
            expected = (expected + batch)[-capacity:] if capacity else []
            history.append(batch)
            assert list(history) == expected
            assert history.published == number == history.kept + history.evicted
            assert [event for batch, skip in history.batches() for event in batch[skip:]] == expected


def test_long_events_are_fewer() -> None:
    """Whatever the sizes: never more than the bytes of so many usual events, but for a single batch; and no fewer than fit."""
    chance = random.Random(7)
    history = EventHistory(Bus(), 100)
    batches: list[EncodedEvents] = []
    for _ in range(500):
        count = chance.choice((1, 2, 30))
        size = count * chance.choice((10, 100, EVENT_BYTES, 20_000))
        batches.append(EncodedEvents(Encoded(BlockClass.EVENT, 0, count, bytes(size))))
        history.append(batches[-1])
        assert history.published == history.kept + history.evicted
        held = [batch for batch, _ in history.batches()]
        assert held == batches[-len(held) :]
        sizes = [len(batch.encoded.records) for batch in batches[-len(held) - 1 :]]
        assert sum(sizes[1:]) <= 100 * EVENT_BYTES or len(held) == 1
        assert len(batches) == len(held) or history.kept == 100 or sum(sizes) > 100 * EVENT_BYTES
        assert 0 < history.kept <= 100


def test_a_batch_is_published_and_not_read() -> None:
    class Lazy(list):
        def __getitem__(self, index: object) -> object:
            raise AssertionError

        __iter__ = __getitem__

    bus = Bus()
    with bus.subscribe("event", capacity=9) as queue:
        history = EventHistory(bus, 2)
        batches = [Lazy([1]), Lazy([2, 3])]
        for batch in batches:
            history.append(batch)
        assert [queue.get_nowait(), queue.get_nowait()] == batches
        assert (history.kept, history.evicted) == (2, 1)


def test_samples_replace_each_other() -> None:
    bus = Bus()
    with bus.subscribe("sample", capacity=9) as queue:
        samples = LatestSamples(bus)
        samples.publish((1,))
        samples.publish((2, 3))
        assert samples.latest() == (2, 3)
        assert (queue.get_nowait(), queue.get_nowait()) == ((1,), (2, 3))
