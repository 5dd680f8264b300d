from __future__ import annotations

import random

from aegis.runtime.bus import Bus
from aegis.runtime.history import EventHistory, LatestSamples


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
