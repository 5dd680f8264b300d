"""Orders to agents: kept first, then written to the socket, then answered; kept for agents that are away.

A message is `sent` when the kernel has taken its bytes, `answered` when the agent's answer is stored. What was in a
buffer when its connection ended waits for the next one, so that an agent may see an order twice, and never not at all.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from aegis.errors import AgentUnknown
from aegis.gateway.agents import Agent, AgentTable
from aegis.gateway.limits import Limits
from aegis.gateway.metrics import Metrics
from aegis.gateway.store.base import MessageChange, MessageRow, Store
from aegis.gateway.views import Order, Sent, SentStatus
from aegis.protocol import gateway_happenings
from aegis.protocol.gateway import push_text
from aegis.runtime.clock import SystemClock
from aegis.runtime.log import logger

SECOND: Final = 1_000_000_000
FLUSH_S: Final = 0.5  # how long a caller waits for the kernel to take the bytes
_POLL_S: Final = 0.01
_QUIET_S: Final = 1.0  # no agent takes anything between the frames of its handshake; ours say when it is over
_MOST_REMEMBERED: Final = 200_000  # commands that may still be answered
_encode = msgspec.json.Encoder().encode


class _Message:
    """One order on its way."""

    __slots__ = ("answer", "expires_ns", "row", "sealed", "waiter")

    def __init__(self, row: MessageRow, text: bytes) -> None:
        self.row = row
        self.sealed = text  # what is sealed: the same bytes for every agent of a broadcast
        self.waiter: asyncio.Future[Any] | None = None
        self.answer: Any = None


class Orders:
    """All messages that are not done."""

    def __init__(
        self, store: Store, agents: AgentTable, clock: SystemClock, limits: Limits, metrics: Metrics
    ) -> None:
        self._store = store
        self._agents = agents
        self._clock = clock
        self._limits = limits
        self._metrics = metrics
        self._queues: dict[str, deque[_Message]] = {}
        self._queued = 0
        self._flushing: dict[Any, list[_Message]] = {}  # session to what the kernel has not taken
        self._asked: dict[tuple[str, str], _Message] = {}  # uid and command to what may be answered
        self._changes: list[MessageChange] = []
        self._changed = asyncio.Event()
        self._polling: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._log = logger(part="orders")

    async def load(self) -> None:
        """Orders of an earlier process that no agent got yet."""
        for row in await self._store.waiting():
            agent = self._agents.get(row.uid)
            if agent is not None:
                self._queue(agent, _Message(row, push_text(msgspec.Raw(row.body.encode()))))

    # What the hub calls

    async def send(self, orders: Sequence[Order], wait_s: float) -> list[Sent]:
        """One result an order. Raises StorageError, and then none was sent."""
        now_ns = self._clock.wall_ns()
        results: list[Sent | _Message] = []
        texts: dict[int, tuple[str, bytes]] = {}
        room = self._limits.queued - self._queued
        for order in orders:
            agent = self._agents.get(order.uid)
            refused = _refusal(order, agent, self._limits, room)
            if agent is None or refused is not None:
                results.append(
                    Sent(message_id="", agent_uid=order.uid, status=SentStatus.FAILED, error=refused)
                )
                continue
            message = self._made(order, now_ns, texts)
            results.append(message)
            if len(message.sealed) > self._limits.order_bytes:
                results[-1] = Sent(
                    message_id="",
                    agent_uid=order.uid,
                    status=SentStatus.FAILED,
                    error=f"the message is larger than {self._limits.order_bytes} bytes",
                )
        made = [each for each in results if isinstance(each, _Message)]
        await self._store.add_messages([each.row for each in made])
        loop = asyncio.get_running_loop()
        written = []
        for each in made:
            if wait_s > 0:
                each.waiter = loop.create_future()
            agent = self._agents.of_uid(each.row.uid)
            if self._write(agent, each):
                written.append(each)
            else:
                self._queue(agent, each)
        if written:
            await self._flushed(written)
        if wait_s > 0 and made:
            waiters = [each.waiter for each in made if each.waiter is not None]
            await asyncio.wait(waiters, timeout=wait_s)
        return [each if isinstance(each, Sent) else _result(each, waited=wait_s > 0) for each in results]

    def _made(self, order: Order, now_ns: int, texts: dict[int, tuple[str, bytes]]) -> _Message:
        identity = f"msg_{secrets.token_hex(12)}"
        message = order.message
        command = message.get("command_id")
        if isinstance(command, str) and command:
            # The same object goes to many: it is encoded once.
            known = texts.get(id(message))
            if known is None:
                body = _encode(message).decode()
                known = texts[id(message)] = (body, push_text(msgspec.Raw(body.encode())))
            body, text = known
        else:
            command = identity
            body = _encode({**message, "command_id": command}).decode()
            text = push_text(msgspec.Raw(body.encode()))
        ttl_s = self._limits.order_ttl_s if order.ttl_s is None else order.ttl_s
        row = MessageRow(
            id=identity,
            uid=order.uid,
            command_id=command,
            channel=order.channel,
            type=order.type,
            body=body,
            status="queued",
            created_ns=now_ns,
            expires_ns=now_ns + ttl_s * SECOND,
        )
        return _Message(row, text)

    # What sessions call

    def reachable(self, session: Any) -> None:
        """The agent is there: send it what was kept."""
        loop = asyncio.get_running_loop()
        if session.settled:
            loop.call_soon(self._deliver, session)
        else:
            loop.call_later(_QUIET_S + 0.01, self._deliver, session)

    def lost(self, session: Any) -> None:
        """What was in its buffer waits for the next connection."""
        unsent = self._flushing.pop(session, None)
        if unsent and session.agent is not None:
            queue = self._queues.setdefault(session.agent.row.uid, deque())
            queue.extendleft(reversed(unsent))
            self._queued += len(unsent)
            session.agent.queued = len(queue)
            if session.agent.session is not None and session.agent.session is not session:
                self.reachable(session.agent.session)

    def answered(self, uid: str, answer: gateway_happenings.Answer) -> None:
        """Store an answer, then tell who waits for it."""
        task = asyncio.get_running_loop().create_task(self._take_answer(uid, answer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Upkeep

    async def upkeep(self) -> None:
        """Write down what became of messages, as it happens; until cancelled, and then once more."""
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                await self._save()
                await asyncio.sleep(0.05)
        finally:
            await self._save()

    def expire(self) -> None:
        """Give up what waited longer than it may."""
        now_ns = self._clock.wall_ns()
        for uid, queue in list(self._queues.items()):
            if any(each.row.expires_ns <= now_ns for each in queue):
                self._take_queue(uid, [each for each in queue if not self._is_over(each, now_ns)])
        for key in [key for key, each in self._asked.items() if each.row.expires_ns <= now_ns]:
            del self._asked[key]

    async def _save(self) -> None:
        changes, self._changes = self._changes, []
        if changes:
            await self._store.change_messages(changes)

    def _change(self, change: MessageChange) -> None:
        self._changes.append(change)
        self._changed.set()

    # Inside

    def _write(self, agent: Agent, message: _Message) -> bool:
        """Seal it and hand it to the transport; False where the agent is away."""
        session = agent.session
        if session is None or not session.is_reachable or not self._is_settled(session):
            return False
        row = message.row
        key = (row.uid, row.command_id)
        self._asked.pop(key, None)
        self._asked[key] = message
        if len(self._asked) > _MOST_REMEMBERED:
            del self._asked[next(iter(self._asked))]
        session.push(row.channel, message.sealed, message_id=row.id, kind=row.type)
        self._flushing.setdefault(session, []).append(message)
        if self._polling is None:
            self._polling = asyncio.get_running_loop().create_task(self._poll())
        return True

    def _is_settled(self, session: Any) -> bool:
        age_ns = self._clock.monotonic_ns() - session.began_ns
        return bool(session.settled) or age_ns >= _QUIET_S * SECOND

    def _deliver(self, session: Any) -> None:
        agent = session.agent
        if agent is None or agent.session is not session or not session.is_reachable:
            return
        uid = agent.row.uid
        queue = self._queues.get(uid)
        if not queue:
            return
        now_ns = self._clock.wall_ns()
        left: list[_Message] = []
        for each in list(queue):
            if self._is_over(each, now_ns):
                continue
            if left or not self._write(agent, each):
                left.append(each)
        self._take_queue(uid, left)

    def _is_over(self, message: _Message, now_ns: int) -> bool:
        row = message.row
        if row.expires_ns > now_ns:
            return False
        error = "the agent did not come back in time"
        message.row = msgspec.structs.replace(row, status="expired", error=error)
        self._change(MessageChange(id=row.id, status="expired", error=error))
        self._metrics.count("order_expired")
        _wake(message)
        return True

    def _queue(self, agent: Agent, message: _Message) -> None:
        queue = self._queues.setdefault(agent.row.uid, deque())
        queue.append(message)
        self._queued += 1
        agent.queued = len(queue)

    def _take_queue(self, uid: str, left: list[_Message]) -> None:
        """Replace what waits for an agent."""
        self._queued += len(left) - len(self._queues.get(uid, ()))
        if left:
            self._queues[uid] = deque(left)
        else:
            self._queues.pop(uid, None)
        agent = self._agents.get(uid)
        if agent is not None:
            agent.queued = len(left)

    async def _poll(self) -> None:
        """Until the kernel has everything: mark it sent."""
        try:
            await asyncio.sleep(0)
            while self._flushing:
                self._look()
                if self._flushing:
                    await asyncio.sleep(_POLL_S)
        finally:
            self._polling = None

    def _look(self) -> None:
        now_ns = self._clock.wall_ns()
        for session in [each for each in self._flushing if not each.connection.waiting_bytes]:
            for message in self._flushing.pop(session):
                row = message.row
                if row.status == "queued":
                    message.row = msgspec.structs.replace(row, status="sent", sent_ns=now_ns)
                    self._change(MessageChange(id=row.id, status="sent", sent_ns=now_ns))

    async def _flushed(self, written: list[_Message]) -> None:
        """Until the kernel has these; another agent that does not read delays nobody but who wrote to it."""
        await asyncio.sleep(0)
        self._look()
        until = self._clock.monotonic_ns() + int(FLUSH_S * SECOND)
        # The transport tells nobody that the last byte is gone.
        while any(each.row.status == "queued" for each in written) and self._clock.monotonic_ns() < until:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)

    async def _take_answer(self, uid: str, answer: gateway_happenings.Answer) -> None:
        message = self._asked.pop((uid, answer.in_reply_to), None)
        identity = await self._answered_id(uid, answer.in_reply_to) if message is None else message.row.id
        if identity is None:
            self._metrics.count("answer_to_nothing")
            return
        content = {"ok": answer.ok, "code": answer.code, "text": answer.text, "state": answer.state}
        now_ns = self._clock.wall_ns()
        change = MessageChange(
            id=identity,
            status="answered",
            sent_ns=now_ns,
            answered_ns=now_ns,
            answer=_encode(content).decode(),
        )
        await self._save()
        await self._store.change_messages([change])
        self._metrics.count("answered")
        if message is not None:
            message.answer = content
            message.row = msgspec.structs.replace(message.row, status="answered", answered_ns=now_ns)
            _wake(message)

    async def _answered_id(self, uid: str, in_reply_to: str) -> str | None:
        """After a restart of the gateway: the message is in the store only, and only its own agent answers it."""
        row = await self._store.message(in_reply_to)
        return row.id if row is not None and row.uid == uid and row.status in {"queued", "sent"} else None


def _wake(message: _Message) -> None:
    if message.waiter is not None and not message.waiter.done():
        message.waiter.set_result(None)


def _refusal(order: Order, agent: Agent | None, limits: Limits, room: int) -> str | None:
    """Why an order is not even kept."""
    if agent is None:
        return str(AgentUnknown(f"no agent {order.uid[:64]!r}"))
    if agent.session is None and agent.queued >= limits.queued_of_agent:
        return f"{agent.queued} orders wait for this agent already"
    if agent.session is None and room <= 0:
        return "too many orders wait for agents that are away"
    return None


def _result(message: _Message, *, waited: bool) -> Sent:
    row = message.row
    status = {
        "answered": SentStatus.ANSWERED,
        "sent": SentStatus.TIMEOUT if waited else SentStatus.SENT,
        "queued": SentStatus.QUEUED,
    }.get(row.status, SentStatus.FAILED)
    return Sent(
        message_id=row.id,
        agent_uid=row.uid,
        status=status,
        error=row.error or None,
        answer=message.answer,
    )
