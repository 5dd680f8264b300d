"""What is to leave this host: the bus's events, flows, samples and findings, as records into the outbox."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any, Protocol

from aegis.model.block import BlockClass, Encoded, base_of
from aegis.model.event import Event
from aegis.model.records import EncodedEvents, encode_events
from aegis.runtime.module import Bus, Clock, Subscription

QUEUE_RECORDS = 65_536  # of each topic; an outbox never waits, so this is one drain of the ring
STAGE, REASON = "queue", "queue_full"


class Outbox(Protocol):
    """What this needs of `agent.outbox.outbox.Outbox`. Neither waits or raises."""

    def take(self, encoded: Encoded) -> None: ...
    def take_lost(self, cls: BlockClass, stage: str, kind: str, reason: str, count: int) -> None: ...


class Outgoing:
    """Listens from `open` on. Each topic has its task, and its drops become losses of its class."""

    def __init__(self, bus: Bus, outbox: Outbox, clock: Clock) -> None:
        self._bus = bus
        self._outbox = outbox
        self._clock = clock

    def open(self, group: asyncio.TaskGroup, stack: ExitStack) -> None:
        """Until `stack` closes."""
        for topic, cls, runs in (
            ("event", BlockClass.EVENT, self._events),
            ("flow_record", BlockClass.FLOW, _as_it_is),
            ("sample_record", BlockClass.SAMPLE, _as_it_is),
            ("finding", BlockClass.FINDING, _as_it_is),
        ):
            queue = self._bus.subscribe(topic, capacity=QUEUE_RECORDS, full="drop_newest")
            stack.enter_context(queue)
            task = group.create_task(self._carry(topic, queue, cls, runs), name=f"outgoing {topic}")
            stack.callback(task.cancel)

    async def _carry(
        self,
        topic: str,
        queue: Subscription,
        cls: BlockClass,
        runs: Callable[[Any], Iterable[Encoded]],
    ) -> None:
        told = 0
        async for item in queue:
            for run in runs(item):
                self._outbox.take(run)
            if queue.dropped != told:
                self._outbox.take_lost(cls, STAGE, topic, REASON, queue.dropped - told)
                told = queue.dropped

    def _events(self, events: Sequence[Event]) -> Iterable[Encoded]:
        """Native ones are records already; those made in Python are few, and become one run a class."""
        if isinstance(events, EncodedEvents):
            return (events.encoded,)
        return encode_events(events, base_of(self._clock.wall_ns()))


def _as_it_is(encoded: Encoded) -> Iterable[Encoded]:
    return (encoded,)
