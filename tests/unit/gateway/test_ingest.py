from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest

from aegis.errors import StorageError
from aegis.gateway.store.base import Query
from aegis.model.block import BlockClass
from aegis.protocol.agent_happenings import PeerError
from tests.support.gateway_agents import agent_at, eventually, item

SEED = b"i" * 32


async def stored(gateway: Any, **given: Any) -> list[int]:
    page = await gateway.hub.items(Query(limit=1000, **given))
    return sorted(msgspec.json.decode(each.json)["time_ns"] for each in page.items)


async def test_acknowledged_is_stored(start: Callable[..., Any]) -> None:
    gateway = await start()
    async with agent_at(gateway.agent_address, SEED) as agent:
        for cls, kind in ((BlockClass.EVENT, "exec"), (BlockClass.VERDICT, "verdict")):
            await agent.batch(0, [item(n, kind) for n in range(5)], cls=cls)
            await agent.acknowledged(5, cls)
            assert await stored(gateway, cls=(cls.value,)) == [0, 1, 2, 3, 4]
    again = await start()
    assert await stored(again) == [0, 1, 2, 3, 4]


async def test_items_are_told_with_what_they_share(start: Callable[..., Any]) -> None:
    gateway = await start()
    async with agent_at(gateway.agent_address, SEED) as agent:
        await agent.batch(
            0, [item(n) | {"shared": 0} for n in range(3)], shared_json=b'[{"owner":"process"}]'
        )
        await agent.acknowledged(3)
    page = await gateway.hub.items(Query())
    told = [msgspec.json.decode(each.json) for each in page.items]
    assert told == [item(n) | {"owner": "process"} for n in (2, 1, 0)]


async def test_nothing_is_acknowledged_before_it_is_stored(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = await start()
    gate = asyncio.Event()
    append = gateway._store.append
    transactions = []

    async def slow(batches: Any) -> Any:
        transactions.append(len(batches))
        await gate.wait()
        return await append(batches)

    monkeypatch.setattr(gateway._store, "append", slow)
    async with agent_at(gateway.agent_address, SEED) as agent:
        for n in range(20):
            await agent.batch(n, [item(n)])
        await eventually(lambda: len(gateway._ingest._waiting) + sum(transactions) == 20)
        assert not [each for each in agent.happened if type(each).__name__ == "Acknowledged"]
        gate.set()
        await agent.acknowledged(20)
        assert len(transactions) == 2  # what came meanwhile went together
        said = [each.next_ for each in agent.happened if type(each).__name__ == "Acknowledged"]
        assert said == [transactions[0], 20]


async def test_what_is_sent_again_is_acknowledged_and_not_stored_again(start: Callable[..., Any]) -> None:
    gateway = await start()
    async with agent_at(gateway.agent_address, SEED) as agent:
        await agent.batch(0, [item(n) for n in range(5)])
        await agent.acknowledged(5)
    async with agent_at(gateway.agent_address, SEED) as agent:
        await agent.batch(0, [item(n) for n in range(5)])
        await agent.acknowledged(5)
        await agent.batch(3, [item(n) for n in range(3, 8)])
        await agent.acknowledged(8)
    assert await stored(gateway) == list(range(8))


async def test_a_bad_item_refuses_its_batch_and_ends_nothing(start: Callable[..., Any]) -> None:
    gateway = await start()
    async with agent_at(gateway.agent_address, SEED) as agent:
        await agent.batch(0, [item(1), {**item(2), "time_ns": "yesterday"}])
        await agent.until(lambda: any(isinstance(each, PeerError) for each in agent.happened))
        told = next(each for each in agent.happened if isinstance(each, PeerError))
        assert "time_ns" in told.text
        assert gateway._metrics.events["refused_batch"] == 1
        await agent.batch(2, [item(3)])
        await agent.acknowledged(3)
    assert await stored(gateway) == [3]


async def test_a_store_that_takes_nothing_acknowledges_nothing_and_recovers(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = await start()

    async def fail(_: object) -> None:
        raise StorageError("the disk is full", hint="make room")

    async with agent_at(gateway.agent_address, SEED) as agent:
        monkeypatch.setattr(gateway._store, "append", fail)
        await agent.batch(0, [item(1)])
        await agent.socket.wait_closed()
        assert agent.socket.close_code == 1013
    assert gateway.hub.readiness().ready is False
    assert gateway.hub.readiness().checks["store"] == "failing"
    monkeypatch.undo()
    await eventually(lambda: gateway.hub.readiness().ready, within=10)  # it tries by itself
    async with agent_at(gateway.agent_address, SEED) as agent:
        await agent.batch(0, [item(1)])
        await agent.acknowledged(1)
    assert await stored(gateway) == [1]


async def test_who_sends_more_than_the_store_takes_is_held(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = await start(bytes_at_once=20_000)
    gate = asyncio.Event()
    append = gateway._store.append

    async def slow(batches: Any) -> Any:
        await gate.wait()
        return await append(batches)

    monkeypatch.setattr(gateway._store, "append", slow)
    async with (
        agent_at(gateway.agent_address, SEED) as agent,
        agent_at(gateway.agent_address, b"j" * 32) as other,
    ):
        count = 3000

        async def send() -> None:
            for n in range(count):
                await agent.batch(n, [item(n)])

        sending = asyncio.create_task(send())
        await eventually(lambda: gateway._ingest._bytes > 20_000)
        await asyncio.sleep(0.3)
        assert gateway._ingest._bytes < 600_000
        await other.batch(0, [item(1)], stream=9)
        gate.set()
        await sending
        await agent.acknowledged(count)
        await other.acknowledged(1, stream=9)
        assert gateway._ingest._bytes == 0
    totals = await gateway._store.totals()
    assert totals["event"].items == count + 1


async def test_who_is_held_for_what_all_sent_is_read_again(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The level of all falls and rises by what others do: that a session is held is remembered, not guessed from it."""
    gateway = await start(bytes_at_once_in_all=30_000)
    gate = asyncio.Event()
    append = gateway._store.append

    async def slow(batches: Any) -> Any:
        await gate.wait()
        return await append(batches)

    monkeypatch.setattr(gateway._store, "append", slow)
    async with AsyncExitStack() as stack:
        agents = [
            await stack.enter_async_context(agent_at(gateway.agent_address, bytes([n]) * 32))
            for n in range(6)
        ]
        sessions = list(gateway._hall.by_key.values())
        for agent in agents:
            await agent.batch(0, [item(n) for n in range(4)])
        await eventually(lambda: all(each.held_bytes for each in sessions))
        assert not all(each.held for each in sessions)  # the first ones found room
        for agent in agents:
            for n in range(20):
                await agent.batch(4 + n, [item(n)])
        await eventually(lambda: gateway._ingest._bytes > 30_000)
        gateway._ingest._bytes += 60_000  # of somebody else
        for agent in agents:
            for n in range(400):
                await agent.batch(24 + n, [item(n)])
        await eventually(lambda: all(each.held and each.connection.is_held for each in sessions))
        gateway._ingest._bytes -= 60_000
        gate.set()
        for agent in agents:
            await agent.acknowledged(424)
        assert gateway._ingest._bytes == 0
        assert not [each for each in sessions if each.held or each.connection.is_held]


async def test_what_came_behind_a_transaction_that_failed_is_not_stored_either(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its cursor would pass over what failed, which then would be taken for known and acknowledged."""
    gateway = await start()
    append = gateway._store.append
    gate = asyncio.Event()

    async def fail_once(_: object) -> None:
        monkeypatch.setattr(gateway._store, "append", append)
        await gate.wait()
        raise StorageError("disk I/O error")

    async with (
        agent_at(gateway.agent_address, SEED) as agent,
        agent_at(gateway.agent_address, b"j" * 32) as other,
    ):
        await agent.batch(0, [item(n) for n in range(10)])
        await agent.acknowledged(10)
        monkeypatch.setattr(gateway._store, "append", fail_once)
        await agent.batch(10, [item(n) for n in range(10, 20)])
        await eventually(lambda: gateway._ingest._bytes > 0)
        await agent.batch(20, [item(n) for n in range(20, 30)])
        await other.batch(0, [item(99)], stream=9)
        await eventually(lambda: len(gateway._ingest._waiting) == 2)
        gate.set()
        await other.acknowledged(1, stream=9)  # who had no part in it is not cut
        await agent.socket.wait_closed()
    assert gateway._ingest._bytes == 0
    assert gateway.hub.readiness().ready
    async with agent_at(gateway.agent_address, SEED) as agent:
        await agent.batch(10, [item(n) for n in range(10, 20)])
        await agent.batch(20, [item(n) for n in range(20, 30)])
        await agent.acknowledged(30)
    assert await stored(gateway) == [*range(30), 99]


async def test_a_fault_while_storing_loses_nothing_that_waits(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = await start()

    async def fail_once(_: object) -> None:
        monkeypatch.undo()
        raise RuntimeError("a fault of ours")

    async with agent_at(gateway.agent_address, SEED) as agent:
        monkeypatch.setattr(gateway._store, "append", fail_once)
        await agent.batch(0, [item(0)])
        await agent.socket.wait_closed()
    assert gateway._ingest._bytes == 0
    await eventually(lambda: gateway.hub.readiness().ready, within=10)
    async with agent_at(gateway.agent_address, SEED) as agent:
        await agent.batch(0, [item(0)])
        await agent.acknowledged(1)


async def test_received_is_stored_and_known(start: Callable[..., Any]) -> None:
    gateway = await start()
    async with agent_at(gateway.agent_address, SEED) as agent:
        await agent.batch(0, [item(n) for n in range(5)])
        await agent.acknowledged(5)
    async with agent_at(gateway.agent_address, SEED) as agent:
        await agent.batch(0, [item(n) for n in range(5)])  # all known
        await agent.acknowledged(5)
        await agent.batch(3, [item(n) for n in range(3, 8)])  # two are
        await agent.acknowledged(8)
    assert gateway._metrics._items == {
        ("event", "received"): 15,
        ("event", "stored"): 8,
        ("event", "duplicate"): 7,
    }


async def test_what_comes_alone_is_with_the_store_at_once(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = await start()
    offer, append = gateway._ingest.offer, gateway._store.append
    noted: list[str] = []

    def offering(*given: Any) -> Any:
        size = offer(*given)
        noted.append("offered")
        return size

    def appending(batches: Any) -> Any:
        noted.append("appended")
        return append(batches)

    monkeypatch.setattr(gateway._ingest, "offer", offering)
    monkeypatch.setattr(gateway._store, "append", appending)
    async with agent_at(gateway.agent_address, SEED) as agent:
        await agent.batch(0, [item(0)])
        await agent.acknowledged(1)
    assert noted == ["appended", "offered"]


async def test_settling_waits_for_what_was_offered(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = await start()
    await gateway._ingest.settle()  # nothing waits
    gate = asyncio.Event()
    append = gateway._store.append

    async def slow(batches: Any) -> Any:
        await gate.wait()
        return await append(batches)

    monkeypatch.setattr(gateway._store, "append", slow)
    async with agent_at(gateway.agent_address, SEED) as agent:
        await agent.batch(0, [item(0)])
        await agent.batch(1, [item(1)])
        await eventually(lambda: len(gateway._ingest._waiting) == 1)
        settling = asyncio.create_task(gateway._ingest.settle())
        await asyncio.sleep(0.05)
        assert not settling.done()
        gate.set()
        await asyncio.wait_for(settling, 5)
        assert gateway._ingest._bytes == 0
        await agent.acknowledged(2)
