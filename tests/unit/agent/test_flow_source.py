from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection

import pytest

from aegis.agent import flow_source
from aegis.agent.flow_source import IDENTITY, STAGES, TERMS, FlowSource, _part
from aegis.kernel.flows import Count, SocketOwner
from aegis.runtime import log
from aegis.runtime.bus import Bus
from aegis.runtime.clock import SystemClock
from aegis.runtime.counters import relations


async def test_without_a_table_there_are_no_flows_and_it_says_so() -> None:
    bus = Bus()
    flows = FlowSource(bus, SystemClock(), log.logger())
    assert not flows.available
    with bus.subscribe("flow", capacity=9) as queue:
        found = flows.harvest()
        assert (found.changed, found.flows) == (0, 0)
        assert queue.get_nowait() == found
    await flows.tick()
    assert (list(flows.rows()), flows.terms(), flows.losses()) == ([], {}, {})
    flows.close()


def test_the_identity_is_of_its_terms() -> None:
    named = {term for sides, _ in relations(IDENTITY) for side in sides for term in side}
    assert named == set(TERMS)


def test_each_stage_is_one_number_of_a_count() -> None:
    count = Count(egress_packets=2, ingress_packets=3, egress_bytes=5, ingress_bytes=7)
    assert [_part(count, stage) for stage in STAGES] == [2, 3, 5, 7]


class SlowReader:
    """Forgets owners slowly: it asks about one after `go` only."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go = threading.Event()
        self.alive: bool | None = None
        self.closed = False

    def harvest(self) -> bytes:
        return b""

    def forget_owners(self, is_alive: Callable[[SocketOwner], bool], kept: Collection[int]) -> int:
        assert not kept
        self.begun.set()
        assert self.go.wait(10)
        assert not self.closed
        self.alive = is_alive(SocketOwner(label="process", pid=2**22))
        return 0

    def close(self) -> None:
        assert self.alive is not None, "closed under the thread"
        self.closed = True


@pytest.mark.parametrize("closes", [False, True])
async def test_forgetting_owners_holds_nobody_up(monkeypatch: pytest.MonkeyPatch, closes: bool) -> None:
    flows = FlowSource(Bus(), SystemClock(), log.logger())
    reader = SlowReader()
    monkeypatch.setattr(flows, "_reader", reader)
    monkeypatch.setattr(flows, "_reap_due_ns", 2**63)
    monkeypatch.setattr(flow_source, "_alive", lambda _owner: False)
    tick = asyncio.create_task(flows.tick())
    async with asyncio.timeout(10):
        while not reader.begun.is_set():  # noqa: ASYNC110 - a thread sets it
            await asyncio.sleep(0.001)
        assert not tick.done()
        if closes:
            threading.Timer(0.05, reader.go.set).start()
            flows.close()
            assert reader.closed
        else:
            reader.go.set()
        await tick
    assert reader.alive is closes, "while it closes nothing is forgotten any more"
