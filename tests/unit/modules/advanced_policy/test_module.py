"""The module on a real bus: records become events, losses are told, the state of enforcement is a condition."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from aegis._native.records import RecordBatch
from aegis.kernel import abi
from aegis.model.event import LossEvent, VerdictEvent
from aegis.model.policy import EnforcementState, Mode, RuleName
from aegis.model.process import OwnerLabel
from aegis.modules.advanced_policy.config import OPTIONS
from aegis.modules.advanced_policy.module import AdvancedPolicy
from aegis.runtime.bus import Bus
from aegis.runtime.clock import SystemClock
from aegis.runtime.settings import Settings


def batch(count: int, *, rule: int = 1) -> RecordBatch:
    """`count` verdict records as the ring gives them."""
    size = abi.struct("aegis_verdict_record").size
    one = abi.pack(
        "aegis_verdict_record",
        header={"ktime_ns": 5, "size": size, "kind": abi.KIND_VERDICT},
        key={
            "local": b"\x01" * 16,
            "remote": b"\x02" * 16,
            "local_port": 40_001,
            "remote_port": 23,
            "ifindex": 7,
        },
        generation=3,
        rule=rule,
        verdict=abi.VERDICT_DENY,
    )
    return RecordBatch.from_bytes(one * count)


class World:
    """What the module is lent, and what it made of it."""

    def __init__(self, **options: Any) -> None:
        self.bus = Bus()
        self.events: list[Any] = []
        self.raised: dict[str, str] = {}
        self.state = EnforcementState(state="none", generation=0)
        values = {option.name: option.default for option in OPTIONS}
        links = [SimpleNamespace(index=7, name="eth7")]
        self.context: Any = SimpleNamespace(
            config=Settings("modules.advanced_policy", {**values, **options}),
            bus=self.bus,
            clock=SystemClock(),
            host=SimpleNamespace(links=lambda: links),
            history=SimpleNamespace(append=self.events.extend),
            owners=SimpleNamespace(find=lambda owner: OwnerLabel.KERNEL),
            health=SimpleNamespace(
                raise_=lambda code, text, hint="": self.raised.__setitem__(code, text),
                clear=lambda code: self.raised.pop(code, None),
            ),
            enforcer=SimpleNamespace(
                state=lambda: self.state,
                rule=lambda generation, rule: RuleName(policy="p", rule="r", mode=Mode.ENFORCE, deny=True),
            ),
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[AdvancedPolicy]:
        module = AdvancedPolicy(self.context)
        ready = asyncio.Event()
        task = asyncio.create_task(module.run(ready.set))
        await ready.wait()
        try:
            yield module
        finally:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    async def until(self, condition: Any) -> None:
        while not condition():  # noqa: ASYNC110 - what it waits for is set by plain calls
            await asyncio.sleep(0.001)


async def test_records_become_events() -> None:
    world = World()
    async with world.running():
        world.bus.publish("verdict", batch(13))
        await world.until(lambda: len(world.events) == 13)
    assert all(isinstance(each, VerdictEvent) and each.interface == "eth7" for each in world.events)


async def test_what_found_the_queue_full_is_told_once() -> None:
    world = World(queue_records=256)
    async with world.running():
        for _ in range(3):
            world.bus.publish("verdict", batch(101))
        await world.until(lambda: len(world.events) > 202)
        world.bus.publish("verdict", batch(1))
        await world.until(lambda: len(world.events) == 204)
    losses = [each for each in world.events if isinstance(each, LossEvent)]
    assert [(each.kind, each.reason, each.count) for each in losses] == [("verdict", "queue_full", 101)]


async def test_the_state_of_enforcement_is_a_condition() -> None:
    world = World(check_interval_s=0.1)
    world.state = EnforcementState(state="stale", generation=4, reason="committed.json: damaged")
    async with world.running() as module:
        assert world.raised == {"enforcement_stale": "committed.json: damaged"}
        world.state = EnforcementState(state="unavailable", generation=0, reason="no BPF")
        await world.until(lambda: world.raised == {"enforcement_unavailable": "no BPF"})
        module.reload(Settings("modules.advanced_policy", {"check_interval_s": 0.1, "queue_records": 256}))
        world.state = EnforcementState(state="enforcing", generation=5, mode=Mode.ENFORCE)
        await world.until(lambda: not world.raised)
        world.state = EnforcementState(
            state="enforcing", generation=5, mode=Mode.ENFORCE, reason="no space", durable=False
        )
        await world.until(lambda: world.raised == {"policy_not_durable": "no space"})
        world.state = EnforcementState(state="enforcing", generation=5, mode=Mode.ENFORCE)
        await world.until(lambda: not world.raised)
