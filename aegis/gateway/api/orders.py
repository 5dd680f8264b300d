"""Routes that send orders to agents, and say what became of them."""

from __future__ import annotations

import secrets
from typing import Annotated

from litestar import get, post
from litestar.params import HeaderParameter, JSONBody, PathParameter, QueryParameter
from msgspec import structs

from aegis.gateway.api.agents import PathUid
from aegis.gateway.api.documents import (
    Broadcast,
    BroadcastBody,
    OrderBody,
    OrdersBody,
    OrdersSent,
)
from aegis.gateway.api.instants import span_s
from aegis.gateway.api.place import ThePlace
from aegis.gateway.api.problems import Refusal
from aegis.gateway.views import MessageView, Order, Sent, SentStatus

LONGEST_WAIT_S = 60.0

Wait = Annotated[
    str | None,
    QueryParameter(description="how long to wait for the answer, e.g. 5s; absent: not at all", max_length=16),
]
Key = Annotated[
    str | None,
    HeaderParameter(
        name="Idempotency-Key", description="the same key and body again: the first answer again"
    ),
]


def wait_s(text: str | None) -> float:
    """Seconds of a `wait` parameter; 0 without one. Raises QueryInvalid."""
    return 0.0 if text is None else span_s(text, name="wait", most=LONGEST_WAIT_S)


def _order(uid: str, body: OrderBody) -> Order:
    return Order(uid=uid, channel=body.channel, message=body.message, type=body.message_type, ttl_s=body.ttl)


@post("/agents/{uid:str}/send", status_code=200, operation_id="send", summary="Send one order.")
async def send(
    place: ThePlace, uid: PathUid, data: JSONBody[OrderBody], wait: Wait = None, idempotency_key: Key = None
) -> Sent:
    """`status`: sent, queued or failed at once; with `wait` also answered, with the answer, or timeout."""
    seconds = wait_s(wait)
    order = _order(uid, data)
    sent: Sent = await place.repeats.once(
        idempotency_key, ("send", order), lambda: place.hub.send(order, wait_s=seconds)
    )
    return sent


@post("/agents/send", status_code=200, operation_id="sendMany", summary="Send many orders in one request.")
async def send_many(
    place: ThePlace, data: JSONBody[OrdersBody], wait: Wait = None, idempotency_key: Key = None
) -> OrdersSent:
    seconds = wait_s(wait)
    orders = [_order(one.agent_uid, one) for one in data.orders]
    sent: list[Sent] = await place.repeats.once(
        idempotency_key, ("send_many", orders), lambda: place.hub.send_many(orders, wait_s=seconds)
    )
    return OrdersSent(messages=sent)


@post("/agents/broadcast", status_code=200, operation_id="broadcast", summary="Send one order to many.")
async def broadcast(
    place: ThePlace, data: JSONBody[BroadcastBody], wait: Wait = None, idempotency_key: Key = None
) -> Broadcast:
    seconds = wait_s(wait)
    # One command for all, so that every agent's answer names this request.
    identity = f"broadcast_{secrets.token_hex(12)}"
    asked = _order("", data)
    order = structs.replace(asked, message={"command_id": identity, **asked.message})
    uids = data.agent_filter if data.agent_filter is None else list(dict.fromkeys(data.agent_filter))

    async def make() -> Broadcast:
        sent = await place.hub.broadcast(order, uids=uids, wait_s=seconds)
        by_status: dict[SentStatus, list[str]] = {status: [] for status in SentStatus}
        for one in sent:
            by_status[one.status].append(one.agent_uid)
        reached = by_status[SentStatus.SENT] + by_status[SentStatus.ANSWERED] + by_status[SentStatus.TIMEOUT]
        return Broadcast(
            message_id=identity,
            sent_to=reached,
            queued=by_status[SentStatus.QUEUED],
            failed=by_status[SentStatus.FAILED],
            total_sent=len(reached),
            messages=sent,
        )

    made: Broadcast = await place.repeats.once(idempotency_key, ("broadcast", asked, uids), make)
    return made


@get("/messages/{message_id:str}", operation_id="getMessage", summary="What became of an order.")
async def get_message(
    place: ThePlace, message_id: Annotated[str, PathParameter(max_length=128)]
) -> MessageView:
    found = await place.hub.message(message_id)
    if found is None:
        raise Refusal(404, "message_unknown", "there is no message of that id (any more)")
    return found


ROUTES = (send, send_many, broadcast, get_message)
