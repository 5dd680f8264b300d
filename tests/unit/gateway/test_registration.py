from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from typing import Any

import pytest

from aegis.errors import AgentUnknown, StorageError
from aegis.gateway.registration import STRIDE_S, Enrolment
from aegis.protocol.crypto import uid_of
from aegis.protocol.payloads import RegistrationInit
from tests.support.gateway_agents import agent_at, eventually

KEY = hashlib.sha256(b"key").digest()


async def test_a_thousand_at_once_are_one_row_and_one_uid(start: Callable[..., Any]) -> None:
    gateway = await start()
    enrolment = gateway.hub._enrolment
    rows = await asyncio.gather(
        *(enrolment.enrol(KEY, f"host-{n}", RegistrationInit(host_id=f"host-{n}"), "a") for n in range(1000))
    )
    assert len({row.row.uid for row in rows}) == 1
    stored = await gateway._store.agents()
    assert len(stored) == 1
    assert stored[0] == gateway._agents.of_uid(stored[0].uid).row
    assert not enrolment._locks


async def test_a_second_registration_changes_nothing_that_is_for_ever(start: Callable[..., Any]) -> None:
    gateway = await start()
    enrolment = gateway.hub._enrolment
    first = (await enrolment.enrol(KEY, "h", RegistrationInit(agent_version="1"), "a")).row
    await gateway.hub.set_labels(first.uid, add=["b", "a"])
    await gateway.hub.set_note(first.uid, "note")
    again = (await enrolment.enrol(KEY, "h2", RegistrationInit(agent_version="2"), "a")).row
    assert (again.uid, again.key, again.created_ns) == (first.uid, first.key, first.created_ns)
    assert (again.host_id, again.version, again.labels, again.note) == ("h2", "2", ("a", "b"), "note")
    restarted = await start()
    assert restarted._agents.of_uid(first.uid).row.note == "note"


async def test_what_did_not_change_is_not_written(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = await start()
    enrolment = gateway.hub._enrolment
    await enrolment.enrol(KEY, "h", RegistrationInit(), "a")

    async def fail(_: object) -> None:
        raise AssertionError("written")

    monkeypatch.setattr(gateway._store, "save_agent", fail)
    await enrolment.enrol(KEY, "h", RegistrationInit(), "a")


async def test_labels_of_nobody(start: Callable[..., Any]) -> None:
    gateway = await start()
    with pytest.raises(AgentUnknown):
        await gateway.hub.set_labels("agent-nobody", add=["x"])
    with pytest.raises(AgentUnknown):
        await gateway.hub.set_note("agent-nobody", "x")


async def test_labels_set_at_once_are_all_there(start: Callable[..., Any]) -> None:
    gateway = await start()
    uid = (await gateway.hub._enrolment.enrol(KEY, "h", RegistrationInit(), "a")).row.uid
    await asyncio.gather(*(gateway.hub.set_labels(uid, add=[f"l{n}"]) for n in range(50)))
    assert len(gateway.hub.agent(uid).labels) == 50
    assert len((await gateway._store.agents())[0].labels) == 50


async def test_no_answer_without_a_row(start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent is told that it is registered once its row is committed, and not before."""
    gateway = await start()
    gate = asyncio.Event()
    save = gateway._store.save_agent

    async def slow(row: Any) -> None:
        await gate.wait()
        await save(row)

    monkeypatch.setattr(gateway._store, "save_agent", slow)
    async with agent_at(gateway.agent_address, b"s" * 32, up=False) as agent:
        await eventually(lambda: gateway._hall.tasks)
        await asyncio.sleep(0.1)
        assert agent.session.uid is None
        gate.set()
        await agent.up()


async def test_a_store_that_fails_is_told(start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = await start()

    async def fail(_: object) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(gateway._store, "save_agent", fail)
    async with agent_at(gateway.agent_address, b"s" * 32, up=False) as agent:
        await eventually(lambda: gateway._metrics.events["registration_failed"])
        assert agent.session.uid is None
        assert gateway.hub.agents()[1] == 0
        assert gateway._metrics.events["internal_error"] == 0


async def test_one_alone_is_written_at_once(start: Callable[..., Any]) -> None:
    gateway = await start()
    enrolment = gateway.hub._enrolment
    began = time.monotonic()
    for n in range(20):
        await enrolment.enrol(hashlib.sha256(b"%d" % n).digest(), "h", RegistrationInit(), "a")
    assert time.monotonic() - began < 20 * STRIDE_S / 2


async def test_a_crowd_is_written_together(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes while others are about to register waits a moment for them."""
    gateway = await start()
    enrolment = Enrolment(gateway._store, gateway._agents, gateway._clock, crowd=lambda: 1)
    turns: list[int] = []
    save = gateway._store.save_agent
    loop = asyncio.get_running_loop()
    turn = 0

    counting = True

    def next_turn() -> None:
        nonlocal turn
        turn += 1
        if counting:
            loop.call_soon(next_turn)

    async def counted(row: Any) -> None:
        turns.append(turn)
        await save(row)

    monkeypatch.setattr(gateway._store, "save_agent", counted)

    async def one(n: int) -> None:
        await asyncio.sleep(n * 0.001)
        await enrolment.enrol(hashlib.sha256(b"%d" % n).digest(), "h", RegistrationInit(), "a")

    monkeypatch.setattr(enrolment._stride, "_gap_s", 0.2)
    loop.call_soon(next_turn)
    began = time.monotonic()
    crowd = [asyncio.create_task(one(n)) for n in range(21)]
    await asyncio.sleep(0.1)
    crowd.pop(3).cancel()  # who is gone holds nobody up
    await asyncio.gather(*crowd)
    took_s = time.monotonic() - began
    counting = False
    assert len(turns) == 20
    assert len(set(turns)) == 2
    assert 0.2 <= took_s < 0.6
    assert not enrolment._locks


async def test_who_calls_itself_by_the_uid_of_another_is_not_known_by_it(start: Callable[..., Any]) -> None:
    gateway = await start()
    enrolment = gateway.hub._enrolment
    other = uid_of(hashlib.sha256(b"other").digest())
    assert (await enrolment.enrol(KEY, "h", RegistrationInit(), other)).row.agent_id == "h"
    assert (await enrolment.enrol(KEY, "h", RegistrationInit(), uid_of(KEY))).row.agent_id == uid_of(KEY)
