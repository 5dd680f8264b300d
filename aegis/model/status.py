"""The agent as `aegis status -o json` shows it (`aegis.status`): one attribute a key, absent ones None with a reason."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

VERSION = 1

Reason = str | UnsetType


class AgentPart(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    uid: str | None
    uid_reason: Reason = UNSET
    version: str
    pid: int
    uptime_s: float


class GatewayPart(msgspec.Struct, frozen=True, kw_only=True):
    url: str | None
    url_reason: Reason = UNSET
    state: str
    reason: str | None
    reason_reason: Reason = UNSET
    protocol: str | None
    protocol_reason: Reason = UNSET
    authenticated_since: str | None
    authenticated_since_reason: Reason = UNSET
    insecure_v1: bool | None
    insecure_v1_reason: Reason = UNSET


class ModulePart(msgspec.Struct, frozen=True, kw_only=True):
    """Also one item of `modules list`, which adds the keys every object has."""

    name: str
    state: str
    reason: str | None
    reason_reason: Reason = UNSET
    since: str
    restarts: int
    cpu_percent: float | None
    cpu_percent_reason: Reason = UNSET
    memory_bytes: int | None
    memory_bytes_reason: Reason = UNSET


class UnattachedPart(msgspec.Struct, frozen=True, kw_only=True):
    """An interface that is there and is to be watched, and whose packets no policy judges."""

    interface: str
    reason: str


class EnforcementPart(msgspec.Struct, frozen=True, kw_only=True):
    state: str
    reason: str | None
    reason_reason: Reason = UNSET
    generation: int | None
    generation_reason: Reason = UNSET
    mode: str | None
    mode_reason: Reason = UNSET
    interfaces: list[str]
    unattached: list[UnattachedPart]
    hooks: list[str]
    confirm_deadline: str | None
    confirm_deadline_reason: Reason = UNSET


class ResourcesPart(msgspec.Struct, frozen=True, kw_only=True):
    """`cpu_percent` is of one core, over `cpu_window_s` up to now."""

    rss_bytes: int | None
    rss_bytes_reason: Reason = UNSET
    pss_bytes: int | None
    pss_bytes_reason: Reason = UNSET
    map_bytes: int | None
    map_bytes_reason: Reason = UNSET
    cpu_percent: float | None
    cpu_percent_reason: Reason = UNSET
    cpu_window_s: float | None
    cpu_window_s_reason: Reason = UNSET


class ConditionPart(msgspec.Struct, frozen=True, kw_only=True):
    code: str
    source: str
    since: str
    text: str
    hint: str


class Status(msgspec.Struct, frozen=True, kw_only=True, tag="aegis.status", tag_field="schema"):
    """The whole of it. `losses` is {stage: {reason: records}}, without zeros."""

    version: int = VERSION
    time: str
    time_ns: int
    agent: AgentPart
    gateway: GatewayPart
    modules: list[ModulePart]
    enforcement: EnforcementPart
    resources: ResourcesPart
    conditions: list[ConditionPart]
    losses: dict[str, dict[str, int]]
