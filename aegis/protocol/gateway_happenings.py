"""What `GatewaySession` tells its driver. Frozen values; match on the class."""

from __future__ import annotations

from typing import Any

import msgspec

from aegis.model.block import BlockClass, Loss
from aegis.protocol.payloads import RegistrationInit


class Authenticated(msgspec.Struct, frozen=True, kw_only=True):
    """The peer holds `key`. Call `accept` or `turn_away` before the next `receive`: the answer waits for it.

    `used` is what the replay cache remembers of it.
    """

    key: bytes
    agent_id: str
    used: bytes


class RegistrationBegun(msgspec.Struct, frozen=True, kw_only=True):
    """A registration was offered; nothing to do."""

    init: RegistrationInit


class RegistrationProven(msgspec.Struct, frozen=True, kw_only=True):
    """The registration is complete and signed. Make it durable, then call `registered` or `registration_failed`.

    `host_id` is the one that was signed; `ours`: the agent says that it is one of ours.
    """

    key: bytes
    uid: str
    host_id: str
    init: RegistrationInit
    ours: bool


class Heartbeat(msgspec.Struct, frozen=True, gc=False):
    """`uid` is None before registration: then it makes no record (and is not answered, ever)."""

    uid: str | None


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """Items of one class, each the raw JSON of an object. Acknowledge once they are durable.

    `shared` are objects they may name: `protocol.shared_items`.
    """

    cls: BlockClass
    kind: str
    stream: int
    first: int
    boot_id: bytes
    items: list[msgspec.Raw]
    losses: tuple[Loss, ...]
    shared: list[msgspec.Raw] = []


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The agent's word on the push whose id (or `command_id`) is `in_reply_to`."""

    in_reply_to: str
    ok: bool
    code: str
    text: str
    state: Any


class State(msgspec.Struct, frozen=True, kw_only=True):
    """A change of state or a condition that the agent told of by itself."""

    state: dict[str, Any]


class Ignored(msgspec.Struct, frozen=True, kw_only=True):
    """A frame that is allowed and means nothing to us: a known channel, another `kind`."""

    channel: str


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """A frame that was not taken, to be counted by `code`. The peer was told where that is safe."""

    code: str
    text: str


class Closed(msgspec.Struct, frozen=True, kw_only=True):
    """The session is over and takes nothing more; send what is outgoing, then close with `code` and `reason`."""

    code: int
    reason: str


GatewayHappening = (
    Authenticated
    | RegistrationBegun
    | RegistrationProven
    | Heartbeat
    | Batch
    | Answer
    | State
    | Ignored
    | Refused
    | Closed
)
