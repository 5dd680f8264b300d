"""Topics inside the process: listeners called at once, or bounded queues with drops counted; publishing never waits.

A queue's capacity and its drops are in records: an item with a length (a batch) counts as many as it holds. Publishing
runs in the ring's callback, so to a queue it does no more than append and, once a sleeping reader, set its future. A
listener runs right there: on a busy host a task's turn for a few records costs more than the work on them.
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


class Listener:
    """One listener's side of a topic. Fulfils `runtime.module.Listening`."""

    __slots__ = ("_bus", "_closed", "_error", "_take", "_waiter", "dropped", "topic")

    def __init__(self, bus: Bus, topic: str, take: Callable[[Any], None]) -> None:
        self.topic = topic
        self.dropped = 0  # records offered after it failed
        self._bus = bus
        self._take = take
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._closed = False

    def put(self, item: object, records: int) -> None:
        """Called by the bus. What the listener raises is its own end, and nobody else's."""
        if self._error is not None:
            self.dropped += records
            return
        try:
            self._take(item)
        except Exception as error:  # noqa: BLE001  raised again where its owner waits for it
            self._error = error
            self.dropped += records
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_result(None)

    async def watch(self) -> None:
        """Until it is closed. Raises what the listener raised."""
        while self._error is None and not self._closed:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._bus.forget(self)
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_result(None)

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
        self._sides: dict[str, tuple[Queue | Listener, ...]] = dict.fromkeys(topics.NAMES, ())
        self._gone: dict[str, int] = dict.fromkeys(topics.NAMES, 0)

    def subscribe(self, topic: str, *, capacity: int, full: Full = "drop_newest") -> Queue:
        """See `runtime.module.Bus`. An unknown topic is a bug: LookupError."""
        queue = Queue(self, topic, capacity, full)
        self._add(queue)
        return queue

    def listen(self, topic: str, take: Callable[[Any], None]) -> Listener:
        """See `runtime.module.Bus`. An unknown topic is a bug: LookupError."""
        listener = Listener(self, topic, take)
        self._add(listener)
        return listener

    def _add(self, side: Queue | Listener) -> None:
        topic = side.topic
        if topic not in self._sides:
            raise LookupError(f"no topic {topic}")
        before = self._sides[topic]
        self._sides[topic] = (*before, side)
        if not before and topic in topics.SENSORS:
            try:
                self._wanted(topic)
            except BaseException:
                self._sides[topic] = tuple(other for other in self._sides[topic] if other is not side)
                raise

    def forget(self, side: Queue | Listener) -> None:
        """Called by one that closes."""
        topic = side.topic
        before = self._sides[topic]
        self._sides[topic] = tuple(other for other in before if other is not side)
        self._gone[topic] += side.dropped
        if before and not self._sides[topic] and topic in topics.SENSORS:
            self._unwanted(topic)

    def publish(self, topic: str, item: object) -> None:
        sides = self._sides[topic]
        if sides:
            records = records_in(item)
            for side in sides:
                side.put(item, records)

    def listeners(self, topic: str) -> int:
        return len(self._sides[topic])

    def dropped(self) -> dict[str, int]:
        """Records dropped by full queues and failed listeners since the start, by topic, closed ones included."""
        return {
            topic: self._gone[topic] + sum(side.dropped for side in sides)
            for topic, sides in sorted(self._sides.items())
        }
