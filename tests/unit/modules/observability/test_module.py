"""The module between a real bus, history, counters and host; the records come from here instead of the kernel."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from aegis._native import records
from aegis._native.flowtable import FlowTable
from aegis._native.records import RecordBatch
from aegis.agent.context import ModuleContext
from aegis.agent.control.verbs import Verbs
from aegis.agent.flow_source import FlowSource
from aegis.agent.owners import Owners
from aegis.errors import EnvelopeInvalid, FeatureUnsupported, LoadRejected, ModuleError
from aegis.host.reader import Host
from aegis.kernel import abi
from aegis.kernel.flows import SocketOwner
from aegis.model.event import ConnectEvent, Event, ExecEvent, ExitEvent
from aegis.model.process import Process, owner_key
from aegis.modules.observability import module
from aegis.modules.observability.config import OPTIONS
from aegis.modules.observability.module import FLOWS_A_SLICE, Observability
from aegis.modules.observability.table import Table
from aegis.runtime import log
from aegis.runtime.bus import Bus
from aegis.runtime.clock import SystemClock
from aegis.runtime.counters import Counters
from aegis.runtime.health import Conditions
from aegis.runtime.history import EventHistory, LatestSamples
from aegis.runtime.settings import Settings

START = 77_000_000_000
PID = 4_000_001  # above any pid of the test's machine


class Around:
    """What the agent would put around the module."""

    def __init__(self, wanted: Callable[[str], None] = lambda _topic: None, **options: int) -> None:
        self.clock = SystemClock()
        self.bus = Bus(wanted)
        self.history = EventHistory(self.bus, 10_000)
        self.conditions = Conditions(self.clock)
        self.counters = Counters()
        self.verbs = Verbs()
        self.owners = Owners()
        self.host = Host(wall_ns=self.clock.wall_ns, monotonic_ns=self.clock.monotonic_ns)
        logger = log.logger()
        values = {option.name: option.default for option in OPTIONS}
        self.context = ModuleContext(
            name="observability",
            config=Settings("modules.observability", values | options),
            bus=self.bus,
            enforcer=None,  # type: ignore[arg-type]  # no flow here names a rule
            flows=FlowSource(self.bus, self.clock, logger),
            owners=self.owners,
            host=self.host,
            clock=self.clock,
            health=self.conditions.scoped("observability"),
            history=self.history,
            samples=LatestSamples(self.bus),
            uplink=None,  # type: ignore[arg-type]  # another module keeps it
            log=logger,
            agent_pid=os.getpid(),
            verbs=self.verbs,
            counters=self.counters,
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        ready = asyncio.Event()
        task = asyncio.create_task(Observability(self.context).run(ready.set))
        waiting = asyncio.create_task(ready.wait())
        try:
            await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
            yield
        finally:
            waiting.cancel()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            self.host.close()

    async def events(self, count: int) -> list[Event]:
        """The history, once it has so many events."""
        with self.bus.subscribe("event", capacity=1 << 20) as added:
            async with asyncio.timeout(20):
                while self.history.published < count:
                    await anext(added)
        return list(self.history)


def header(kind: int, name: str, at_ns: int, extra: int = 0) -> dict[str, int]:
    return {"ktime_ns": at_ns, "size": abi.struct(name).size + extra, "kind": kind}


def process(pid: int) -> dict[str, int]:
    return {"pid": pid, "start_ns": START + pid}


def exec_bytes(pid: int) -> bytes:
    path, args, cwd = b"/bin/x", b"x\0", b"/"
    text = path + args + cwd
    record = abi.pack(
        "aegis_exec",
        header=header(abi.KIND_EXEC, "aegis_exec", START + pid, len(text)),
        process=process(pid),
        path_bytes=len(path),
        args_bytes=len(args),
        args_total=len(args),
        cwd_bytes=len(cwd),
        comm=b"x",
    )
    return padded(record + text)


def padded(record: bytes) -> bytes:
    """Records of a batch begin at multiples of eight."""
    return record + bytes(-len(record) % 8)


def exit_bytes(pid: int) -> bytes:
    return abi.pack(
        "aegis_exit",
        header=header(abi.KIND_EXIT, "aegis_exit", START + pid + 50),
        process=process(pid),
        code=3,
    )


def connect_bytes(pid: int) -> bytes:
    return abi.pack(
        "aegis_socket",
        header=header(abi.KIND_CONNECT, "aegis_socket", START + pid + 20),
        process=process(pid),
        destination_port=80,
        protocol=6,
        owner_label=abi.OWNER_PROCESS,
    )


async def test_a_batch_of_two_topics_is_one_story() -> None:
    around = Around()
    async with around.running():
        batch = RecordBatch.from_bytes(exec_bytes(PID) + connect_bytes(PID) + exit_bytes(PID))
        for topic in ("process", "socket"):
            around.bus.publish(topic, batch)
        events = await around.events(3)
        assert [type(event) for event in events] == [ExecEvent, ConnectEvent, ExitEvent]
        owner = around.owners.find(owner_key(PID, START + PID))
        assert [getattr(event, "owner", None) for event in events] == [owner] * 3
        assert isinstance(owner, Process)
        assert owner.exe == b"/bin/x"
        (identity,) = around.counters.read()
        assert (identity.stage, identity.balanced) == ("observability", True)
        assert identity.terms == {"decoded": 3, "events": 3, "forks": 0, "cgroups": 0}
    assert around.owners.find(owner_key(PID, START + PID)) is None
    assert {around.bus.listeners(topic) for topic in ("process", "socket", "cgroup")} == {0}
    assert around.counters.read() == ()


async def test_events_stand_on_the_wall_clock() -> None:
    around = Around()
    async with around.running():
        before = around.clock.wall_of(START + PID)
        around.bus.publish("process", RecordBatch.from_bytes(exec_bytes(PID)))
        (event,) = await around.events(1)
        assert before - 1_000_000_000 < event.time_ns < around.clock.wall_of(START + PID) + 1_000_000_000


async def test_processes_older_than_it_are_known() -> None:
    around = Around()
    async with around.running():
        own = around.host.process(os.getpid())
        assert own is not None
        owner = around.owners.find(owner_key(own.pid, own.start_ns + 5_000_000))
        assert isinstance(owner, Process)
        assert (owner.pid, owner.exe) == (os.getpid(), own.exe)


async def test_a_drain_that_comes_by_two_topics_counts_once() -> None:
    around = Around()
    async with around.running():
        for _ in range(3):
            batch = RecordBatch.from_bytes(exec_bytes(PID))
            for topic in ("process", "socket", "cgroup"):
                around.bus.publish(topic, batch)
        assert around.history.published == 3
        (found,) = around.counters.read()
        assert found.terms["decoded"] == found.terms["events"] == 3


async def test_a_mistake_in_the_ring_s_turn_is_the_module_s_end(monkeypatch: pytest.MonkeyPatch) -> None:
    around = Around()

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup) as raised:  # noqa: PT012
        async with around.running():
            monkeypatch.setattr(Table, "take", fail)
            around.bus.publish("process", RecordBatch.from_bytes(exec_bytes(PID)))
            await asyncio.sleep(0.05)
    assert raised.group_contains(ZeroDivisionError)


def refuse(*topics: str) -> Callable[[str], None]:
    def wanted(topic: str) -> None:
        if topic in topics:
            raise LoadRejected("load", f"observe: {topic}", 22)

    return wanted


async def test_without_one_sensor_the_others_go_on() -> None:
    around = Around(refuse("socket"))
    async with around.running():
        (condition,) = around.conditions.all()
        assert condition.code == "sensor_unavailable"
        assert condition.text.startswith("no socket events: ")
        around.bus.publish("process", RecordBatch.from_bytes(exec_bytes(PID)))
        assert len(await around.events(1)) == 1


async def test_without_any_sensor_it_does_not_run() -> None:
    around = Around(refuse("process", "socket", "cgroup"))
    with pytest.raises(LoadRejected):
        async with around.running():
            raise AssertionError("it runs")


async def test_flows_without_a_flow_table_are_refused_by_name() -> None:
    around = Around()
    async with around.running():
        _, answer = around.verbs.find("flows", {})
        with pytest.raises(FeatureUnsupported, match="no interface is watched"):
            await collect(answer({}))


class Loaded(FlowSource):
    """A flow table of so many rows, flow N last seen in second N, that no kernel is behind."""

    def __init__(self, around: Around, count: int) -> None:
        super().__init__(around.bus, around.clock, around.context.log)
        self._table = FlowTable(count)
        self._table.next_harvest()
        self.asked: list[int] = []
        for number in range(count):
            key = {"local_port": number, "protocol": 17}
            owner = owner_key(PID + number % 2, START)
            value = {"packets": [1, 0], "epoch": number, "first_ns": 1, "owner": owner}
            self._table.ingest(abi.pack("aegis_flow_row", key=key, value=value))

    @property
    def available(self) -> bool:
        return True

    def owner(self, owner: int) -> SocketOwner:
        self.asked.append(owner)
        return SocketOwner(
            label="process", pid=owner & 0x3FFFFF, start_ns=START, uid=3, cgroup_id=1, comm=b"gone"
        )


def listing(around: Around, args: dict[str, Any]) -> Any:
    return around.verbs.find("flows", args)[1](args)


async def test_a_long_listing_lets_others_in_between() -> None:
    around = Around()
    around.context.flows = flows = Loaded(around, 20 * FLOWS_A_SLICE)
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with around.running():
        busy = asyncio.create_task(other())
        found = await collect(listing(around, {}))
        busy.cancel()
        assert sorted(flow.src_port for flow in found) == list(range(20 * FLOWS_A_SLICE))
        assert turns >= 20
        assert len(flows.asked) == 2, "each owner once a listing"
        assert {flow.comm for flow in found} == {"gone"}


async def test_listings_do_not_make_the_table_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    tables: list[Table] = []

    class Watched(Table):
        def __init__(self, *args: Any, **named: Any) -> None:
            super().__init__(*args, **named)
            tables.append(self)

    monkeypatch.setattr(module, "Table", Watched)
    around = Around()
    around.context.flows = Loaded(around, 10)
    async with around.running():
        (table,) = tables
        before = len(table)
        for _ in range(2):
            assert len(await collect(listing(around, {}))) == 10
        assert len(table) == before


async def test_the_last_flows_are_those_seen_latest() -> None:
    around = Around()
    around.context.flows = Loaded(around, 300)
    async with around.running():
        found = await collect(listing(around, {"last": 3}))
        assert [flow.src_port for flow in found] == [299, 298, 297]
        assert await collect(listing(around, {"last": 0})) == []
        assert len(await collect(listing(around, {"last": 10**30}))) == 300
        with pytest.raises(EnvelopeInvalid, match="must not be negative"):
            await collect(listing(around, {"last": -1}))


async def test_listings_take_turns() -> None:
    around = Around()
    around.context.flows = Loaded(around, 300)
    async with around.running():
        first = listing(around, {})
        await anext(first)
        second = asyncio.create_task(collect(listing(around, {})))
        await asyncio.sleep(0.05)
        assert not second.done()
        assert len(await collect(first)) == 299
        assert len(await second) == 300
        left = listing(around, {})
        await anext(left)
        await left.aclose()
        async with asyncio.timeout(1):
            assert len(await collect(listing(around, {}))) == 300


async def test_a_client_that_stops_reading_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STALLED_NS", 50_000_000)
    around = Around()
    around.context.flows = Loaded(around, 300)
    async with around.running():
        stalled = listing(around, {})
        await anext(stalled)
        async with asyncio.timeout(10):
            assert len(await collect(listing(around, {}))) == 300
        with pytest.raises(ModuleError, match="given up"):
            await collect(stalled)
        assert len(await collect(listing(around, {}))) == 300


async def test_exits_lost_in_the_ring_are_noticed_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RECONCILE_EVERY_S", 0.01)
    monkeypatch.setattr(module, "RECONCILE_AT_LEAST_NS", 0)
    around = Around()
    async with around.running():
        around.bus.publish("process", RecordBatch.from_bytes(exec_bytes(PID)))
        await around.events(1)
        async with asyncio.timeout(10):
            while around.owners.find(owner_key(PID, START + PID)):  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.01)


async def test_a_crowd_is_looked_through_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RECONCILE_AT_LEAST_NS", 0)
    monkeypatch.setattr(module, "GROWTH", 10)
    around = Around()
    pids = len(around.host.pids()) + 100
    async with around.running():
        for first in range(2 * pids + 20):
            around.bus.publish("process", RecordBatch.from_bytes(exec_bytes(PID + first)))
            await around.events(first + 1)
        assert around.owners.find(owner_key(PID, START + PID)) is None


async def collect(stream: Any) -> list[Any]:
    return [item async for item in stream]


def test_a_record_of_this_test_is_a_record() -> None:
    batch = RecordBatch.from_bytes(exec_bytes(1) + connect_bytes(1) + exit_bytes(1))
    assert (batch.unknown, batch.malformed) == (0, 0)
    assert [record[0] for record in records.decode(batch)] == [records.EXEC, records.CONNECT, records.EXIT]
