"""Answers to orders that only the store knows any more: looked up there, few at a time for each agent.

Any agent may answer anything, so what one may make the gateway do is bounded: it is not read from while it waits.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from aegis.errors import AegisError
from aegis.gateway.agents import AgentTable
from aegis.gateway.metrics import Metrics
from aegis.gateway.store.base import MessageRow, Store

_MOST_AT_ONCE: Final = 8  # of one agent, before it is not read from any more
_MOST_BEHIND: Final = 512  # that were read before that; what is over is dropped
_MOST_BEHIND_IN_ALL: Final = 4096
_TRIES: Final = 20  # while the store fails
_AGAIN_S: Final = 1.0
_ID: Final = re.compile(r"msg_[0-9a-f]{24}")


class Lookups:
    """`keep` is called with the message's id and the answer, once it is known to be this agent's to answer."""

    def __init__(
        self, store: Store, agents: AgentTable, metrics: Metrics, keep: Callable[[str, bytes], None]
    ) -> None:
        self._store = store
        self._agents = agents
        self._metrics = metrics
        self._keep = keep
        self._running: Counter[str] = Counter()  # by uid
        self._held: dict[str, Any] = {}  # uid to the session that is not read from
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, uid: str, in_reply_to: str, content: bytes) -> None:
        if _ID.fullmatch(in_reply_to) is None:
            self._metrics.count("answer_to_nothing")
            return
        if self._running[uid] >= _MOST_BEHIND or len(self._tasks) >= _MOST_BEHIND_IN_ALL:
            self._metrics.count("answer_dropped")
            return
        self._running[uid] += 1
        agent = self._agents.get(uid)
        session = None if agent is None else agent.session
        if session is not None and self._running[uid] >= _MOST_AT_ONCE and uid not in self._held:
            self._held[uid] = session
            session.connection.hold_answers(on=True)
        task = asyncio.get_running_loop().create_task(self._find(uid, in_reply_to, content))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _find(self, uid: str, identity: str, content: bytes) -> None:
        try:
            row = await self._row(identity)
        finally:
            self._running[uid] -= 1
            if self._running[uid] < _MOST_AT_ONCE and uid in self._held:
                self._held.pop(uid).connection.hold_answers(on=False)
            if not self._running[uid]:
                del self._running[uid]
        if row is not None and row.uid == uid and row.status in {"queued", "sent"}:
            self._keep(identity, content)
        else:
            self._metrics.count("answer_to_nothing")

    async def _row(self, identity: str) -> MessageRow | None:
        for _ in range(_TRIES):
            try:
                return await self._store.message(identity)
            except AegisError:
                await asyncio.sleep(_AGAIN_S)
        return None
