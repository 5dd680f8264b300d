"""What is to leave this host: the bus's events, flows, samples and findings, as records into the outbox."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Protocol

from aegis.model.block import Encoded, base_of
from aegis.model.event import Event
from aegis.model.records import EncodedEvents, encode_events
from aegis.runtime.module import Bus, Clock

RECORDS = ("flow_record", "sample_record", "finding")  # topics whose items are runs of records


class Outbox(Protocol):
    """What this needs of `agent.outbox.outbox.Outbox`. It neither waits nor raises."""

    def take(self, encoded: Encoded) -> None: ...


class Outgoing:
    """Listens from `open` on."""

    def __init__(self, bus: Bus, outbox: Outbox, clock: Clock) -> None:
        self._bus = bus
        self._outbox = outbox
        self._clock = clock

    def open(self, group: asyncio.TaskGroup, stack: ExitStack) -> None:
        """Until `stack` closes. What cannot be taken is a mistake of ours, and ends `group`."""
        for topic in ("event", *RECORDS):
            take = self._events if topic == "event" else self._outbox.take
            listening = stack.enter_context(self._bus.listen(topic, take))
            group.create_task(listening.watch(), name=f"outgoing {topic}")

    def _events(self, events: Sequence[Event]) -> None:
        """Native ones are records already; those made in Python are few, and become one run a class."""
        if isinstance(events, EncodedEvents):
            self._outbox.take(events.encoded)
            return
        for run in encode_events(events, base_of(self._clock.wall_ns())):
            self._outbox.take(run)
