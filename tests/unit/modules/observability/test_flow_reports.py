"""Reports of flows between a real bus, history and table; harvests come from here instead of the kernel."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import msgspec

from aegis._native.flowtable import FlowTable
from aegis._native.transcode import to_json
from aegis.agent.flow_source import Harvested
from aegis.kernel import abi
from aegis.kernel.flows import SocketOwner
from aegis.model.block import BlockClass, Encoded, base_of
from aegis.model.event import LossEvent
from aegis.model.policy import Mode, RuleName
from aegis.model.process import Cgroup, Process, owner_key
from aegis.modules.observability.flow_reports import FlowReports
from aegis.modules.observability.table import Table
from aegis.runtime.bus import Bus
from aegis.runtime.clock import SystemClock
from aegis.runtime.history import EventHistory
from aegis.runtime.settings import Settings
from tests.support.judged import packed

START = 77_000_000_000
PID = 4_000_001
OWNER = owner_key(PID, START)
SECOND = 1_000_000_000
CURL = Process(
    pid=PID,
    start_ns=START,
    ppid=1,
    uid=0,
    gid=0,
    comm=b"curl",
    exe=b"/bin/curl",
    args=b"curl\0",
    args_total=5,
    cwd=b"/",
    cgroup=Cgroup(id=5, path="/x.service", unit="x.service"),
    ancestors=(),
)


def row(number: int, packets: int = 1, **value: Any) -> bytes:
    key = {"local_port": number, "protocol": 17, "ifindex": 3}
    counted = {"packets": [packets, 0], "first_ns": 1, "owner": OWNER}
    return abi.pack("aegis_flow_row", key=key, value=packed(counted | value))


class Around:
    """A table without a kernel, and what the module would lend."""

    def __init__(self, capacity: int = 4096) -> None:
        self.clock = SystemClock()
        self.bus = Bus()
        self.history = EventHistory(self.bus, 100)
        self.flows = FlowTable(capacity)
        self.flows.next_harvest()
        self.now_ns = 1000 * SECOND
        self.asked: list[int] = []
        self.listed = 0
        self.told: SocketOwner | None = None
        context: Any = SimpleNamespace(
            bus=self.bus,
            clock=self.clock,
            history=self.history,
            flows=SimpleNamespace(table=self.flows, owner=self.owner),
            enforcer=SimpleNamespace(rule=self.rule),
            config=self.settings(60.0),
        )
        table = Table(
            lambda identity: Cgroup(id=identity, path=f"/{identity}", unit=None),
            lambda identity, path: Cgroup(id=identity, path=path.decode(), unit=None),
            lambda _pid: None,
            keep_ended=8,
        )
        table.snapshot([CURL])
        self.reports = FlowReports(context, table, self.names)

    @staticmethod
    def settings(interval_s: float) -> Settings:
        return Settings("modules.observability", {"flow_report_interval_s": interval_s})

    def owner(self, owner: int) -> SocketOwner | None:
        self.asked.append(owner)
        return self.told

    def rule(self, generation: int, rule: int) -> RuleName | None:
        return (
            RuleName(policy="p", rule=f"r{rule}", mode=Mode.ENFORCE, deny=True) if generation == 4 else None
        )

    def names(self) -> dict[int, str]:
        self.listed += 1
        return {3: "eth3"}

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.reports.run())
        await settled()
        assert self.bus.listeners("flow") == 1
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def harvest(self, *rows: bytes) -> None:
        self.flows.next_harvest()
        self.flows.ingest(b"".join(rows))
        self.bus.publish("flow", Harvested(at_ns=self.now_ns, changed=len(rows), flows=len(self.flows)))


def items(run: Encoded) -> list[dict[str, Any]]:
    return [one for _, _, array in to_json(run.records, run.base_ns) for one in msgspec.json.decode(array)]


async def run_of(queue: Any) -> Encoded:
    async with asyncio.timeout(20):
        found: Encoded = await anext(queue)
    return found


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_harvest_is_told_with_names_and_owners() -> None:
    around = Around()
    with around.bus.subscribe("flow_record", capacity=1 << 16) as queue:
        async with around.running():
            around.harvest(row(1, rule=2, generation=4, verdict=2), row(2, rule=1, generation=9), row(3))
            run = await run_of(queue)
    offset = around.clock.wall_of(around.now_ns) - around.now_ns
    assert (run.cls, run.count, len(run)) == (BlockClass.FLOW, 3, 3)
    assert abs(run.base_ns - base_of(around.now_ns + offset)) <= 1 << 32
    by_port = {one["src_port"]: one for one in items(run)}
    assert {one["interface"] for one in by_port.values()} == {"eth3"}
    assert {(one["pid"], one["comm"], one["unit"]) for one in by_port.values()} == {
        (PID, "curl", "x.service")
    }
    assert (by_port[1]["policy"], by_port[1]["rule"], by_port[1]["verdict"]) == ("p", "r2", "deny")
    assert "not kept" in by_port[2]["rule_reason"]
    assert by_port[3]["rule_reason"] == "no rule decided"
    assert abs(by_port[1]["time_ns"] - around.now_ns - offset) < SECOND
    assert (around.asked, around.listed) == ([OWNER], 1), "each is asked for once"


async def test_the_cgroup_is_the_one_the_socket_was_made_in() -> None:
    around = Around()
    around.told = SocketOwner(label="process", pid=PID, start_ns=START, uid=0, cgroup_id=9, comm=b"curl")
    with around.bus.subscribe("flow_record", capacity=1 << 16) as queue:
        async with around.running():
            around.harvest(row(1))
            (one,) = items(await run_of(queue))
    assert (one["cgroup"], one["pid"]) == ("/9", PID)


async def test_an_interval_is_taken_while_it_runs() -> None:
    around = Around()
    with around.bus.subscribe("flow_record", capacity=1 << 16) as queue:
        async with around.running():
            around.harvest(row(1))
            await run_of(queue)
            around.now_ns += 10 * SECOND
            around.harvest(row(1, packets=2))
            await settled()
            assert queue.get_nowait() is None
            around.reports.reload(around.settings(10.0))
            around.harvest()
            (one,) = items(await run_of(queue))
    assert one["packets_sent"] == 2


async def test_many_flows_go_in_runs_that_fit_a_block() -> None:
    around = Around()
    with around.bus.subscribe("flow_record", capacity=1 << 16) as queue:
        async with around.running():
            around.harvest(*(row(number) for number in range(1, 1001)))
            runs = [await run_of(queue)]
            while sum(map(len, runs)) < 1000:
                runs.append(await run_of(queue))
    assert all(len(run.records) <= 48 << 10 and len(run) <= 512 for run in runs)
    assert sorted(one["src_port"] for run in runs for one in items(run)) == list(range(1, 1001))
    assert len({run.base_ns for run in runs}) == 1
    assert around.asked == [OWNER]


async def test_without_a_listener_nothing_is_made_and_nothing_forgotten() -> None:
    around = Around()
    async with around.running():
        around.harvest(row(1), row(2))
        await settled()
        assert (around.asked, around.history.published) == ([], 0)
        with around.bus.subscribe("flow_record", capacity=1 << 16) as queue:
            around.harvest()
            assert len(await run_of(queue)) == 2


async def test_flows_dropped_untold_are_a_loss() -> None:
    around = Around(capacity=2)
    around.flows.ingest(row(1) + row(2) + row(3))
    with around.bus.subscribe("flow_record", capacity=1 << 16) as queue:
        async with around.running():
            around.harvest(row(4))
            assert len(await run_of(queue)) == 2
            await settled()
            around.harvest(row(5), row(6), row(7), row(8))
            assert len(await run_of(queue)) == 2
            await settled()
            around.harvest(row(9))
            assert len(await run_of(queue)) == 1
    lost = list(around.history)
    assert all(isinstance(one, LossEvent) for one in lost)
    assert [(one.stage, one.kind, one.reason, one.count) for one in lost] == [  # type: ignore[attr-defined]
        ("table", "flow", "evicted", 1),
        ("table", "flow", "evicted", 2),
    ]


async def test_what_was_dropped_while_nobody_listened_is_no_loss() -> None:
    around = Around(capacity=2)
    async with around.running():
        around.harvest(row(1), row(2), row(3))
        await settled()
        with around.bus.subscribe("flow_record", capacity=1 << 16) as queue:
            around.harvest()
            await run_of(queue)
    assert list(around.history) == []
