from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from aegis.errors import StorageError
from aegis.gateway.views import Order
from tests.support.gateway_agents import agent_at, eventually

SEED = b"l" * 32


async def answer(agent: Any, gateway: Any, count: int, name: Callable[[int], str]) -> None:
    for n in range(count):
        agent.session.answer(name(n), ok=True, state=["x" * 20_000], wall_s=gateway._hall.wall_s())
        await agent.flush()


async def test_answers_to_nothing_are_looked_up_a_few_at_a_time(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = await start()
    message = gateway._store.message
    gate = asyncio.Event()
    running = most = 0

    async def slow(identity: str) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await gate.wait()
        running -= 1
        return await message(identity)

    async with agent_at(gateway.agent_address, SEED) as stranger:
        monkeypatch.setattr(gateway._store, "message", slow)
        sending = asyncio.create_task(answer(stranger, gateway, 600, lambda n: f"msg_{n:024x}"))
        await eventually(lambda: running >= 8)
        await asyncio.sleep(0.3)
        assert most < 60  # 8, and what had been read by then
        gate.set()
        await sending
        await eventually(lambda: gateway._metrics.events["answer_to_nothing"] == 600, within=10)
        assert stranger.socket.close_code is None


async def test_what_is_no_name_of_ours_is_not_looked_up(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = await start()
    asked: list[str] = []

    async def message(identity: str) -> None:
        asked.append(identity)

    async with agent_at(gateway.agent_address, SEED) as stranger:
        monkeypatch.setattr(gateway._store, "message", message)
        await answer(stranger, gateway, 20, lambda n: f"cmd_{n}")
        await eventually(lambda: gateway._metrics.events["answer_to_nothing"] == 20)
    assert asked == []


async def test_an_answer_after_a_restart_survives_a_store_that_fails(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = await start()
    async with agent_at(gateway.agent_address, SEED) as agent:
        uid = agent.session.uid
        sent = await gateway.hub.send(Order(uid=uid, channel="backend.modules", message={"type": "x"}))
    again = await start()
    message = again._store.message
    failed = 0

    async def fail(_: str) -> None:
        nonlocal failed
        failed += 1
        raise StorageError("I/O error")

    async with agent_at(again.agent_address, SEED) as agent:
        monkeypatch.setattr(again._store, "message", fail)
        await answer(agent, again, 1, lambda _: sent.message_id)
        await eventually(lambda: failed > 0)
        monkeypatch.setattr(again._store, "message", message)
        await eventually(lambda: again._metrics.events["answered"] == 1)
        assert (await again.hub.message(sent.message_id)).status == "answered"
