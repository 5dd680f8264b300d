"""The last events in memory, kept by batch, and the newest samples."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aegis.model.block import Encoded
    from aegis.model.event import Event
    from aegis.model.sample import Sample
    from aegis.runtime.module import Bus


EVENT_BYTES = 1024  # of records an event may have, on average over all that are kept


class EventHistory:
    """Fulfils `runtime.module.History`. Keeps `capacity` events; `published = kept + evicted`, always.

    Fewer where they are long: programs with many arguments, which anybody can start, must not take the host's memory.
    A batch is kept as it came, so that one whose events are made when asked for costs nothing until then; events
    evicted from the middle of a batch are skipped, not copied.
    """

    def __init__(self, bus: Bus, capacity: int) -> None:
        self.capacity = capacity
        self.published = 0
        self.evicted = 0
        self._bus = bus
        self._batches: deque[Sequence[Event]] = deque()
        self._skip = 0  # events of the oldest batch that are evicted already
        self._bytes = 0  # of records, those skipped included

    @property
    def kept(self) -> int:
        """Counted from what is held, not from the other two terms."""
        return sum(len(batch) for batch in self._batches) - self._skip

    def append(self, events: Sequence[Event]) -> None:
        if not events:
            return
        self._batches.append(events)
        self._bytes += record_bytes(events)
        self.published += len(events)
        excess = self.published - self.evicted - self.capacity
        while excess > 0 or (self._bytes > self.capacity * EVENT_BYTES and len(self._batches) > 1):
            oldest = len(self._batches[0]) - self._skip
            if 0 < excess < oldest:
                self._skip += excess
                oldest = excess
            else:
                self._bytes -= record_bytes(self._batches.popleft())
                self._skip = 0
            self.evicted += oldest
            excess -= oldest
        self._bus.publish("event", events)

    def __iter__(self) -> Iterator[Event]:
        """Oldest first. Adding while iterating is a bug (RuntimeError, as of any deque)."""
        skip = self._skip
        for batch in self._batches:
            yield from islice(batch, skip, None) if skip else batch
            skip = 0

    def batches(self) -> list[tuple[Sequence[Event], int]]:
        """What is kept now, oldest first: each batch as it came, and how many of its first events are evicted."""
        return [(batch, 0 if index else self._skip) for index, batch in enumerate(self._batches)]


def record_bytes(events: Sequence[Event]) -> int:
    """Bytes of the records a batch was made of; 0 for one that has none."""
    encoded: Encoded | None = getattr(events, "encoded", None)
    return 0 if encoded is None else len(encoded.records)


class LatestSamples:
    """Fulfils `runtime.module.Samples`."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._latest: tuple[Sample, ...] = ()

    def publish(self, samples: tuple[Sample, ...]) -> None:
        self._latest = samples
        self._bus.publish("sample", samples)

    def latest(self) -> tuple[Sample, ...]:
        return self._latest
