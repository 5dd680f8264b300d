"""Orders to agents: kept first, then written to the socket, then answered; kept for agents that are away.

A message is `sent` when the kernel has taken its bytes, `answered` when the agent's answer is stored. What was in a
buffer when its connection ended waits for the next one, so that an agent may see an order twice, and never not at all.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from aegis.errors import AgentUnknown
from aegis.gateway.agents import Agent, AgentTable
from aegis.gateway.limits import Limits
from aegis.gateway.lookups import Lookups
from aegis.gateway.message import Message
from aegis.gateway.metrics import Metrics
from aegis.gateway.outcomes import Outcomes
from aegis.gateway.queues import Queues
from aegis.gateway.store.base import MessageChange, MessageRow, Store
from aegis.gateway.views import Order, Sent, SentStatus
from aegis.protocol import gateway_happenings
from aegis.protocol.gateway import push_text
from aegis.runtime.clock import SystemClock

SECOND: Final = 1_000_000_000
FLUSH_S: Final = 0.5  # how long a caller waits for the kernel to take the bytes
_POLL_S: Final = 0.01
_QUIET_S: Final = 1.0  # no agent takes anything between the frames of its handshake; ours say when it is over
_REMEMBERED_NS: Final = 600 * SECOND  # how long an answer finds its order here; later, in the store
_MOST_REMEMBERED: Final = 50_000
_encode = msgspec.json.Encoder().encode


class _Flush:
    """What was given to a socket: each message with the place of its last byte, and the place the kernel is at."""

    __slots__ = ("end", "messages", "taken")

    def __init__(self, at: int) -> None:
        self.messages: deque[tuple[int, Message]] = deque()
        self.taken = self.end = at


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
        self._queues = Queues(agents, self._over)
        self._coming: Counter[str] = Counter()  # by uid, what is being kept by the store
        self._coming_in_all = 0
        self._flushing: dict[Any, _Flush] = {}  # session to what the kernel has not taken
        self._asked: dict[tuple[str, str], Message] = {}  # uid and command to what may be answered
        self._outcomes = Outcomes(store, metrics)
        self._lookups = Lookups(store, agents, metrics, self._keep_answer)
        self._polling: asyncio.Task[None] | None = None
        self._waited: set[Message] = set()  # for whose answer somebody waits
        self._stopping = False

    async def load(self) -> None:
        """Orders of an earlier process that no agent got yet."""
        for row in await self._store.waiting():
            agent = self._agents.get(row.uid)
            if agent is not None:
                self._queues.append(agent, Message(row, push_text(msgspec.Raw(row.body.encode()))))

    # What the hub calls

    async def send(self, orders: Sequence[Order], wait_s: float) -> list[Sent]:
        """One result an order. Raises StorageError, and then none was sent."""
        now_ns = self._clock.wall_ns()
        results: list[Sent | Message] = []
        texts: dict[int, tuple[str, bytes]] = {}
        made: list[Message] = []
        try:
            for order in orders:
                agent = self._agents.get(order.uid)
                message, error = None, self._refusal(order, agent)
                if error is None:
                    message = self._made(order, now_ns, texts)
                    if len(message.sealed) > self._limits.order_bytes:
                        error = f"the message is larger than {self._limits.order_bytes} bytes"
                if message is None or error is not None:
                    results.append(
                        Sent(message_id="", agent_uid=order.uid, status=SentStatus.FAILED, error=error)
                    )
                    continue
                results.append(message)
                made.append(message)
                self._coming[order.uid] += 1
                self._coming_in_all += 1
            await self._store.add_messages([each.row for each in made])
        finally:
            self._coming_in_all -= len(made)
            self._coming -= Counter(each.row.uid for each in made)
        loop = asyncio.get_running_loop()
        written = []
        for each in made:
            if wait_s > 0:
                each.waiter = loop.create_future()
            agent = self._agents.of_uid(each.row.uid)
            if each.row.uid in self._queues or not self._write(agent, each):
                self._queues.append(agent, each)
                if agent.session is not None:
                    self._deliver(agent.session)
            if agent.session in self._flushing:
                written.append(each)
        if written:
            await self._flushed(written)
        if wait_s > 0 and made:
            await self._wait(made, wait_s)
        waited = wait_s > 0 and not self._stopping
        return [each if isinstance(each, Sent) else each.result(waited=waited) for each in results]

    async def _wait(self, made: list[Message], wait_s: float) -> None:
        """Until each is answered or given up, the time is over, or the gateway ends."""
        try:
            if not self._stopping:
                self._waited.update(made)
                await asyncio.wait([each.waiter for each in made if each.waiter is not None], timeout=wait_s)
        finally:
            for each in made:
                each.waiter = None
            self._waited.difference_update(made)

    def stop_waiting(self) -> None:
        """The end has begun: who waits is told what is known by now, and nobody waits any more."""
        self._stopping = True
        for each in self._waited:
            each.wake()

    def _refusal(self, order: Order, agent: Agent | None) -> str | None:
        """Why an order is not even kept."""
        if agent is None:
            return str(AgentUnknown(f"no agent {order.uid[:64]!r}"))
        waiting = agent.queued + self._coming[order.uid]
        if waiting >= self._limits.queued_of_agent:
            return f"{waiting} orders wait for this agent already"
        if self._queues.count + self._coming_in_all < self._limits.queued:
            return None
        is_direct = not agent.queued and agent.session is not None and agent.session.is_reachable
        return None if is_direct else "too many orders wait for agents that are away"

    def _made(self, order: Order, now_ns: int, texts: dict[int, tuple[str, bytes]]) -> Message:
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
        return Message(row, text)

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
        flush = self._flushing.pop(session, None)
        unsent = [] if flush is None else [each for _, each in flush.messages if not each.is_answered]
        if unsent and session.agent is not None:
            self._queues.put_back(session.agent, unsent)
            if session.agent.session is not None and session.agent.session is not session:
                self.reachable(session.agent.session)

    def answered(self, uid: str, answer: gateway_happenings.Answer) -> None:
        """Store an answer, then tell who waits for it."""
        content = {"ok": answer.ok, "code": answer.code, "text": answer.text, "state": answer.state}
        message = self._asked.pop((uid, answer.in_reply_to), None)
        if message is not None:
            message.is_answered = True
            self._keep_answer(message.row.id, _encode(content), message)
        else:
            self._lookups.begin(uid, answer.in_reply_to, _encode(content))

    # Upkeep

    async def upkeep(self) -> None:
        """Write down what became of messages, as it happens; until cancelled, and then once more."""
        await self._outcomes.run()

    def expire(self) -> None:
        """Give up what waited longer than it may for its agent to come; forget what was asked long ago."""
        now_ns = self._clock.wall_ns()
        self._queues.expire(now_ns)
        before_ns = self._clock.monotonic_ns() - _REMEMBERED_NS
        over = []
        for key, each in self._asked.items():  # in the order of their asking
            if each.asked_ns > before_ns:
                break
            if each.waiter is None:
                over.append(key)
        for key in over:
            del self._asked[key]

    # Inside

    def _write(self, agent: Agent, message: Message) -> bool:
        """Seal it and hand it to the transport; False where the agent is away."""
        session = agent.session
        if session is None or not session.is_reachable or not self._is_settled(session):
            return False
        connection, flush = session.connection, self._flushing.get(session)
        if flush is None:
            flush = _Flush(connection.written_bytes)
        elif flush.end - flush.taken >= self._limits.order_window_bytes:
            return False
        row = message.row
        key = (row.uid, row.command_id)
        self._asked.pop(key, None)  # the newest is last
        self._asked[key] = message
        message.asked_ns = self._clock.monotonic_ns()
        if len(self._asked) > _MOST_REMEMBERED:
            del self._asked[next(iter(self._asked))]
        self._flushing[session] = flush
        connection.lent_bytes = self._limits.send_bytes  # the window bounds it, one message more at most
        session.push(row.channel, message.sealed, message_id=row.id, kind=row.type)
        flush.end = connection.written_bytes
        connection.lent_bytes = flush.end - flush.taken
        flush.messages.append((flush.end, message))
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
        self._queues.give(agent, self._clock.wall_ns(), lambda each: self._write(agent, each))

    def _over(self, message: Message) -> None:
        """Its agent did not come in time."""
        error = "the agent did not come back in time"
        message.row = msgspec.structs.replace(message.row, status="expired", error=error)
        self._outcomes.add(MessageChange(id=message.row.id, status="expired", error=error))
        self._metrics.count("order_expired")
        message.wake()

    async def _poll(self) -> None:
        """Until the kernel has everything: mark what it has as sent, and write what waited for room."""
        try:
            pause_s = 0.0
            while self._flushing:
                places = {each: each.connection.written_bytes for each in self._flushing}
                await asyncio.sleep(pause_s)
                self._look(places)
                pause_s = _POLL_S
        finally:
            self._polling = None

    def _look(self, places: dict[Any, int]) -> None:
        """`places` are the sockets' of an earlier turn of the loop: what this turn wrote, no transport counts yet."""
        now_ns = self._clock.wall_ns()
        for session, place in places.items():
            flush = self._flushing.get(session)
            if flush is None or session.connection.is_cut:
                continue
            flush.taken = max(flush.taken, place - session.connection.waiting_bytes)
            session.connection.lent_bytes = max(0, flush.end - flush.taken)
            while flush.messages and flush.messages[0][0] <= flush.taken:
                self._sent(flush.messages.popleft()[1], now_ns)
            if not flush.messages:
                del self._flushing[session]
            if session.agent is not None and session.agent.queued:
                self._deliver(session)

    def _sent(self, message: Message, now_ns: int) -> None:
        """The kernel has it; from here on it is remembered by its name only."""
        if not message.is_answered:
            self._outcomes.add(MessageChange(id=message.row.id, status="sent", sent_ns=now_ns))
            message.row = msgspec.structs.replace(message.row, status="sent", sent_ns=now_ns, body="")
        message.sealed = b""

    async def _flushed(self, written: list[Message]) -> None:
        """Until the kernel has these; another agent that does not read delays nobody but who wrote to it."""
        places = {each: each.connection.written_bytes for each in self._flushing}
        await asyncio.sleep(0)
        self._look(places)
        until = self._clock.monotonic_ns() + int(FLUSH_S * SECOND)
        # The transport tells nobody that the last byte is gone.
        while any(each.is_under_way for each in written) and self._clock.monotonic_ns() < until:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)

    def _keep_answer(self, identity: str, content: bytes, message: Message | None = None) -> None:
        now_ns = self._clock.wall_ns()
        change = MessageChange(
            id=identity, status="answered", sent_ns=now_ns, answered_ns=now_ns, answer=content.decode()
        )

        def stored() -> None:
            self._metrics.count("answered")
            if message is None:
                return
            if message.waiter is not None:
                message.answer = msgspec.json.decode(content)
            message.row = msgspec.structs.replace(message.row, status="answered", answered_ns=now_ns)
            message.wake()

        self._outcomes.add(change, stored)
