"""`events`: what the history holds, then what comes, to one client; what a slow client misses is told to it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Any

import msgspec

from aegis.errors import EnvelopeInvalid
from aegis.model.event import TYPES, Event, LossEvent, encode
from aegis.runtime.bus import Bus, Queue
from aegis.runtime.counters import Counters
from aegis.runtime.history import EventHistory
from aegis.runtime.module import Clock

QUEUE_EVENTS = 65_536
EVENTS_A_TURN = (
    200  # about 2 ms; those of the past are made only now, and a request that comes meanwhile waits so long
)
IDENTITY = "received = sent + filtered + dropped + waiting"


class Follower:
    """One client that follows: its queue, and where each event of it went."""

    def __init__(self, queue: Queue, types: frozenset[str]) -> None:
        self.queue = queue
        self.types = types
        self.sent = 0
        self.filtered = 0
        self.in_hand = 0  # events taken from the queue and not yet sent or filtered
        self._told = 0  # drops the client knows of

    def terms(self) -> dict[str, int]:
        return {
            "received": self.queue.received,
            "sent": self.sent,
            "filtered": self.filtered,
            "dropped": self.queue.dropped,
            "waiting": self.queue.waiting + self.in_hand,
        }

    def untold(self) -> int:
        """Events dropped since this was asked last."""
        new, self._told = self.queue.dropped - self._told, self.queue.dropped
        return new


class Events:
    """Serves the verb `events`."""

    def __init__(self, bus: Bus, history: EventHistory, counters: Counters, clock: Clock) -> None:
        self._bus = bus
        self._history = history
        self._counters = counters
        self._clock = clock
        self._number = itertools.count(1)

    async def stream(self, args: dict[str, Any]) -> AsyncGenerator[object, None]:
        """The chosen events as JSON, oldest first. With `follow` it ends with the connection."""
        types = _types(args.get("types", ()))
        if not args.get("follow"):
            async for event in self._past(self._kept(args), args, types):
                yield msgspec.Raw(encode(event))
            return
        with self._bus.subscribe("event", capacity=QUEUE_EVENTS) as queue:
            kept = self._kept(args)  # no await since the subscription: neither gap nor double
            follower = Follower(queue, types)
            stage = f"client.{next(self._number)}"
            with self._counters.count(IDENTITY, lambda: {stage: follower.terms()}):
                async for event in self._past(kept, args, types):
                    yield msgspec.Raw(encode(event))
                async for batch in queue:
                    async for item in self._batch(batch, follower):
                        yield item

    async def _batch(self, batch: Iterable[Event], follower: Follower) -> AsyncGenerator[object, None]:
        lost = follower.untold()
        if lost:
            loss = LossEvent(
                time_ns=self._clock.wall_ns(), stage="client", kind="event", reason="queue_full", count=lost
            )
            yield msgspec.Raw(encode(loss))
        events = list(batch)
        follower.in_hand = len(events)
        for event in events:
            if follower.types and event.type not in follower.types:
                follower.filtered += 1
            else:
                yield msgspec.Raw(encode(event))
                follower.sent += 1
            follower.in_hand -= 1

    def _kept(self, args: dict[str, Any]) -> list[tuple[Sequence[Event], int]]:
        """The batches in which the past that was asked for may be."""
        last = args.get("last")
        if last is not None and last < 0:
            raise EnvelopeInvalid("events: last must not be negative")
        if last == 0 or (last is None and args.get("since") is None and args.get("follow")):
            return []
        return self._history.batches()

    async def _past(
        self, kept: list[tuple[Sequence[Event], int]], args: dict[str, Any], types: frozenset[str]
    ) -> AsyncGenerator[Event, None]:
        """The chosen ones, oldest first. The events of a batch are made as it is read: in slices, so that nobody waits
        for the whole, and from the end where only the last are wanted."""
        since, last = args.get("since"), args.get("last")
        found: list[list[Event]] = []
        read = 0
        for batch, skip in kept if last is None else reversed(kept):
            events = [
                event
                for event in batch[skip:]
                if (not types or event.type in types) and (since is None or event.time_ns >= since)
            ]
            if last is None:
                for event in events:
                    yield event
            else:
                found.append(events[max(len(events) - last, 0) :])
                last -= len(found[-1])
                if not last:
                    break
            read += len(batch)
            if read >= EVENTS_A_TURN:
                read = 0
                await asyncio.sleep(0)
        for events in reversed(found):
            for event in events:
                yield event


def _types(names: object) -> frozenset[str]:
    assert isinstance(names, list | tuple)
    unknown = [name for name in names if name not in TYPES]
    if unknown:
        raise EnvelopeInvalid(
            f"events: unknown type {repr(unknown[0])[:80]}", hint=f"types: {', '.join(TYPES)}"
        )
    return frozenset(names)
