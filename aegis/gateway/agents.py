"""Every agent in memory, by uid and by key: what is asked often, and changes with each heartbeat.

The store has the truth: an agent is added here once its row is committed. `last_seen` is written down now and then.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from aegis.errors import AgentUnknown
from aegis.gateway.standing import Standing, Standings
from aegis.gateway.store.base import AgentRow
from aegis.gateway.views import AgentView, Presence
from aegis.model.stamp import rfc3339
from aegis.protocol.payloads import RegistrationInit

ONLINE_NS: Final = 3 * 60 * 1_000_000_000
STALE_NS: Final = 15 * 60 * 1_000_000_000


class Agent:
    """One agent. `session` is the newest authenticated one, an object of `sessions`; None while it is away."""

    __slots__ = ("last_seen_ns", "ours", "queued", "row", "session", "standing", "unsaved")

    def __init__(self, row: AgentRow) -> None:
        self.row = row
        self.ours = _is_ours(row)
        self.last_seen_ns = row.last_seen_ns
        self.session: Any = None
        self.unsaved = False  # last_seen is newer than what the store has
        self.queued = 0
        self.standing = Standing()


class AgentTable:
    """uid and key to agent."""

    def __init__(self) -> None:
        self._by_uid: dict[str, Agent] = {}
        self._by_key: dict[bytes, Agent] = {}
        self._unsaved: list[Agent] = []
        self.standings = Standings()

    def __len__(self) -> int:
        return len(self._by_uid)

    def __iter__(self) -> Iterator[Agent]:
        return iter(self._by_uid.values())

    def load(self, rows: Iterable[AgentRow]) -> None:
        for row in rows:
            self.put(row)

    def put(self, row: AgentRow) -> Agent:
        """The agent of a row that is committed; an agent that is there keeps what it has in memory."""
        agent = self._by_uid.get(row.uid)
        if agent is None:
            agent = Agent(row)
            self._by_uid[row.uid] = agent
            self._by_key[row.key] = agent
        else:
            agent.row = row
            agent.ours = _is_ours(row)
        return agent

    def of_key(self, key: bytes) -> Agent | None:
        return self._by_key.get(key)

    def get(self, uid: str) -> Agent | None:
        return self._by_uid.get(uid)

    def of_uid(self, uid: str) -> Agent:
        """Raises AgentUnknown."""
        agent = self._by_uid.get(uid)
        if agent is None:
            raise AgentUnknown(f"no agent {uid[:64]!r}", hint="aegis gateway agents lists them")
        return agent

    def seen(self, agent: Agent, now_ns: int) -> None:
        """Something was heard of it."""
        agent.last_seen_ns = now_ns
        if not agent.unsaved:
            agent.unsaved = True
            self._unsaved.append(agent)

    def take_unsaved(self) -> list[tuple[str, int]]:
        """(uid, last_seen_ns) that the store does not have."""
        taken, self._unsaved = self._unsaved, []
        for agent in taken:
            agent.unsaved = False
        return [(agent.row.uid, agent.last_seen_ns) for agent in taken]

    def select(
        self, *, label: str | None, hostname: str | None, host_id: str | None, address: str | None
    ) -> list[Agent]:
        """Those that fulfil every condition given, newest first."""
        wanted = _normal(address) if address is not None else None
        return [
            agent
            for agent in reversed(self._by_uid.values())
            if (label is None or label in agent.row.labels)
            and (hostname is None or hostname == hostname_of(agent.row))
            and (host_id is None or host_id == agent.row.host_id)
            and (wanted is None or (agent.session is not None and agent.session.address == wanted))
        ]


def view(agent: Agent, now_ns: int) -> AgentView:
    """The agent as it is now."""
    row, session = agent.row, agent.session
    age = now_ns - agent.last_seen_ns
    status = Presence.ONLINE if age < ONLINE_NS else Presence.STALE if age < STALE_NS else Presence.OFFLINE
    return AgentView(
        agent_uid=row.uid,
        agent_id=row.agent_id,
        org_id=row.org_id,
        host_id=row.host_id,
        hostname=hostname_of(row),
        machine_id_hash=row.machine_id_hash,
        agent_version=row.version,
        capabilities=msgspec.Raw(row.capabilities.encode()),
        platform=msgspec.Raw(row.platform.encode()),
        network=msgspec.Raw(row.network.encode()),
        labels=sorted(row.labels),
        note=row.note,
        created=rfc3339(row.created_ns),
        created_ns=row.created_ns,
        last_seen=rfc3339(agent.last_seen_ns),
        last_seen_ns=agent.last_seen_ns,
        status=status,
        connected=session is not None,
        ours=session is not None and session.ours,
        protocol=1,
        remote_address=None if session is None else session.address,
        session_expires=None if session is None else rfc3339(session.expires_s * 1_000_000_000),
        queued=agent.queued,
        modules=agent.standing.of("module"),
        conditions=agent.standing.of("condition"),
    )


def hostname_of(row: AgentRow) -> str:
    """What the agent said its host is called, else the id of the host."""
    try:
        platform = msgspec.json.decode(row.platform)
    except msgspec.MsgspecError:
        platform = None
    said = platform.get("hostname") if isinstance(platform, dict) else None
    return said if isinstance(said, str) and said else row.host_id


def _is_ours(row: AgentRow) -> bool:
    """Whether the agent said so when it registered."""
    try:
        return RegistrationInit(capabilities=msgspec.json.decode(row.capabilities)).is_ours
    except msgspec.MsgspecError:
        return False


def _normal(address: str) -> str:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return str(mapped or found)
