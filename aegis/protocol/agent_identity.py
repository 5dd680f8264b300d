"""Who an agent is, and what it tells of its host."""

from __future__ import annotations

from typing import Any

import msgspec

from aegis.protocol import v1


class AgentIdentity(msgspec.Struct, frozen=True):
    """Who the agent is. `uid` is the one a gateway gave, None before the first registration.

    Raises ValueError for an agent id that v1 cannot carry.
    """

    seed: bytes
    agent_id: str
    uid: str | None = None

    def __post_init__(self) -> None:
        if not v1.ID.fullmatch(self.agent_id):
            raise ValueError(f"agent id {self.agent_id[:80]!r} is not 1 to 64 of A-Z a-z 0-9 _ -")

    def __repr__(self) -> str:
        return f"AgentIdentity(agent_id={self.agent_id!r}, uid={self.uid!r})"


class Registration(msgspec.Struct, frozen=True, kw_only=True):
    """What the agent tells of its host when it registers."""

    host_id: str
    org_id: str = v1.DEFAULT_ORG
    version: str = v1.DEFAULT_VERSION
    machine_id_hash: str = ""
    capabilities: dict[str, Any] = {}
    platform: dict[str, Any] = {}
    network: dict[str, Any] = {}
