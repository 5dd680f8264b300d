from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aegis.errors import AgentUnknown, StorageError
from aegis.gateway.views import Order
from aegis.protocol.gateway_happenings import Answer
from tests.support.gateway_agents import agent_at, eventually, item

SEED = b"o" * 32


def order(uid: str, **more: Any) -> Order:
    return Order(**{"uid": uid, "channel": "backend.modules", "message": {"type": "list_modules"}, **more})


async def known(gateway: Any, seed: bytes = SEED) -> str:
    async with agent_at(gateway.agent_address, seed) as agent:
        uid: str = agent.session.uid
    await eventually(lambda: not gateway.hub.agent(uid).connected)
    return uid


async def test_sent_answered_and_timeout(start: Callable[..., Any]) -> None:
    gateway = await start()
    async with agent_at(gateway.agent_address, SEED) as agent:
        uid = agent.session.uid
        sent = await gateway.hub.send(order(uid))
        assert (sent.status, sent.answer) == ("sent", None)
        await agent.until(lambda: bool(agent.orders))
        assert agent.orders[0].body == {"type": "list_modules", "command_id": sent.message_id}
        assert (await gateway.hub.send(order(uid), wait_s=0.2)).status == "timeout"
        agent.answer = lambda _: {"ok": False, "code": "module_unknown", "text": "no such", "state": [1]}
        answered = await gateway.hub.send(order(uid), wait_s=3)
        assert answered.status == "answered"
        assert answered.answer == {"ok": False, "code": "module_unknown", "text": "no such", "state": [1]}
        kept = await gateway.hub.message(answered.message_id)
        assert (kept.status, kept.answer) == ("answered", answered.answer)
        assert kept.sent is not None
        assert kept.answered is not None


async def test_an_answer_that_comes_late_is_kept(start: Callable[..., Any]) -> None:
    gateway = await start()
    async with agent_at(gateway.agent_address, SEED) as agent:
        sent = await gateway.hub.send(order(agent.session.uid), wait_s=0.05)
        await agent.until(lambda: bool(agent.orders))
        agent.session.answer(sent.message_id, ok=True, wall_s=gateway._hall.wall_s())
        await agent.flush()
        await eventually(lambda: gateway._metrics.events["answered"])
        assert (await gateway.hub.message(sent.message_id)).status == "answered"


async def test_an_order_waits_for_its_agent_also_over_a_restart(start: Callable[..., Any]) -> None:
    gateway = await start()
    uid = await known(gateway)
    sent = [await gateway.hub.send(order(uid, message={"type": "x", "n": n})) for n in range(3)]
    assert {each.status for each in sent} == {"queued"}
    assert gateway.hub.agent(uid).queued == 3
    again = await start()
    assert again.hub.agent(uid).queued == 3
    async with agent_at(again.agent_address, SEED, answer=lambda _: {"ok": True}) as agent:
        await agent.until(lambda: len(agent.orders) == 3)
        assert [each.body["n"] for each in agent.orders] == [0, 1, 2]
        await eventually(lambda: again._metrics.events["answered"] == 3)
        assert again.hub.agent(uid).queued == 0
    third = await start()
    assert (await third.hub.message(sent[2].message_id)).status == "answered"
    assert third.hub.agent(uid).queued == 0


async def test_an_order_is_given_up_after_its_time(start: Callable[..., Any]) -> None:
    gateway = await start()
    uid = await known(gateway)
    sent = await gateway.hub.send(order(uid, ttl_s=0))
    assert sent.status == "queued"
    gateway.hub._orders.expire()
    await eventually(lambda: gateway._metrics.events["order_expired"] == 1)
    await asyncio.sleep(0.1)
    kept = await gateway.hub.message(sent.message_id)
    assert (kept.status, kept.error) == ("expired", "the agent did not come back in time")
    async with agent_at(gateway.agent_address, SEED) as agent:
        await asyncio.sleep(0.2)
        assert agent.orders == []


async def test_what_was_in_a_buffer_waits_for_the_next_connection(start: Callable[..., Any]) -> None:
    gateway = await start()
    async with agent_at(gateway.agent_address, SEED) as agent:
        uid = agent.session.uid
        agent.socket.transport.pause_reading()
        big = {"type": "x", "pad": "p" * 200_000}
        for _ in range(100):
            (sent,) = await gateway._hall.orders.send([order(uid, message=big)], 0)
            if sent.status == "queued":
                break
        assert sent.status == "queued"  # the kernel's buffers are full
        agent.socket.transport.abort()
        await eventually(lambda: not gateway.hub.agent(uid).connected)
    waiting = gateway.hub.agent(uid).queued
    assert waiting > 0
    async with agent_at(gateway.agent_address, SEED) as agent:
        await agent.until(lambda: len(agent.orders) == waiting)
        assert gateway.hub.agent(uid).queued == 0


async def test_one_that_does_not_read_delays_no_other_order(start: Callable[..., Any]) -> None:
    gateway = await start(send_bytes=1 << 30)
    async with (
        agent_at(gateway.agent_address, SEED) as deaf,
        agent_at(gateway.agent_address, b"q" * 32) as other,
    ):
        deaf.socket.transport.pause_reading()
        big = order(deaf.session.uid, message={"type": "x", "pad": "p" * 200_000})
        while (await gateway.hub.send(big)).status == "sent":
            pass
        began = time.monotonic()
        assert (await gateway.hub.send(order(other.session.uid))).status == "sent"
        assert time.monotonic() - began < 0.4
        deaf.socket.transport.resume_reading()


async def test_nobody_answers_for_another(start: Callable[..., Any]) -> None:
    gateway = await start()
    async with (
        agent_at(gateway.agent_address, SEED) as agent,
        agent_at(gateway.agent_address, b"q" * 32) as liar,
    ):
        sent = await gateway.hub.send(order(agent.session.uid))
        liar.session.answer(sent.message_id, ok=True, wall_s=gateway._hall.wall_s())
        await liar.flush()
        await eventually(lambda: gateway._metrics.events["answer_to_nothing"] == 1)
        await gateway.hub._orders._outcomes.save()  # that it was sent is gathered for a moment
        assert (await gateway.hub.message(sent.message_id)).status == "sent"


async def test_to_all_and_to_some(start: Callable[..., Any]) -> None:
    gateway = await start()
    away = await known(gateway)
    async with (
        agent_at(gateway.agent_address, b"1" * 32) as one,
        agent_at(gateway.agent_address, b"2" * 32) as two,
    ):
        for each in (one, two):
            each.answer = lambda _: {"ok": True}
        results = await gateway.hub.broadcast(order(""), wait_s=0.5)
        assert {each.agent_uid: each.status for each in results} == {
            away: "queued",
            one.session.uid: "answered",
            two.session.uid: "answered",
        }
        assert len({each.message_id for each in results}) == 3
        some = await gateway.hub.broadcast(order(""), uids=[two.session.uid, two.session.uid, "agent-nobody"])
        assert [each.status for each in some] == ["sent", "failed"]
        assert "agent-nobody" in (some[1].error or "")


async def test_caps(start: Callable[..., Any]) -> None:
    gateway = await start(queued_of_agent=2, order_bytes=1000)
    uid = await known(gateway)
    statuses = [(await gateway.hub.send(order(uid))).status for _ in range(3)]
    assert statuses == ["queued", "queued", "failed"]
    large = await gateway.hub.send(order(uid, message={"type": "x", "pad": "p" * 2000}))
    assert large.status == "failed"
    with pytest.raises(AgentUnknown):
        await gateway.hub.send(order("agent-nobody"))


async def test_what_is_not_kept_is_not_sent(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = await start()

    async def fail(_: object) -> None:
        raise StorageError("the disk is full")

    async with agent_at(gateway.agent_address, SEED) as agent:
        monkeypatch.setattr(gateway._store, "add_messages", fail)
        with pytest.raises(StorageError):
            await gateway.hub.send(order(agent.session.uid))
        await asyncio.sleep(0.1)
        assert agent.orders == []


async def test_a_deployed_agent_gets_nothing_between_the_frames_of_its_handshake(
    start: Callable[..., Any],
) -> None:
    gateway = await start()
    uid = await known(gateway)
    await gateway.hub.send(order(uid))
    async with agent_at(gateway.agent_address, SEED, ours=False, up=False) as agent:
        await agent.up()
        assert not any(type(each).__name__ == "Refused" for each in agent.happened)
        await agent.until(lambda: bool(agent.orders))


async def test_the_time_of_an_order_ends_waiting_for_the_connection_only(start: Callable[..., Any]) -> None:
    gateway = await start()
    async with agent_at(gateway.agent_address, SEED) as agent:
        asking = asyncio.create_task(gateway.hub.send(order(agent.session.uid, ttl_s=0), wait_s=5))
        await agent.until(lambda: bool(agent.orders))
        gateway.hub._orders.expire()
        agent.session.answer(agent.orders[0].command_id, ok=True, wall_s=gateway._hall.wall_s())
        await agent.flush()
        assert (await asking).status == "answered"


async def test_what_was_asked_is_kept_by_name_and_for_a_time(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = await start()
    orders = gateway.hub._orders
    async with agent_at(gateway.agent_address, SEED) as agent:
        sent = await gateway.hub.send(order(agent.session.uid, message={"type": "x", "pad": "p" * 9000}))
        assert sent.status == "sent"
        (kept,) = orders._asked.values()
        assert len(kept.sealed) + len(kept.row.body) == 0
        asking = asyncio.create_task(gateway.hub.send(order(agent.session.uid), wait_s=5))
        await agent.until(lambda: len(agent.orders) == 2)
        orders.expire()
        assert len(orders._asked) == 2
        monkeypatch.setattr("aegis.gateway.orders._REMEMBERED_NS", -1)
        orders.expire()
        monkeypatch.undo()
        assert len(orders._asked) == 1  # who waits is not forgotten
        for each in agent.orders:  # and the other is found in the store
            agent.session.answer(each.command_id, ok=True, wall_s=gateway._hall.wall_s())
        await agent.flush()
        assert (await asking).status == "answered"
        await eventually(lambda: gateway._metrics.events["answered"] == 2)


async def test_an_answer_survives_a_store_that_fails(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = await start()
    change = gateway._store.change_messages
    failures = 0

    async def fail(_: object) -> None:
        nonlocal failures
        failures += 1
        raise StorageError("the disk is full")

    async with agent_at(gateway.agent_address, SEED, answer=lambda _: {"ok": True}) as agent:
        monkeypatch.setattr(gateway._store, "change_messages", fail)
        asking = asyncio.create_task(gateway.hub.send(order(agent.session.uid), wait_s=8))
        await eventually(lambda: failures >= 1)
        monkeypatch.setattr(gateway._store, "change_messages", change)
        answered = await asking
        assert answered.status == "answered"
        agent.answer = None
        after = await gateway.hub.send(order(agent.session.uid))
        await asyncio.sleep(0.3)
        assert (await gateway.hub.message(answered.message_id)).status == "answered"
        assert (await gateway.hub.message(after.message_id)).status == "sent"


async def test_a_long_queue_does_not_cut_one_that_reads(start: Callable[..., Any]) -> None:
    gateway = await start()
    uid = await known(gateway)
    big = {"type": "x", "pad": "p" * 200_000}
    for n in range(80):
        assert (await gateway.hub.send(order(uid, message={**big, "n": n}))).status == "queued"
    async with agent_at(gateway.agent_address, SEED) as agent:
        agent.socket.transport.pause_reading()
        await agent.batch(0, [item(1)])  # its acknowledgement waits behind the orders
        await asyncio.sleep(0.5)
        await agent.batch(1, [item(2)])
        await asyncio.sleep(0.2)
        assert gateway.hub.agent(uid).queued > 0  # what the socket has no room for
        agent.socket.transport.resume_reading()
        await agent.until(lambda: len(agent.orders) == 80, within_s=20)
        await agent.acknowledged(2)
        assert [each.body["n"] for each in agent.orders] == list(range(80))
        assert gateway._metrics.events["slow_consumer"] == 0


async def test_what_the_kernel_took_is_not_sent_again(start: Callable[..., Any]) -> None:
    gateway = await start()
    uid = await known(gateway)
    sent = [
        await gateway.hub.send(order(uid, message={"type": "x", "n": n, "pad": "p" * 200_000}))
        for n in range(80)
    ]
    async with agent_at(gateway.agent_address, SEED) as agent:
        await agent.until(lambda: len(agent.orders) >= 3)
        agent.socket.transport.abort()
        await eventually(lambda: not gateway.hub.agent(uid).connected)
    left = gateway.hub.agent(uid).queued
    assert 0 < left < 80
    await asyncio.sleep(0.3)
    assert (await gateway.hub.message(sent[0].message_id)).status == "sent"
    async with agent_at(gateway.agent_address, SEED) as agent:
        await agent.until(lambda: len(agent.orders) == left, within_s=10)
        assert [each.body["n"] for each in agent.orders] == list(range(80 - left, 80))


async def test_caps_hold_within_one_call_and_for_one_that_is_not_reachable_yet(
    start: Callable[..., Any],
) -> None:
    gateway = await start(queued_of_agent=3, queued=5)
    uid, other = await known(gateway), await known(gateway, b"q" * 32)
    results = await asyncio.gather(*(gateway.hub.send_many([order(uid)] * 3) for _ in range(2)))
    assert sorted(each.status for result in results for each in result) == ["failed"] * 3 + ["queued"] * 3
    assert [each.status for each in await gateway.hub.send_many([order(other)] * 3)] == [
        "queued",
        "queued",
        "failed",
    ]
    assert gateway.hub._orders._queues.count == 5
    assert not gateway.hub._orders._coming
    async with agent_at(gateway.agent_address, SEED, ours=False):
        results = await gateway.hub.send_many([order(uid)] * 4)
        assert [each.status for each in results].count("failed") >= 1


async def test_the_end_tells_who_waits_what_is_known(start: Callable[..., Any]) -> None:
    gateway = await start({"actions_listen": ("127.0.0.1", 0)})
    host, port = gateway.actions_address

    def ask(uid: str, **more: str) -> tuple[int, Any]:
        token = Path(gateway.data_dir, "operator.token").read_text().strip()
        body = json.dumps({"channel": "backend.modules", "message": {"type": "list_modules"}})
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json", **more}
        with contextlib.closing(http.client.HTTPConnection(host, port, timeout=20)) as client:
            client.request("POST", f"/agents/{uid}/send?wait=15s", body, headers)
            answer = client.getresponse()
            return answer.status, json.loads(answer.read())

    async with agent_at(gateway.agent_address, SEED) as agent:
        uid = agent.session.uid
        waits = [
            asyncio.create_task(asyncio.to_thread(ask, uid)),
            asyncio.create_task(asyncio.to_thread(ask, uid, **{"Idempotency-Key": "once"})),
        ]
        await agent.until(lambda: len(agent.orders) == 2)
        began = time.monotonic()
        await gateway.__aexit__(None, None, None)
        told = await asyncio.gather(*waits)
        assert time.monotonic() - began < 5
        assert [(status, found["status"]) for status, found in told] == [(200, "sent")] * 2


async def test_nobody_waits_once_the_end_has_begun(start: Callable[..., Any]) -> None:
    gateway = await start()
    uid = await known(gateway)
    gateway.hub.stop_waiting()
    async with asyncio.timeout(2):
        assert (await gateway.hub.send(order(uid), wait_s=30)).status == "queued"
    assert not gateway.hub._orders._waited


async def test_what_was_answered_is_not_carried_out_again(start: Callable[..., Any]) -> None:
    """It was in a buffer when its connection ended, and its answer came before it was said again."""
    gateway = await start()
    uid = await known(gateway)
    sent = await gateway.hub.send(order(uid))
    other = await gateway.hub.send(order(uid, message={"type": "second"}))
    orders = gateway.hub._orders
    (waiting,) = orders._queues._by_uid.values()
    orders._asked[uid, sent.message_id] = waiting[0]  # as if it had been written once
    orders.answered(uid, Answer(in_reply_to=sent.message_id, ok=True, code="ok", text="done", state=None))
    async with agent_at(gateway.agent_address, SEED) as agent:
        await agent.until(lambda: bool(agent.orders))
        await asyncio.sleep(0.3)
        assert [each.command_id for each in agent.orders] == [other.message_id]
    await eventually(lambda: gateway._metrics.events["answered"])
    assert (await gateway.hub.message(sent.message_id)).status == "answered"
    assert orders._queues.count == 0
