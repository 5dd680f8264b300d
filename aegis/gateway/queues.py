"""What waits for agents that are away, or that do not read as fast as they are told: a queue each, in order, for a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from aegis.gateway.agents import Agent, AgentTable
from aegis.gateway.message import Message

_NEVER: Final = 1 << 63


class Queues:
    """By uid. `over` is called with a message whose time is over before it could be sent."""

    def __init__(self, agents: AgentTable, over: Callable[[Message], None]) -> None:
        self._agents = agents
        self._over = over
        self._by_uid: dict[str, deque[Message]] = {}
        self._earliest_ns = _NEVER  # that one of them expires
        self.count = 0

    def __contains__(self, uid: str) -> bool:
        return uid in self._by_uid

    def append(self, agent: Agent, message: Message) -> None:
        queue = self._by_uid.setdefault(agent.row.uid, deque())
        queue.append(message)
        self._came(agent, queue, (message,))

    def put_back(self, agent: Agent, messages: list[Message]) -> None:
        """In front of the others, in their order."""
        queue = self._by_uid.setdefault(agent.row.uid, deque())
        queue.extendleft(reversed(messages))
        self._came(agent, queue, messages)

    def _came(self, agent: Agent, queue: deque[Message], messages: Iterable[Message]) -> None:
        for each in messages:
            self.count += 1
            self._earliest_ns = min(self._earliest_ns, each.row.expires_ns)
        agent.queued = len(queue)

    def give(self, agent: Agent, now_ns: int, write: Callable[[Message], bool]) -> None:
        """Hand out what waits, in order, until `write` says that it takes no more.

        What was answered meanwhile, over an earlier connection, was carried out: it is not said again.
        """
        queue = self._by_uid.get(agent.row.uid, deque())
        while queue:
            each = queue.popleft()
            self.count -= 1
            if each.is_answered or self._is_over(each, now_ns):
                continue
            if not write(each):
                queue.appendleft(each)
                self.count += 1
                break
        if not queue:
            self._by_uid.pop(agent.row.uid, None)
        agent.queued = len(queue)

    def expire(self, now_ns: int) -> None:
        """Give up what waited longer than it may."""
        if self._earliest_ns > now_ns:
            return
        for uid, queue in list(self._by_uid.items()):
            if all(each.row.expires_ns > now_ns for each in queue):
                continue
            left = deque(each for each in queue if each.is_answered or not self._is_over(each, now_ns))
            self.count -= len(queue) - len(left)
            if left:
                self._by_uid[uid] = left
            else:
                del self._by_uid[uid]
            agent = self._agents.get(uid)
            if agent is not None:
                agent.queued = len(left)
        waiting = (each for queue in self._by_uid.values() for each in queue if not each.is_answered)
        self._earliest_ns = min((each.row.expires_ns for each in waiting), default=_NEVER)

    def _is_over(self, message: Message, now_ns: int) -> bool:
        if message.row.expires_ns > now_ns:
            return False
        self._over(message)
        return True
