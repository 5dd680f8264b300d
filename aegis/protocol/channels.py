"""The one table of channels: who says what on which name, and what our two ends make of it.

up     auth, agent.registration, agent.registration.complete, agent.{id}.KIND
down   backend.KIND, backend.{id}.KIND, agent.{id}.KIND, error
"""

from __future__ import annotations

import enum

import msgspec

from aegis.model.block import BlockClass

AUTH = "auth"
REGISTRATION = "agent.registration"
COMPLETION = "agent.registration.complete"
COMPLETION_ALIAS = (
    "registration.complete"  # a request, and only of who is authenticated; answered on the long one
)
ERROR = "error"
HEARTBEAT = "heartbeat"
ACK = "backend.ack"
MODULES = "backend.modules"
POLICIES = "backend.policies"  # the only one on which a deployed agent acts


class Up(enum.StrEnum):
    """Last part of `agent.{id}.KIND` towards the gateway. A deployed one discards all but the heartbeat, silently."""

    HEARTBEAT = "heartbeat"
    POLICIES = "policies"
    ANOMALIES = "anomalies"
    THREATS = "threats"
    PROCESSES = "processes"
    STATUS = "status"
    LOGS = "logs"


class Down(enum.StrEnum):
    """Last part of a channel towards the agent. Orders come on the first two; the others carry none we take."""

    MODULES = "modules"
    POLICIES = "policies"
    ACK = "ack"
    INVESTIGATIONS = "investigations"
    THREATS = "threats"
    PROCESSES = "processes"
    TESTS = "tests"
    ROLLBACKS = "rollbacks"
    HEARTBEAT = "heartbeat"


class Carriage(msgspec.Struct, frozen=True, kw_only=True):
    """How one `kind` travels up: on which channel, and of which class its items are (None: no batch)."""

    kind: str
    channel: Up
    cls: BlockClass | None = None


CARRIAGES: tuple[Carriage, ...] = (
    Carriage(kind="events", channel=Up.PROCESSES, cls=BlockClass.EVENT),
    Carriage(kind="flows", channel=Up.STATUS, cls=BlockClass.FLOW),
    Carriage(kind="findings", channel=Up.THREATS, cls=BlockClass.FINDING),
    Carriage(kind="verdicts", channel=Up.POLICIES, cls=BlockClass.VERDICT),
    Carriage(kind="samples", channel=Up.LOGS, cls=BlockClass.SAMPLE),
    Carriage(kind="state", channel=Up.STATUS),
    Carriage(kind="answer", channel=Up.STATUS),
    Carriage(kind="answer", channel=Up.POLICIES),  # to policy orders
)

BATCHES: dict[BlockClass, Carriage] = {each.cls: each for each in CARRIAGES if each.cls is not None}
_BY_KIND = {(each.channel, each.kind): each for each in CARRIAGES}
_UP = {each.value: each for each in Up}
_DOWN = {each.value: each for each in Down}


def carriage(channel: Up, kind: str) -> Carriage | None:
    """The row of a kind on a channel; None where it does not belong there."""
    return _BY_KIND.get((channel, kind))


def up(identity: str, kind: Up) -> str:
    """The channel of an agent towards the gateway."""
    return f"agent.{identity}.{kind}"


def split_up(channel: str) -> tuple[str, Up] | None:
    """Id and kind of `agent.{id}.KIND`; None for any other channel."""
    parts = channel.split(".")
    if len(parts) != 3 or parts[0] != "agent":
        return None
    kind = _UP.get(parts[2])
    return None if kind is None else (parts[1], kind)


def split_down(channel: str) -> tuple[str | None, Down] | None:
    """Id (None where the name has none) and kind of the three forms of a channel down; None for any other."""
    parts = channel.split(".")
    if parts[0] not in {"backend", "agent"}:
        return None
    if len(parts) == 2 and parts[0] == "backend":
        identity = None
    elif len(parts) == 3:
        identity = parts[1]
    else:
        return None
    kind = _DOWN.get(parts[-1])
    return None if kind is None else (identity, kind)
