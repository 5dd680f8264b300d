"""What the hub hands out: values of an instant, made to be encoded by msgspec as they are."""

from __future__ import annotations

import enum
from typing import Any

import msgspec


class Presence(enum.StrEnum):
    """By the last time anything was heard."""

    ONLINE = "online"  # under 3 minutes ago
    STALE = "stale"  # under 15 minutes ago
    OFFLINE = "offline"


class AgentView(msgspec.Struct, frozen=True, kw_only=True):
    """An agent now. Instants are RFC 3339 UTC (`created`, `last_seen`) and nanoseconds since 1970.

    `connected` says that it has an authenticated socket at this moment. `ours` says that it sends batches and answers
    orders. `remote_address` is None while it has no socket. `modules` and `conditions` are what it told last, none from
    an agent that tells nothing, each as `aegis status` has it on the host.
    """

    agent_uid: str
    agent_id: str
    org_id: str
    host_id: str
    hostname: str
    machine_id_hash: str
    agent_version: str
    capabilities: Any = msgspec.UNSET  # left out of lists
    platform: Any
    network: Any
    labels: list[str]
    note: str
    created: str
    created_ns: int
    last_seen: str
    last_seen_ns: int
    status: Presence
    connected: bool
    ours: bool
    protocol: int
    remote_address: str | None
    session_expires: str | None
    queued: int
    modules: list[Any]
    conditions: list[Any]


class SentStatus(enum.StrEnum):
    SENT = "sent"  # every byte was handed to the kernel
    QUEUED = "queued"  # the agent is away; kept until it is back or the ttl is over
    FAILED = "failed"  # `error` says why; nothing will be sent
    ANSWERED = "answered"  # `answer` is stored
    TIMEOUT = "timeout"  # sent, and no answer within the wait; an answer may still come: GET /messages/{id}


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one order within the wait. `answer` is the agent's JSON object (`ok`, `code`, `text`, `state`)."""

    message_id: str
    agent_uid: str
    status: SentStatus
    error: str | None = None
    answer: Any = None


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """One order to send: `message` is the inner JSON object."""

    uid: str
    channel: str
    message: dict[str, Any]
    type: str = "event"
    ttl_s: int | None = None


class MessageView(msgspec.Struct, frozen=True, kw_only=True):
    """A message as it is kept. `status` as in `store.base.MessageRow`: queued sent answered expired failed."""

    message_id: str
    agent_uid: str
    channel: str
    type: str
    status: str
    error: str | None
    created: str
    expires: str
    sent: str | None
    answered: str | None
    answer: Any


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """`ready` is what `/readyz` answers by; `checks` names each part."""

    ready: bool
    checks: dict[str, str]
    heartbeat_total: int
    connections: int
    started_ns: int
    uptime_s: float
