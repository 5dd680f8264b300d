"""`events`: what the history holds, then what comes, to one client; what a slow client misses is told to it."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Iterable
from typing import Any

import msgspec

from aegis.errors import EnvelopeInvalid
from aegis.model.event import TYPES, Event, LossEvent, encode
from aegis.runtime.bus import Bus, Queue
from aegis.runtime.counters import Counters
from aegis.runtime.history import EventHistory
from aegis.runtime.module import Clock

QUEUE_EVENTS = 65_536
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
            for event in self._past(args, types):
                yield msgspec.Raw(encode(event))
            return
        with self._bus.subscribe("event", capacity=QUEUE_EVENTS) as queue:
            past = self._past(args, types)  # no await since the subscription: neither gap nor double
            follower = Follower(queue, types)
            stage = f"client.{next(self._number)}"
            with self._counters.count(IDENTITY, lambda: {stage: follower.terms()}):
                for event in past:
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

    def _past(self, args: dict[str, Any], types: frozenset[str]) -> list[Event]:
        last, since = args.get("last"), args.get("since")
        if last is not None and last < 0:
            raise EnvelopeInvalid("events: last must not be negative")
        if last is not None and not types and since is None:
            return self._history.last(last)
        if last is None and since is None and args.get("follow"):
            return []
        chosen = [
            event
            for event in self._history
            if (not types or event.type in types) and (since is None or event.time_ns >= since)
        ]
        return chosen if last is None else chosen[len(chosen) - min(last, len(chosen)) :]


def _types(names: object) -> frozenset[str]:
    assert isinstance(names, list | tuple)
    unknown = [name for name in names if name not in TYPES]
    if unknown:
        raise EnvelopeInvalid(
            f"events: unknown type {repr(unknown[0])[:80]}", hint=f"types: {', '.join(TYPES)}"
        )
    return frozenset(names)
