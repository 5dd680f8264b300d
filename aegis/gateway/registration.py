"""One agent, one record: a key that proved itself gets its row, however often and in how many places at once it asks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec

from aegis.errors import RegistrationRefused
from aegis.gateway.agents import Agent, AgentTable
from aegis.gateway.store.base import AgentRow, Store
from aegis.protocol import v1
from aegis.protocol.crypto import is_uid_of_another, uid_of
from aegis.protocol.payloads import RegistrationInit
from aegis.runtime.clock import SystemClock

STRIDE_S: Final = 0.02


class Enrolment:
    """Changes rows of agents: in the store first, then in memory; one change of an agent at a time.

    `crowd` is how many others are about to register.
    """

    def __init__(
        self,
        store: Store,
        agents: AgentTable,
        clock: SystemClock,
        most: int = 100_000,
        crowd: Callable[[], int] = lambda: 0,
    ) -> None:
        self._store = store
        self._agents = agents
        self._clock = clock
        self._most = most
        self._locks: dict[str, _Turn] = {}
        self._stride = _Stride(STRIDE_S, crowd)

    async def enrol(self, key: bytes, host_id: str, init: RegistrationInit, agent_id: str) -> Agent:
        """The agent of a proven key, its row committed. Raises StorageError, RegistrationRefused: there are too many."""
        uid = uid_of(key)
        if len(self._agents) >= self._most and self._agents.get(uid) is None:
            raise RegistrationRefused("this gateway has as many agents as it may", status=503)
        if is_uid_of_another(agent_id, key):
            agent_id = ""

        def change(old: AgentRow | None) -> AgentRow:
            now_ns = self._clock.wall_ns()
            return AgentRow(
                uid=uid,
                key=key,
                agent_id=agent_id or (old.agent_id if old else host_id),
                host_id=host_id,
                org_id=init.org_id or v1.DEFAULT_ORG,
                version=init.agent_version or v1.DEFAULT_VERSION,
                machine_id_hash=init.machine_id_hash,
                capabilities=_text(init.capabilities),
                platform=_text(init.platform),
                network=_text(init.network),
                labels=old.labels if old else (),
                note=old.note if old else "",
                created_ns=old.created_ns if old else now_ns,
                last_seen_ns=old.last_seen_ns if old else now_ns,
                floor=old.floor if old else 1,
            )

        return await self._change(uid, change)

    async def label(self, uid: str, add: tuple[str, ...], remove: tuple[str, ...]) -> Agent:
        """Raises AgentUnknown, StorageError."""
        self._agents.of_uid(uid)

        def change(old: AgentRow | None) -> AgentRow:
            assert old is not None
            labels = (set(old.labels) | set(add)) - set(remove)
            return msgspec.structs.replace(old, labels=tuple(sorted(labels)))

        return await self._change(uid, change)

    async def note(self, uid: str, note: str) -> Agent:
        """Raises AgentUnknown, StorageError."""
        self._agents.of_uid(uid)

        def change(old: AgentRow | None) -> AgentRow:
            assert old is not None
            return msgspec.structs.replace(old, note=note)

        return await self._change(uid, change)

    async def _change(self, uid: str, change: Callable[[AgentRow | None], AgentRow]) -> Agent:
        turn = self._locks.setdefault(uid, _Turn())
        turn.waiting += 1
        try:
            async with turn.lock:
                old = self._agents.get(uid)
                row = change(None if old is None else old.row)
                if old is not None and row == old.row:
                    return old
                await self._stride.turn()
                await self._store.save_agent(row)
                return self._agents.put(row)
        finally:
            turn.waiting -= 1
            if not turn.waiting:
                del self._locks[uid]


class _Stride:
    """One that comes alone goes at once; of a crowd, all that came within `gap_s` go in one turn of the loop.

    So they share a commit, which costs the processor as much as three handshakes do.
    """

    def __init__(self, gap_s: float, crowd: Callable[[], int]) -> None:
        self._gap_s = gap_s
        self._crowd = crowd
        self._next_s = 0.0  # of the loop's clock
        self._waiting: list[asyncio.Future[None]] = []

    async def turn(self) -> None:
        loop = asyncio.get_running_loop()
        if not self._waiting:
            now_s = loop.time()
            if now_s >= self._next_s or not self._crowd():
                self._next_s = now_s + self._gap_s
                return
            loop.call_at(self._next_s, self._go, loop)
        mine = loop.create_future()
        self._waiting.append(mine)
        await mine

    def _go(self, loop: asyncio.AbstractEventLoop) -> None:
        self._next_s = loop.time() + self._gap_s
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if not each.done():
                each.set_result(None)


class _Turn:
    __slots__ = ("lock", "waiting")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.waiting = 0


def _text(value: object) -> str:
    return msgspec.json.encode({} if value is None else value).decode()
