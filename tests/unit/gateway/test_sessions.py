from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest

from aegis.errors import StorageError
from aegis.gateway.store.sqlite import SqliteStore
from aegis.gateway.views import Order
from aegis.protocol.crypto import uid_of
from tests.support.gateway_agents import agent_at, eventually

SEED = b"a" * 32


async def test_the_newest_connection_of_a_key_wins(start: Callable[..., Any]) -> None:
    gateway = await start()
    async with agent_at(gateway.agent_address, SEED) as old:
        async with agent_at(gateway.agent_address, SEED) as new:
            await old.socket.wait_closed()
            assert old.socket.close_code == 4001
            new.answer = lambda _: {"ok": True}
            await asyncio.sleep(0.05)  # the end of the old one is over
            sent = await gateway.hub.send(
                Order(uid=new.session.uid, channel="backend.modules", message={"type": "x"}), wait_s=3
            )
            assert sent.status == "answered"
            assert gateway._metrics.events["session_conflict"] == 1
        await eventually(lambda: not gateway.hub.agent(new.session.uid).connected)


async def test_a_late_end_takes_only_its_own_entry(start: Callable[..., Any]) -> None:
    """Many orders of ending and beginning: whoever authenticated last is reached."""
    gateway = await start()
    rng = random.Random(7)
    async with AsyncExitStack() as stack:
        held: list[Any] = []
        for _ in range(40):
            agent = await stack.enter_async_context(agent_at(gateway.agent_address, SEED))
            held.append(agent)
            for each in rng.sample(held[:-1], min(len(held) - 1, rng.randrange(3))):
                each.socket.transport.abort()
            if rng.random() < 0.5:
                await asyncio.sleep(rng.random() * 0.01)
            session = gateway._hall.by_key[agent.session._signer.public_key]
            assert session.connection.is_open
            assert gateway._agents.of_uid(agent.session.uid).session is session
    await eventually(lambda: not gateway._hall.by_key)


async def test_the_header_may_claim_anything_the_key_decides(start: Callable[..., Any]) -> None:
    gateway = await start()
    async with agent_at(gateway.agent_address, SEED) as victim:
        stolen = victim.session.uid
        async with agent_at(gateway.agent_address, b"b" * 32, agent_id=stolen) as thief:
            assert thief.session.uid != stolen
            victim.answer = lambda _: {"ok": True, "text": "victim"}
            thief.answer = lambda _: {"ok": True, "text": "thief"}
            sent = await gateway.hub.send(
                Order(uid=stolen, channel="backend.modules", message={"type": "x"}), wait_s=3
            )
            assert sent.answer["text"] == "victim"
            assert thief.orders == []


async def test_nobody_gets_orders_before_registration(start: Callable[..., Any]) -> None:
    gateway = await start()
    async with agent_at(gateway.agent_address, SEED, up=False) as agent:
        await agent.up()
    async with agent_at(gateway.agent_address, SEED, up=False, ours=False) as agent:
        await eventually(lambda: gateway._hall.by_key)
        session = next(iter(gateway._hall.by_key.values()))
        assert not session.settled or session.is_reachable


async def test_one_agent_one_record(start: Callable[..., Any]) -> None:
    """By its start-up id first and by its uid later, from here and from there: 10.12 of the protocol's page."""
    gateway = await start()
    for more in ({}, {"agent_id": "other-name"}, {"ours": False}):
        async with agent_at(gateway.agent_address, SEED, **more) as agent:
            uid = agent.session.uid
    async with agent_at(gateway.agent_address, SEED, uid=uid):
        agents, total = gateway.hub.agents()
        assert (total, [each.agent_uid for each in agents]) == (1, [uid])


async def test_what_an_agent_told_of_itself_is_shown_until_it_tells_anew(start: Callable[..., Any]) -> None:
    gateway = await start()
    runs = {"what": "module", "name": "network", "state": "running", "since_ns": 5}
    holds = {"what": "condition", "source": "kernel", "code": "btf_missing", "holds": True}
    async with agent_at(gateway.agent_address, SEED) as agent:
        uid = agent.session.uid
        for state in (runs | {"state": "starting"}, holds, runs):
            agent.session.state(state, wall_s=int(gateway._clock.wall_ns() / 1e9))
        await agent.flush()
        await eventually(lambda: len(gateway.hub.agent(uid).conditions) > 0)
        await eventually(lambda: b"running" in msgspec.json.encode(gateway.hub.agent(uid)))
        shown = msgspec.json.decode(msgspec.json.encode(gateway.hub.agents()[0][0]))
        assert (shown["modules"], shown["conditions"]) == ([runs], [holds])
    assert gateway.hub.agent(uid).modules  # it is away: what it told last
    async with agent_at(gateway.agent_address, SEED, uid=uid):
        assert (gateway.hub.agent(uid).modules, gateway.hub.agent(uid).conditions) == ([], [])


async def test_last_seen_is_right_within_a_second(start: Callable[..., Any]) -> None:
    gateway = await start()
    async with agent_at(gateway.agent_address, SEED, heartbeat_s=0.2) as agent:
        uid = agent.session.uid
        before = gateway.hub.agent(uid).last_seen_ns
        await asyncio.sleep(0.6)
        shown = gateway.hub.agent(uid)
        assert shown.last_seen_ns > before
        assert gateway._clock.wall_ns() - shown.last_seen_ns < 1_000_000_000


async def test_a_replayed_authentication_is_refused_also_after_a_restart(start: Callable[..., Any]) -> None:
    gateway = await start()
    async with agent_at(gateway.agent_address, SEED) as agent:
        uid = agent.session.uid
    assert uid == uid_of(agent.session._signer.public_key)
    digests = [digest for digest, _ in gateway._hall.replay.entries(gateway._clock.monotonic_ns())]
    assert len(digests) == 1
    again = await start()
    held = [digest for digest, _ in again._hall.replay.entries(again._clock.monotonic_ns())]
    assert held == digests


async def test_an_authentication_is_used_up_also_where_nothing_was_saved_in_time(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a kill: the process wrote nothing down at its end, nor the second before."""

    async def fail(*_: object) -> None:
        raise StorageError("killed")

    monkeypatch.setattr(SqliteStore, "save_nonces", fail)
    gateway = await start()
    async with agent_at(gateway.agent_address, SEED):
        digests = [digest for digest, _ in gateway._hall.replay.entries(gateway._clock.monotonic_ns())]
    await gateway.__aexit__(None, None, None)
    monkeypatch.undo()
    again = await start()
    held = [digest for digest, _ in again._hall.replay.entries(again._clock.monotonic_ns())]
    assert held == digests
    assert len(held) == 1


async def test_nobody_is_let_in_whose_authentication_cannot_be_kept(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = await start()

    def fail(_: bytes) -> None:
        raise StorageError("no room")

    monkeypatch.setattr(gateway._hall.nonces, "keep", fail)
    async with agent_at(gateway.agent_address, SEED, up=False) as agent:
        await agent.socket.wait_closed()
        assert agent.socket.close_code == 1013
        assert agent.happened == []
    assert gateway._metrics.events["nonce_not_kept"] == 1
    assert gateway._hall.by_key == {}


async def test_a_session_that_is_over_its_time_is_ended(start: Callable[..., Any]) -> None:
    gateway = await start(session_s=1)
    async with agent_at(gateway.agent_address, SEED, heartbeat_s=0.1) as agent:
        await agent.socket.wait_closed()
        assert (agent.socket.close_code, agent.socket.close_reason) == (4003, "the session expired")
    async with agent_at(gateway.agent_address, SEED):
        pass


async def test_a_fault_of_ours_ends_one_connection_only(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from aegis.gateway.sessions import Session

    gateway = await start()
    async with agent_at(gateway.agent_address, SEED, heartbeat_s=0.1) as one:
        before = Session._heard

        def broken(self: Session) -> None:
            if self.key == one.session._signer.public_key:
                raise ValueError("a fault")
            before(self)

        monkeypatch.setattr(Session, "_heard", broken)
        async with agent_at(gateway.agent_address, b"z" * 32, heartbeat_s=0.1) as other:
            await one.socket.wait_closed()
            assert gateway._metrics.events["internal_error"] >= 1
            seen = gateway._metrics.heartbeats
            await eventually(lambda: gateway._metrics.heartbeats > seen + 2)
            assert other.socket.close_code is None
