"""Bodies of requests and answers, by their JSON keys. What the hub hands out (`gateway.views`) is answered as it is."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from aegis.gateway.views import AgentView, Sent

Uid = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$", description="agent uid")]
Label = Annotated[str, Meta(min_length=1, max_length=128)]
Text = Annotated[str, Meta(max_length=256)]
Message = Annotated[dict[str, Any], Meta(description="the inner JSON object of the order")]
Channel = Annotated[
    str, Meta(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9._-]+$", description="e.g. backend.modules")
]
Ttl = Annotated[
    int, Meta(ge=1, le=7 * 86400, description="seconds an order is kept for an agent that is away")
]

MOST_ORDERS = 5000
MOST_HEARTBEATS = 500


class Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A body with these members and no others."""


# Agents


class AgentsPage(msgspec.Struct, frozen=True, kw_only=True):
    """`total` counts all that fulfil the conditions, not only this page."""

    agents: list[AgentView]
    total: int


class LabelsChange(Strict, frozen=True, kw_only=True):
    add: Annotated[list[Label], Meta(max_length=64)] = []
    remove: Annotated[list[Label], Meta(max_length=64)] = []


class Labels(msgspec.Struct, frozen=True, kw_only=True):
    agent_uid: str
    labels: list[str]


class NoteChange(Strict, frozen=True, kw_only=True):
    note: Annotated[str, Meta(max_length=4096)]


class Note(msgspec.Struct, frozen=True, kw_only=True):
    agent_uid: str
    note: str


class AgentStatus(msgspec.Struct, frozen=True, kw_only=True):
    """`connected`: it has an authenticated socket now. `uptime` counts seconds since it was registered."""

    agent_id: str
    agent_uid: str
    connected: bool
    last_seen: str
    channels: list[str]
    session_expires: str | None
    session_expires_reason: str | msgspec.UnsetType = msgspec.UNSET
    websocket_url: str | None
    websocket_url_reason: str | msgspec.UnsetType = msgspec.UNSET
    uptime: float


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True):
    """Members that deployed clients send beside these are taken and not looked at: the agent itself tells them."""

    agent_uid: str = ""
    last_seen: str = ""


class Heartbeats(msgspec.Struct, frozen=True, kw_only=True):
    heartbeats: Annotated[list[Heartbeat], Meta(min_length=1, max_length=MOST_HEARTBEATS)]


class HeartbeatTaken(msgspec.Struct, frozen=True, kw_only=True):
    status: str
    agent_uid: str
    last_seen: str
    host_id: str
    hostname: str


class HeartbeatsTaken(msgspec.Struct, frozen=True, kw_only=True):
    status: str
    updated: int
    registered: int
    failed: int
    accepted: int


# Orders


class OrderBody(Strict, frozen=True, kw_only=True):
    """`priority` is taken and not used: orders to one agent leave in the order of their coming."""

    channel: Channel
    message: Message
    message_type: Annotated[str, Meta(pattern=r"^[a-z_]{1,32}$")] = "event"
    priority: int | str | None = None
    ttl: Ttl | None = None


class BroadcastBody(OrderBody, frozen=True, kw_only=True):
    """`agent_filter` names the uids; absent or null: every agent."""

    agent_filter: Annotated[list[Uid], Meta(max_length=MOST_ORDERS)] | None = None


class AddressedOrder(OrderBody, frozen=True, kw_only=True):
    agent_uid: Uid


class OrdersBody(Strict, frozen=True, kw_only=True):
    orders: Annotated[list[AddressedOrder], Meta(min_length=1, max_length=MOST_ORDERS)]


class OrdersSent(msgspec.Struct, frozen=True, kw_only=True):
    messages: list[Sent]


class Broadcast(msgspec.Struct, frozen=True, kw_only=True):
    """`message_id` names this request, and is the `command_id` of the order where that has none; each of `messages` has
    an id of its own. `sent_to` are those reached now."""

    message_id: str
    sent_to: list[str]
    queued: list[str]
    failed: list[str]
    total_sent: int
    messages: list[Sent]


class ConfigBody(Strict, frozen=True, kw_only=True):
    """`settings`: a module's name to its options. The other members are the document's; no option of ours is behind them."""

    settings: Annotated[dict[Text, dict[Text, Any]], Meta(max_length=32)] = {}
    channels: Any = msgspec.UNSET
    policies: Any = msgspec.UNSET
    heartbeat_interval: Any = msgspec.UNSET
    reconnect_interval: Any = msgspec.UNSET
    message_queue_size: Any = msgspec.UNSET


class ConfigSent(msgspec.Struct, frozen=True, kw_only=True):
    """`status`: configuration_updated when the agent said so of every module; otherwise refused, queued, timeout, failed."""

    agent_uid: str
    config: dict[str, Any]
    status: str
    message: str
    messages: list[Sent]


# Records


class RecordsPage(msgspec.Struct, frozen=True, kw_only=True):
    """`items` are the objects of the tool's JSON, with `agent_uid`. `next` goes into `cursor` or, following, `after`."""

    items: list[dict[str, Any]]
    next: str | None


# Health


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """`state` is ready or unhealthy; `checks` names each part."""

    service: str
    state: str
    checks: dict[str, str]
    heartbeat_total: int
    uptime_hint: str
    connections: int
