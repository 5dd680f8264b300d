"""Flows: packets sharing a five-tuple, both directions counted, with owner and verdict; and their JSON (`aegis.flow`)."""

from __future__ import annotations

import enum
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from aegis.model.absent import Absent
from aegis.model.process import Owner, OwnerLabel, readable

__all__ = [
    "FORGOTTEN",
    "NO_FLAGS",
    "NO_NAME",
    "NO_POLICY",
    "NO_UNIT",
    "RULE_FORGOTTEN",
    "TCP_FLAGS",
    "VERSION",
    "Flow",
    "FlowState",
    "Owner",
    "Verdict",
    "encode",
    "flags_text",
    "owner_keys",
]

VERSION = 1
NO_POLICY = "no rule decided"
NO_FLAGS = "only TCP has flags"
NO_NAME = "no sensor of names is built yet"
NO_UNIT = "no part of the cgroup's path is a systemd unit"
FORGOTTEN = "its process has ended and is not kept any more"
RULE_FORGOTTEN = "the rule is of a policy set that is not kept any more"
TCP_FLAGS = "FSRPAUEC"  # FIN SYN RST PSH ACK URG ECE CWR, from the lowest bit; RFC 9293 section 3.1

Reason = str | UnsetType


class FlowState(enum.StrEnum):
    NEW = "new"  # packets one way only
    ESTABLISHED = "established"  # both ways
    CLOSING = "closing"  # a FIN was seen
    CLOSED = "closed"


class Verdict(enum.StrEnum):
    ALLOW = "allow"
    AUDIT = "audit"  # deny decided, the policy only observes
    DENY = "deny"


class Flow(msgspec.Struct, frozen=True, kw_only=True, tag="aegis.flow", tag_field="schema"):
    """One flow as `aegis flows -o json` prints it: one attribute a key.

    `src` is the initiator and `direction` the initiator's; `sent` and `received` are as seen from this host.
    `first_ns`, `last_ns` and `time_ns` count from 1970; `last_ns` has the resolution of the harvest. What is absent is
    None, with the reason in the attribute beside it. A fragment flow carries no ports (0).
    """

    version: int = VERSION
    time: str
    time_ns: int
    protocol: str
    src: str
    src_port: int
    dst: str
    dst_port: int
    direction: str
    interface: str | None
    interface_reason: Reason = UNSET
    packets_sent: int
    bytes_sent: int
    packets_received: int
    bytes_received: int
    packets_dropped: int
    tcp_flags: str | None
    tcp_flags_reason: Reason = UNSET
    first_ns: int
    last_ns: int
    state: str
    fragment: bool
    verdict: str
    policy: str | None
    policy_reason: Reason = UNSET
    rule: str | None
    rule_reason: Reason = UNSET
    generation: int
    owner: str
    pid: int | None
    pid_reason: Reason = UNSET
    start_ns: int | None
    start_ns_reason: Reason = UNSET
    comm: str | None
    comm_reason: Reason = UNSET
    exe: str | None
    exe_reason: Reason = UNSET
    unit: str | None
    unit_reason: Reason = UNSET
    cgroup: str | None
    cgroup_reason: Reason = UNSET
    uid: int | None
    uid_reason: Reason = UNSET
    name: str | None
    name_reason: Reason = UNSET


_encoder = msgspec.json.Encoder()


def encode(flow: Flow) -> bytes:
    """The flow as one JSON object, without a newline."""
    return _encoder.encode(flow)


def flags_text(flags: int) -> str:
    """Flags seen in either direction, a letter each: `FSPA`."""
    return "".join(letter for bit, letter in enumerate(TCP_FLAGS) if flags >> bit & 1)


def owner_keys(owner: Owner | Absent) -> dict[str, Any]:
    """The attributes of a flow that its owner gives; of one that is absent, with that reason."""
    if isinstance(owner, Absent):
        return _nobody(OwnerLabel.UNKNOWN, owner.reason)
    if isinstance(owner, OwnerLabel):
        return _nobody(owner, owner.reason)
    keys: dict[str, Any] = {
        "owner": "process",
        "pid": owner.pid,
        "start_ns": owner.start_ns,
        "uid": owner.uid,
    }
    unit = owner.cgroup if isinstance(owner.cgroup, Absent) else owner.cgroup.unit or Absent(NO_UNIT)
    path = owner.cgroup if isinstance(owner.cgroup, Absent) else owner.cgroup.path
    for name, value in (("comm", owner.comm), ("exe", owner.exe), ("unit", unit), ("cgroup", path)):
        keys[name] = (
            None if isinstance(value, Absent) else readable(value) if isinstance(value, bytes) else value
        )
        keys[f"{name}_reason"] = value.reason if isinstance(value, Absent) else UNSET
    return keys


_OWNER_KEYS = ("pid", "start_ns", "comm", "exe", "unit", "cgroup", "uid")


def _nobody(label: OwnerLabel, reason: str) -> dict[str, Any]:
    return {
        "owner": label.value,
        **dict.fromkeys(_OWNER_KEYS),
        **{f"{key}_reason": reason for key in _OWNER_KEYS},
    }
