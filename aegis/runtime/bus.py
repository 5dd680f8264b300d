"""Topics inside the process: bounded queues, drops counted, publishing that never waits.

A queue's capacity and its drops are in records: an item with a length (a batch) counts as many as it holds. Publishing
runs in the ring's callback, so it does no more than append and, once a sleeping reader, set its future.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, Literal, Self

from aegis.runtime import topics

Full = Literal["drop_oldest", "drop_newest"]


def records_in(item: object) -> int:
    """How many records an item stands for: its length, or one."""
    try:
        return len(item)  # type: ignore[arg-type]
    except TypeError:  # the question was whether it has one
        return 1


class Queue:
    """One reader's side of a topic. Fulfils `runtime.module.Subscription`."""

    __slots__ = (
        "_bus",
        "_closed",
        "_items",
        "_waiter",
        "capacity",
        "dropped",
        "full",
        "received",
        "topic",
        "waiting",
    )

    def __init__(self, bus: Bus, topic: str, capacity: int, full: Full) -> None:
        self.topic = topic
        self.capacity = capacity
        self.full = full
        self.received = 0  # records offered
        self.dropped = 0
        self.waiting = 0  # records in the queue
        self._bus = bus
        self._items: deque[tuple[Any, int]] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._closed = False

    def put(self, item: object, records: int) -> None:
        """Called by the bus. An item larger than the whole queue is dropped whatever `full` says."""
        self.received += records
        if self.full == "drop_oldest":
            while self._items and self.waiting + records > self.capacity:
                _, oldest = self._items.popleft()
                self.waiting -= oldest
                self.dropped += oldest
        if self.waiting + records > self.capacity:
            self.dropped += records
            return
        self._items.append((item, records))
        self.waiting += records
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def get_nowait(self) -> Any | None:
        if not self._items:
            return None
        item, records = self._items.popleft()
        self.waiting -= records
        return item

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        while not self._items:
            if self._closed:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self.get_nowait()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._bus.forget(self)
            self._wake()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Bus:
    """Fulfils `runtime.module.Bus`.

    A sensor's topic is `wanted` with its first listener and `unwanted` with its last. What `wanted` raises reaches the
    subscriber, who then listens to nothing.
    """

    def __init__(
        self,
        wanted: Callable[[str], None] = lambda _topic: None,
        unwanted: Callable[[str], None] = lambda _topic: None,
    ) -> None:
        self._wanted = wanted
        self._unwanted = unwanted
        self._queues: dict[str, tuple[Queue, ...]] = dict.fromkeys(topics.NAMES, ())
        self._gone: dict[str, int] = dict.fromkeys(topics.NAMES, 0)

    def subscribe(self, topic: str, *, capacity: int, full: Full = "drop_newest") -> Queue:
        """See `runtime.module.Bus`. An unknown topic is a bug: LookupError."""
        if topic not in self._queues:
            raise LookupError(f"no topic {topic}")
        queue = Queue(self, topic, capacity, full)
        first = not self._queues[topic]
        self._queues[topic] = (*self._queues[topic], queue)
        if first and topic in topics.SENSORS:
            try:
                self._wanted(topic)
            except BaseException:
                self._queues[topic] = tuple(other for other in self._queues[topic] if other is not queue)
                raise
        return queue

    def forget(self, queue: Queue) -> None:
        """Called by a queue that closes."""
        before = self._queues[queue.topic]
        self._queues[queue.topic] = tuple(other for other in before if other is not queue)
        self._gone[queue.topic] += queue.dropped
        if before and not self._queues[queue.topic] and queue.topic in topics.SENSORS:
            self._unwanted(queue.topic)

    def publish(self, topic: str, item: object) -> None:
        queues = self._queues[topic]
        if queues:
            records = records_in(item)
            for queue in queues:
                queue.put(item, records)

    def listeners(self, topic: str) -> int:
        return len(self._queues[topic])

    def dropped(self) -> dict[str, int]:
        """Records dropped by full queues since the start, by topic, closed queues included."""
        return {
            topic: self._gone[topic] + sum(queue.dropped for queue in queues)
            for topic, queues in sorted(self._queues.items())
        }
