from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import Any

import pytest

from aegis.errors import AgentUnknown, StorageError
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
