"""What the Actions API calls: agents, orders and answers, registration over HTTP, stored items, metrics.

Everything is on the gateway's loop. Views are values; the tables behind them never leave this room. Errors are typed
(`aegis.errors`): AgentUnknown, RegistrationRefused, QueryInvalid, StorageError.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from aegis.errors import EnvelopeInvalid, RegistrationRefused
from aegis.gateway.admission import Rates
from aegis.gateway.agents import AgentTable, view
from aegis.gateway.metrics import Metrics
from aegis.gateway.orders import Orders
from aegis.gateway.registration import Enrolment
from aegis.gateway.store.base import MessageRow, Page, Query, Store
from aegis.gateway.views import AgentView, MessageView, Order, Readiness, Sent
from aegis.model.stamp import rfc3339
from aegis.protocol import payloads
from aegis.protocol.registration import Registrations
from aegis.runtime.clock import SystemClock

SECOND: Final = 1_000_000_000
NO_V1: Final = "this gateway does not allow protocol v1, of which registration over HTTP is a part"


class Hub:
    """The gateway as its operators see it."""

    def __init__(
        self,
        *,
        store: Store,
        agents: AgentTable,
        enrolment: Enrolment,
        orders: Orders,
        registrations: Registrations,
        rates: Rates,
        metrics: Metrics,
        clock: SystemClock,
        allow_v1: bool,
        checks: Callable[[], dict[str, str]],
        connections: Callable[[], int],
    ) -> None:
        self._store = store
        self._agents = agents
        self._enrolment = enrolment
        self._orders = orders
        self._registrations = registrations
        self._rates = rates
        self._metrics = metrics
        self._clock = clock
        self._allow_v1 = allow_v1
        self._checks = checks
        self._connections = connections
        self._started_ns = clock.wall_ns()
        self._began_ns = clock.monotonic_ns()

    # Agents

    def agents(
        self,
        *,
        label: str | None = None,
        hostname: str | None = None,
        host_id: str | None = None,
        address: str | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> tuple[list[AgentView], int]:
        """One page of the agents that fulfil every condition given, newest first, and how many there are in all."""
        found = self._agents.select(label=label, hostname=hostname, host_id=host_id, address=address)
        now_ns = self._clock.wall_ns()
        page = [view(agent, now_ns) for agent in found[offset : offset + limit]]
        return [msgspec.structs.replace(each, capabilities=msgspec.UNSET) for each in page], len(found)

    def agent(self, uid: str) -> AgentView:
        """Raises AgentUnknown."""
        return view(self._agents.of_uid(uid), self._clock.wall_ns())

    async def set_labels(self, uid: str, *, add: Sequence[str] = (), remove: Sequence[str] = ()) -> list[str]:
        """The labels after it, sorted. Raises AgentUnknown."""
        agent = await self._enrolment.label(uid, tuple(add), tuple(remove))
        return sorted(agent.row.labels)

    async def set_note(self, uid: str, note: str) -> None:
        """Raises AgentUnknown."""
        await self._enrolment.note(uid, note)

    def heard(self, uid: str, *, last_seen_ns: int | None = None) -> AgentView:
        """A heartbeat over HTTP by an operator's credential. An instant of the future counts as now, one before what is
        known changes nothing.

        Never makes an agent: raises AgentUnknown.
        """
        agent = self._agents.of_uid(uid)
        now_ns = self._clock.wall_ns()
        at_ns = now_ns if last_seen_ns is None else min(last_seen_ns, now_ns)
        self._metrics.heartbeats += 1
        if at_ns > agent.last_seen_ns:
            self._agents.seen(agent, at_ns)
        return view(agent, now_ns)

    # Orders

    async def send(self, order: Order, *, wait_s: float = 0.0) -> Sent:
        """Keep the order, write it to the agent's socket, and wait for the answer up to `wait_s`.

        Without a wait the status is sent, queued or failed; with one also answered or timeout. A `command_id` is put
        into the message where it has none (it is the message's id). Raises AgentUnknown, StorageError.
        """
        self._agents.of_uid(order.uid)
        return (await self._orders.send([order], wait_s))[0]

    async def send_many(self, orders: Sequence[Order], *, wait_s: float = 0.0) -> list[Sent]:
        """As `send` for all of them, kept by one transaction. An unknown agent's is `failed`, it raises nothing for it."""
        return await self._orders.send(orders, wait_s)

    async def broadcast(
        self, order: Order, *, uids: Iterable[str] | None = None, wait_s: float = 0.0
    ) -> list[Sent]:
        """The same order to each of `uids`, or to every agent; `order.uid` is not looked at.

        One `command_id` for all, so that the message is encoded once.
        """
        message = order.message
        if not isinstance(message.get("command_id"), str) or not message["command_id"]:
            message = {**message, "command_id": f"broadcast_{secrets.token_hex(12)}"}
        targets = [agent.row.uid for agent in self._agents] if uids is None else list(dict.fromkeys(uids))
        return await self._orders.send(
            [msgspec.structs.replace(order, uid=uid, message=message) for uid in targets], wait_s
        )

    async def message(self, message_id: str) -> MessageView | None:
        """What became of a message; None when there is none (any more)."""
        row = await self._store.message(message_id)
        return None if row is None else _message_view(row)

    # Registration over HTTP: the bodies are the raw JSON of protocol v1, the answers too.

    def register_init(self, body: bytes, *, address: str) -> bytes:
        """The answer to POST /agents/register/init. Raises RegistrationRefused: 400, 403 (v1 is not allowed), 429."""
        self._must_allow()
        if self._rates.take(address, self._clock.monotonic_ns(), "registrations") is not None:
            raise RegistrationRefused("too many registrations, try again", status=429)
        try:
            init = payloads.read_init(body)
        except EnvelopeInvalid as error:
            raise RegistrationRefused(str(error), status=400) from None
        offer = self._registrations.begin(
            init,
            holder=f"http {address}",
            now_ns=self._clock.monotonic_ns(),
            wall_s=self._clock.wall_ns() // SECOND,
        )
        return payloads.encode(offer)

    async def register_complete(self, body: bytes, *, address: str) -> bytes:
        """The answer to POST /agents/register/complete. Raises RegistrationRefused: 400, 401, 403, 404; StorageError."""
        self._must_allow()
        try:
            completion = payloads.read_completion(body)
        except EnvelopeInvalid as error:
            raise RegistrationRefused(str(error), status=400) from None
        proven = self._registrations.complete(
            completion, holder=f"http {address}", now_ns=self._clock.monotonic_ns()
        )
        agent = await self._enrolment.enrol(proven.key, proven.host_id, proven.init, "")
        self._metrics.count("registered")
        return payloads.encode(payloads.RegistrationReply(agent.row.uid, secrets.token_hex(24)))

    def _must_allow(self) -> None:
        if not self._allow_v1:
            raise RegistrationRefused(NO_V1, status=403, hint="start the gateway with --allow-v1")

    # Stored items

    async def items(self, query: Query) -> Page:
        """Events, flows, findings, samples or verdicts by filter; `Query.cls` says which classes."""
        return await self._store.items(query)

    async def place(self) -> str:
        """`Query.after` for a follower that wants what comes from now on."""
        return await self._store.place()

    async def more(self, query: Query, within_s: float) -> None:
        """Wait until a follower's query may find something; so long at most, and not at all once the end has begun."""
        await self._store.more(query, within_s)

    def stop_waiting(self) -> None:
        """The end has begun: nobody waits any longer."""
        self._store.stop_waiting()
        self._orders.stop_waiting()

    # Health

    def readiness(self) -> Readiness:
        """What `/readyz` says."""
        checks = self._checks()
        return Readiness(
            ready=all(state == "ok" for state in checks.values()),
            checks=checks,
            heartbeat_total=self._metrics.heartbeats,
            connections=self._connections(),
            started_ns=self._started_ns,
            uptime_s=(self._clock.monotonic_ns() - self._began_ns) / SECOND,
        )

    def metrics(self) -> bytes:
        """Prometheus text."""
        return self._metrics.text()


def _message_view(row: MessageRow) -> MessageView:
    return MessageView(
        message_id=row.id,
        agent_uid=row.uid,
        channel=row.channel,
        type=row.type,
        status=row.status,
        error=row.error or None,
        created=rfc3339(row.created_ns),
        expires=rfc3339(row.expires_ns),
        sent=None if row.sent_ns is None else rfc3339(row.sent_ns),
        answered=None if row.answered_ns is None else rfc3339(row.answered_ns),
        answer=None if row.answer is None else msgspec.json.decode(row.answer),
    )
