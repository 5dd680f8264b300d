"""What `AgentSession` tells its driver. Frozen values; match on the class."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from aegis.model.block import BlockClass

# What a frame is refused for.
REFUSALS: Final = (
    "binary_frame", "early_push", "envelope_invalid", "other_agent", "seal_invalid", "unexpected", "unknown_channel",
)  # fmt: skip


class Authenticated(msgspec.Struct, frozen=True, kw_only=True):
    """The gateway said success. `ours`: it said that it is one of ours; `batches`: it takes batches.

    `expires_in_s`: how long the session holds, by the gateway's own clock; None where it did not say.
    """

    gateway_key: bytes
    ours: bool
    batches: bool
    expires_in_s: int | None


class GatewayUnproven(msgspec.Struct, frozen=True, kw_only=True):
    """A warning: the gateway did not prove its key (`unsigned`, `bad_signature`), or it is another (`key_changed`)."""

    reason: str
    gateway_key: bytes


class Registered(msgspec.Struct, frozen=True, kw_only=True):
    """The session is up. `fresh`: by a registration on this connection, so `uid` is to be made durable now.

    Heartbeats begin, `batch`, `answer` and `state` may be called.
    """

    uid: str
    fresh: bool


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """A message that opened. `channel` is its last part (`modules`, `policies`, ...); read by `orders.parse`.

    `command_id` is the body's, else the envelope's id: what the answer names.
    """

    command_id: str
    channel: str
    body: dict[str, Any]


class Acknowledged(msgspec.Struct, frozen=True, kw_only=True):
    """Everything of the class in the stream before `next_` is durable at the gateway."""

    stream: int
    cls: BlockClass
    next_: int


class PeerError(msgspec.Struct, frozen=True, kw_only=True):
    """The gateway sent an error frame; `text` is one printable line."""

    text: str


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """A frame that was not taken, to be counted by `code`, one of `REFUSALS`; the session goes on."""

    code: str
    text: str


class ReconnectWanted(msgspec.Struct, frozen=True, kw_only=True):
    """The session is past what the gateway granted, or the gateway no longer knows it: close and connect again."""

    reason: str


class Closed(msgspec.Struct, frozen=True, kw_only=True):
    """The session is over and takes nothing more; close the connection.

    `code`: `refused` (the gateway said no), `deadline`, `protocol` (it answered nonsense). `gateway_time_s`: unix
    seconds of the refusal's envelope, which tells of a wrong clock here.
    """

    code: str
    reason: str
    gateway_time_s: int | None = None


AgentHappening = (
    Authenticated
    | GatewayUnproven
    | Registered
    | Order
    | Acknowledged
    | PeerError
    | Refused
    | ReconnectWanted
    | Closed
)
