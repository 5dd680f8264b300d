"""What there is for a gateway, put together over a real outbox and a gateway on the loopback."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aegis.agent.link import room as rooms
from aegis.agent.link.room import LinkRoom
from aegis.agent.link.unsaid import Reply
from aegis.errors import HostError
from aegis.model.event import LossEvent
from aegis.model.module import ModuleState, ModuleStatus
from aegis.runtime.bus import Bus
from aegis.runtime.clock import SystemClock
from aegis.runtime.config import load, option_table
from aegis.runtime.counters import Counters
from aegis.runtime.health import Conditions
from tests.support.linked import LINK, comes
from tests.support.small_gateway import SmallGateway, serving


class Bench:
    def __init__(self, state: Path, url: str | None) -> None:
        environ = {} if url is None else {"AEGIS_GATEWAY__URL": url, "AEGIS_GATEWAY__PROTOCOL": "v1"}
        state.mkdir(exist_ok=True)
        state.chmod(0o700)
        self.options: Any = load(None, environ=environ, table=option_table())
        self.conditions = Conditions(SystemClock(), self.changed)
        self.bus = Bus()
        self.counters = Counters()
        self.interrupted: list[Reply] = []
        self.boot_id: bytes | Exception = b"b" * 16
        host: Any = SimpleNamespace(boot_id=self._boot_id)
        self.room = LinkRoom(
            agent_id="host-1",
            state_dir=str(state),
            options=self.options,
            clock=SystemClock(),
            bus=self.bus,
            host=host,
            conditions=self.conditions,
            health=self.conditions.scoped("agent"),
            interfaces=lambda: ["eth0"],
        )

    def _boot_id(self) -> bytes:
        if isinstance(self.boot_id, Exception):
            raise self.boot_id
        return self.boot_id

    def changed(self, what: str, condition: Any) -> None:
        self.room.condition_changed(condition, holds=what == "raised")

    def statuses(self) -> tuple[ModuleStatus, ...]:
        return (ModuleStatus(name="telemetry", state=ModuleState.RUNNING, reason="", since_ns=0, restarts=0),)

    def status(self, name: str) -> ModuleStatus:
        return next(one for one in self.statuses() if one.name == name)

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[LinkRoom]:
        """As the agent has it, the module that keeps the link among it."""
        async with AsyncExitStack() as stack:
            group = await stack.enter_async_context(asyncio.TaskGroup())
            await self.room.open(stack, group, self.counters)
            either: Any = self
            self.room.obey(either, either, group, self.interrupted)
            keeping = group.create_task(
                self.room.uplink.keep(self.options.table(f"modules.{LINK}"), self.conditions.scoped(LINK))
            )
            stack.callback(keeping.cancel)
            yield self.room

    def publish(self, count: int) -> None:
        self.bus.publish(
            "event", [LossEvent(time_ns=5, stage="ring", kind="exec", reason="ring_full", count=1)] * count
        )


async def test_without_a_gateway_there_is_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "state", None)
    async with bench.open() as room:
        assert (room.outbox, room.losses(), bench.counters.read()) == (None, {}, ())
        assert not any(bench.bus.listeners(topic) for topic in ("event", "sample", "flow_record", "finding"))
        await room.drain(lambda: 3.0)
    assert list((tmp_path / "state").iterdir()) == []


async def test_what_is_published_arrives_and_adds_up(tmp_path: Path) -> None:
    gateway = SmallGateway()
    async with serving(gateway) as url:
        bench = Bench(tmp_path / "state", url)
        async with bench.open() as room:
            await comes(lambda: room.uplink.connected)
            bench.publish(3)
            await comes(lambda: len(gateway.items("event")) == 3)
            await comes(lambda: not any(room.outbox.pending().values()) if room.outbox else False)
            assert all(one.balanced for one in bench.counters.read())
            stages = {one.stage: one.terms for one in bench.counters.read()}
            assert stages["outbox.event"]["acknowledged"] == 3
            assert stages["link.frames"]["taken"] == stages["link.frames"]["received"] > 3
            assert stages["link.orders"]["received"] == 0
            assert gateway.batches[0].boot_id == b"b" * 16
            assert [state["name"] for state in gateway.states] == ["telemetry"]
            bench.conditions.raise_("agent", "records_lost", "some")
            await comes(lambda: len(gateway.states) == 2)
            assert (gateway.states[1]["code"], gateway.states[1]["holds"]) == ("records_lost", True)
            await gateway.links[0].push(
                {"type": "get_module_status", "module_id": "telemetry", "command_id": "1"}
            )
            await comes(lambda: gateway.answers)


async def test_a_stop_gives_what_is_under_way_a_moment_and_not_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = SmallGateway()
    async with serving(gateway) as url:
        bench = Bench(tmp_path / "state", url)
        async with bench.open() as room:
            await comes(lambda: room.uplink.connected)
            bench.publish(3)
            await room.drain(lambda: 3.0)
            assert len(gateway.items("event")) == 3
            gateway.acknowledges = False
            monkeypatch.setattr(rooms, "DRAIN_S", 0.2)
            bench.publish(1)
            begun = asyncio.get_running_loop().time()
            await room.drain(lambda: 3.0)
            assert 0.15 < asyncio.get_running_loop().time() - begun < 1.0
            await room.drain(lambda: 0.0)  # no time is left: at once
        await comes(lambda: gateway.closes)
    assert gateway.closes == ["1000 the agent stops"]
    again = Bench(tmp_path / "state", url)
    gateway.acknowledges = True
    async with serving(gateway, int(url.rpartition(":")[2])), again.open() as room:
        await comes(lambda: room.outbox is not None and not any(room.outbox.pending().values()))
        assert len(gateway.items("event")) in {4, 5}  # what nobody acknowledged may have come twice


async def test_without_a_boot_id_the_link_is_as_good(tmp_path: Path) -> None:
    gateway = SmallGateway()
    async with serving(gateway) as url:
        bench = Bench(tmp_path / "state", url)
        bench.boot_id = HostError("no /proc")
        async with bench.open() as room:
            await comes(lambda: room.uplink.connected)
            bench.publish(1)
            await comes(lambda: gateway.batches)
    assert gateway.batches[0].boot_id == bytes(16)


async def test_what_is_refused_is_counted(tmp_path: Path) -> None:
    gateway = SmallGateway()
    async with serving(gateway) as url:
        bench = Bench(tmp_path / "state", url)
        async with bench.open() as room:
            await comes(lambda: room.uplink.connected)
            await gateway.links[0].connection.send(b"binary")
            await gateway.links[0].connection.send("{")
            await gateway.links[0].push({"type": "nonsense", "command_id": "1"})
            await gateway.links[0].push({"type": "stop_module", "module_id": "telemetry", "command_id": "2"})
            await comes(lambda: len(gateway.answers) == 2)
            stages = {one.stage: one for one in bench.counters.read()}
            frames, orders = stages["link.frames"], stages["link.orders"]
            assert (frames.terms["binary_frame"], frames.terms["envelope_invalid"]) == (1, 1)
            assert frames.terms["taken"] == frames.terms["received"] - 2
            assert (orders.terms["received"], orders.terms["refused"]) == (2, 2)
            assert frames.balanced
            assert orders.balanced


async def test_orders_an_agent_before_could_not_end_are_answered(tmp_path: Path) -> None:
    gateway = SmallGateway()
    async with serving(gateway) as url:
        bench = Bench(tmp_path / "state", url)
        bench.interrupted = [
            Reply(in_reply_to="9", ok=False, code="module_spun", text="telemetry held the loop")
        ]
        async with bench.open() as room:
            await comes(lambda: gateway.answers)
            assert room.under_way() == []
            await gateway.links[0].push({"type": "list_modules", "command_id": "9"})  # delivered again
            await comes(lambda: len(gateway.answers) == 2)
        assert [(one.in_reply_to, one.code) for one in gateway.answers] == [("9", "module_spun")] * 2
