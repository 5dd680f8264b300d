"""Flows: packets sharing a five-tuple, both directions counted, with owner and verdict; and their JSON (`aegis.flow`)."""

from __future__ import annotations

import enum

import msgspec
from msgspec import UNSET, UnsetType

from aegis.model.process import Owner

__all__ = ["NO_POLICY", "VERSION", "Flow", "FlowState", "Owner", "Verdict", "encode"]

VERSION = 1
NO_POLICY = "no rule decided"

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
