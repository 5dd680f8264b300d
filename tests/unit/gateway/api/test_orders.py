"""Orders: what is handed to the hub, what is said of it, and that a repeated key sends once."""

from __future__ import annotations

import asyncio

import pytest

from aegis.errors import StorageError
from aegis.gateway.views import MessageView, Order
from tests.support.api import UID, Api, agent_view

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])  # what is answered is the same on both

SEND = f"/agents/{UID}/send"
BODY = {"channel": "backend.modules", "message": {"type": "stop_module", "module_id": "telemetry"}}


async def test_send(api: Api) -> None:
    body = {**BODY, "message_type": "request", "priority": 5, "ttl": 60}
    answer = await api.call("POST", SEND, body)
    assert (answer.status, answer.json()["status"], answer.json()["message_id"]) == (200, "sent", "msg_1")
    order = Order(uid=UID, channel="backend.modules", message=BODY["message"], type="request", ttl_s=60)
    assert api.hub.sent == [(order, 0.0)]


async def test_wait_is_for_the_answer(api: Api) -> None:
    sent = (await api.call("POST", f"{SEND}?wait=5s", BODY)).json()
    assert sent["status"] == "answered"
    assert sent["answer"] == {"ok": True, "code": "ok", "text": "done", "state": {}}
    assert api.hub.sent[0][1] == 5.0


async def test_an_agent_that_does_not_answer_or_is_away(api: Api) -> None:
    api.hub.views["deployed"] = agent_view("deployed", ours=False)
    api.hub.views["away"] = agent_view("away", connected=False)
    assert (await api.call("POST", "/agents/deployed/send?wait=50ms", BODY)).json()["status"] == "timeout"
    assert (await api.call("POST", "/agents/away/send?wait=50ms", BODY)).json()["status"] == "queued"


@pytest.mark.parametrize("wait", ["61s", "x", "-1s", ""])
async def test_a_wrong_wait_sends_nothing(api: Api, wait: str) -> None:
    assert (await api.call("POST", f"{SEND}?wait={wait}", BODY)).status == 400
    assert api.hub.sent == []


async def test_a_store_that_fails_is_503_and_says_no_more(api: Api) -> None:
    api.hub.failure = StorageError("the database is locked")
    answer = await api.call("POST", SEND, BODY)
    assert (answer.status, answer.json()["code"]) == (503, "storage_error")


async def test_an_error_nobody_thought_of_says_nothing_of_the_inside(api: Api) -> None:
    api.hub.failure = RuntimeError("secret path /var/lib/x")
    answer = await api.call("POST", SEND, BODY)
    assert (answer.status, answer.json()["code"]) == (500, "internal_error")
    assert b"secret" not in answer.body


async def test_the_same_key_sends_once(api: Api) -> None:
    headers = {"Idempotency-Key": "a-key"}
    first, second = await asyncio.gather(
        *(api.call("POST", f"{SEND}?wait=1s", BODY, headers=headers) for _ in range(2))
    )
    third = await api.call("POST", f"{SEND}?wait=1s", BODY, headers=headers)
    assert first.body == second.body == third.body
    assert len(api.hub.sent) == 1
    other = await api.call("POST", SEND, {**BODY, "channel": "backend.policies"}, headers=headers)
    assert (other.status, other.json()["code"]) == (422, "idempotency_key_reused")
    assert (await api.call("POST", SEND, BODY, headers={"Idempotency-Key": "x" * 129})).status == 400
    await api.call("POST", SEND, BODY)
    assert len(api.hub.sent) == 2


async def test_broadcast(api: Api) -> None:
    api.hub.views["away"] = agent_view("away", connected=False)
    everybody = (await api.call("POST", "/agents/broadcast", BODY)).json()
    assert everybody["sent_to"] == [UID]
    assert everybody["queued"] == ["away"]
    assert everybody["failed"] == []
    assert everybody["total_sent"] == 1
    assert [order.message["command_id"] for order, _ in api.hub.sent] == [everybody["message_id"]] * 2
    assert [one["message_id"] for one in everybody["messages"]] == ["msg_1", "msg_2"]
    named = (
        await api.call("POST", "/agents/broadcast", {**BODY, "agent_filter": [UID, UID, "nobody"]})
    ).json()
    assert (named["sent_to"], named["failed"]) == ([UID], ["nobody"])
    nobody = (await api.call("POST", "/agents/broadcast", {**BODY, "agent_filter": []})).json()
    assert (nobody["total_sent"], nobody["messages"]) == (0, [])


async def test_a_broadcast_repeated_is_sent_once_and_keeps_a_command_of_its_own(api: Api) -> None:
    headers = {"Idempotency-Key": "k"}
    body = {"channel": "backend.modules", "message": {"command_id": "mine"}}
    first = await api.call("POST", "/agents/broadcast", body, headers=headers)
    assert (await api.call("POST", "/agents/broadcast", body, headers=headers)).body == first.body
    assert [order.message["command_id"] for order, _ in api.hub.sent] == ["mine"]


async def test_many_in_one_request(api: Api) -> None:
    orders = [{"agent_uid": UID, **BODY}, {"agent_uid": "nobody", **BODY}]
    made = (await api.call("POST", "/agents/send?wait=1s", {"orders": orders})).json()
    assert [one["status"] for one in made["messages"]] == ["answered", "failed"]
    assert (await api.call("POST", "/agents/send", {"orders": []})).status == 422


async def test_a_message_is_found_again(api: Api) -> None:
    api.hub.messages["msg_7"] = MessageView(
        message_id="msg_7", agent_uid=UID, channel="backend.modules", type="event", status="answered", error=None,
        created="c", expires="e", sent="s", answered="a", answer={"ok": True},
    )  # fmt: skip
    found = (await api.call("GET", "/messages/msg_7")).json()
    assert (found["status"], found["answer"]) == ("answered", {"ok": True})
    missing = await api.call("GET", "/messages/msg_8")
    assert (missing.status, missing.json()["code"]) == (404, "message_unknown")
