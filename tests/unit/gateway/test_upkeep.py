from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from aegis.errors import StorageError
from aegis.gateway.store.base import Keep
from aegis.gateway.upkeep import Upkeep
from tests.support.gateway_agents import agent_at, item


def upkeep_of(gateway: Any, **more: Any) -> Upkeep:
    return Upkeep(
        store=gateway._store,
        agents=gateway._agents,
        orders=gateway.hub._orders,
        ingest=gateway._ingest,
        nonces=gateway._hall.nonces,
        metrics=gateway._metrics,
        clock=gateway._clock,
        **more,
    )


async def test_last_seen_outlives_the_process(start: Callable[..., Any]) -> None:
    gateway = await start()
    async with agent_at(gateway.agent_address, b"u" * 32) as agent:
        uid = agent.session.uid
    seen = gateway.hub.agent(uid).last_seen_ns
    again = await start()
    assert again.hub.agent(uid).last_seen_ns >= seen


async def test_a_directory_without_room_lets_nobody_in_and_says_so(
    start: Callable[..., Any], monkeypatch: Any
) -> None:
    gateway = await start()
    upkeep = upkeep_of(gateway)

    def full(*_: object) -> None:
        raise StorageError("no room")

    nonces = gateway._hall.nonces
    monkeypatch.setattr(nonces, "keep", full)
    monkeypatch.setattr(nonces, "probe", full)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5), agent_at(gateway.agent_address, b"u" * 32):
            pass
    assert (gateway.ready(), gateway.hub.readiness().checks["store"]) == (False, "failing")
    await upkeep._look_again()
    assert not gateway.ready()
    monkeypatch.undo()
    await upkeep._look_again()
    assert gateway.ready()
    async with agent_at(gateway.agent_address, b"u" * 32):
        pass


async def test_it_prunes_in_steps_until_nothing_is_over(start: Callable[..., Any]) -> None:
    gateway = await start()
    async with agent_at(gateway.agent_address, b"u" * 32) as agent:
        for n in range(10):
            await agent.batch(n, [item(n)])
        await agent.acknowledged(10)
    await upkeep_of(gateway, retention={"event": Keep(age_ns=1 << 62, total_bytes=1500)}).prune()
    assert 1 <= (await gateway._store.totals())["event"].items <= 2
    assert gateway._metrics.events["pruned_batches"] >= 8


async def test_a_store_that_fails_ends_no_upkeep(start: Callable[..., Any], monkeypatch: Any) -> None:
    gateway = await start()
    async with agent_at(gateway.agent_address, b"u" * 32):
        pass

    async def fail(*_: object) -> None:
        raise StorageError("no")

    monkeypatch.setattr(gateway._store, "save_seen", fail)
    monkeypatch.setattr(gateway._store, "save_nonces", fail)
    before = gateway._metrics.events["upkeep_failed"]
    await upkeep_of(gateway).last()
    assert gateway._metrics.events["upkeep_failed"] == before + 2
    # What could not be written is not forgotten.
    monkeypatch.undo()
    await upkeep_of(gateway).last()
    assert {each.last_seen_ns for each in await gateway._store.agents()} == {
        each.last_seen_ns for each in gateway._agents
    }
