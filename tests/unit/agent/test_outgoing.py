from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import Any

import pytest

from aegis.agent.outgoing import Outgoing
from aegis.model.block import BlockClass, Encoded
from aegis.model.event import LossEvent
from aegis.model.records import EncodedEvents, decode, encode_events, loads
from aegis.runtime.bus import Bus
from aegis.runtime.clock import SystemClock


class Outbox:
    def __init__(self) -> None:
        self.runs: list[Encoded] = []

    def take(self, encoded: Encoded) -> None:
        self.runs.append(encoded)


def loss(count: int) -> LossEvent:
    return LossEvent(
        time_ns=1_700_000_000_000_000_000, stage="ring", kind="exec", reason="ring_full", count=count
    )


async def carried(*published: tuple[str, Any]) -> Outbox:
    """What the outbox got of these."""
    bus, outbox = Bus(), Outbox()
    async with asyncio.TaskGroup() as group:
        with ExitStack() as stack:
            Outgoing(bus, outbox, SystemClock()).open(group, stack)
            for topic, item in published:
                bus.publish(topic, item)
        assert all(bus.listeners(topic) == 0 for topic, _ in published)
    return outbox


async def test_events_made_natively_stay_as_they_are() -> None:
    (run,) = encode_events([loss(1), loss(2)], 0)
    outbox = await carried(("event", EncodedEvents(run)))
    assert outbox.runs == [run]
    assert outbox.runs[0] is run


async def test_events_made_in_python_become_one_run() -> None:
    outbox = await carried(("event", [loss(1), loss(2)]))
    (run,) = outbox.runs
    assert (run.cls, run.count) == (BlockClass.EVENT, 2)
    assert [decode(record, run.base_ns) for record in loads(run)] == [loss(1), loss(2)]


async def test_samples_flows_and_findings_stay_as_they_are() -> None:
    runs = [Encoded(cls, 0, 1, b"\x80") for cls in (BlockClass.SAMPLE, BlockClass.FLOW, BlockClass.FINDING)]
    topics = ("sample_record", "flow_record", "finding")
    outbox = await carried(*zip(topics, runs, strict=True))
    assert {run.cls: run for run in outbox.runs} == {run.cls: run for run in runs}
    assert len(outbox.runs) == 3


async def test_a_mistake_ends_the_group_and_not_who_published() -> None:
    class Broken(Outbox):
        def take(self, encoded: Encoded) -> None:
            raise ZeroDivisionError

    bus = Bus()
    with pytest.raises(ExceptionGroup) as raised, ExitStack() as stack:  # noqa: PT012
        async with asyncio.TaskGroup() as group:
            Outgoing(bus, Broken(), SystemClock()).open(group, stack)
            bus.publish("event", [loss(1)])
    assert raised.group_contains(ZeroDivisionError)
    assert bus.listeners("event") == 0
