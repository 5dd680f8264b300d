"""Drives one `GatewaySession` a connection, and knows which of them an agent is reached by.

The table is by key and connection: the newest authenticated connection of a key wins and the older one is closed; what
leaves late takes nothing with it that is not its own.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Final, Protocol

from aegis.errors import AegisError, EnvelopeInvalid, StorageError
from aegis.gateway.agents import Agent, AgentTable
from aegis.gateway.connection import Connection
from aegis.gateway.ingest import Ingest
from aegis.gateway.metrics import Metrics
from aegis.gateway.nonces import Nonces
from aegis.gateway.registration import Enrolment
from aegis.gateway.websocket import TRY_LATER
from aegis.model.block import BlockClass
from aegis.protocol.gateway import GatewayKeys, GatewayLimits, GatewaySession, Phase
from aegis.protocol.gateway_happenings import (
    Answer,
    Authenticated,
    Batch,
    Closed,
    GatewayHappening,
    Heartbeat,
    Ignored,
    Refused,
    RegistrationBegun,
    RegistrationProven,
    State,
)
from aegis.protocol.registration import Registrations
from aegis.protocol.replay import ReplayCache
from aegis.protocol.upgrade import Upgrade
from aegis.runtime.clock import SystemClock

SECOND: Final = 1_000_000_000
CONFLICT: Final = 4001


class Orders(Protocol):
    """Who has messages for agents, and takes their answers."""

    def reachable(self, session: Session) -> None: ...

    def lost(self, session: Session) -> None: ...

    def answered(self, uid: str, answer: Answer) -> None: ...


class Port(Protocol):
    def authenticated(self, connection: Connection) -> None: ...

    def soon(self, connection: Connection, due_ns: int) -> None: ...


class Hall:
    """What all sessions share."""

    def __init__(
        self,
        *,
        keys: GatewayKeys,
        clock: SystemClock,
        agents: AgentTable,
        enrolment: Enrolment,
        ingest: Ingest,
        metrics: Metrics,
        replay: ReplayCache,
        nonces: Nonces,
        registrations: Registrations,
        limits: GatewayLimits,
        ping_s: float,
        silent_s: float,
    ) -> None:
        self.keys = keys
        self.clock = clock
        self.agents = agents
        self.enrolment = enrolment
        self.ingest = ingest
        self.metrics = metrics
        self.replay = replay
        self.nonces = nonces
        self.registrations = registrations
        self.limits = limits
        self.ping_ns = int(ping_s * SECOND)
        self.silent_ns = int(silent_s * SECOND)
        self.orders: Orders | None = None
        self.port: Port | None = None
        self.by_key: dict[bytes, Session] = {}
        self.tasks: set[asyncio.Task[None]] = set()

    def wall_s(self) -> int:
        return self.clock.wall_ns() // SECOND

    def enter(self, session: Session) -> None:
        """From now on the key is reached here; an older connection of it is closed."""
        older = self.by_key.get(session.key)
        self.by_key[session.key] = session
        if older is not None and older is not session:
            self.metrics.count("session_conflict")
            if older.agent is not None and older.agent.session is older:
                older.agent.session = None
            if self.orders is not None:
                self.orders.lost(older)
            older.connection.close(CONFLICT, "a newer connection of the same key")

    def leave(self, session: Session) -> None:
        """Compare and delete."""
        if self.by_key.get(session.key) is session:
            del self.by_key[session.key]
        agent = session.agent
        if agent is not None and agent.session is session:
            agent.session = None
        if self.orders is not None:
            self.orders.lost(session)


class Session:
    """One agent's connection after the upgrade."""

    __slots__ = (
        "_core",
        "_hall",
        "agent",
        "began_ns",
        "connection",
        "expires_s",
        "held",
        "held_bytes",
        "key",
        "settled",
    )

    def __init__(self, hall: Hall, connection: Connection, upgrade: Upgrade) -> None:
        self._hall = hall
        self.connection = connection
        self.key = upgrade.key
        self.agent: Agent | None = None
        self.expires_s = 0
        self.held_bytes = 0  # of batches that wait for the store
        self.held = False  # nothing more is read of it until some of them are stored
        self._core = GatewaySession(
            hall.keys,
            upgrade,
            connection=str(connection.number),
            entropy=secrets.token_bytes,
            replay=hall.replay,
            registrations=hall.registrations,
            limits=hall.limits,
        )
        self.settled = False  # its handshake is over: it registered here, or ours spoke of something else
        self.began_ns = hall.clock.monotonic_ns()
        self._core.opened(self.began_ns)

    @property
    def address(self) -> str:
        return self.connection.address

    @property
    def ours(self) -> bool:
        return self._core.ours

    @property
    def is_reachable(self) -> bool:
        """Whether an order may be written to it now."""
        return self._core.phase is Phase.REGISTERED and self.connection.is_open

    # What the connection calls

    def received(self, message: str | bytes) -> None:
        hall = self._hall
        happened = self._core.receive(message, self.connection.heard_ns, hall.wall_s())
        for each in happened:
            self._happened(each)
        self._send()

    def pinged(self) -> None:
        """A pong shows that a peer of ours is there. Only data keeps another from being idle, as deployed ones know it."""
        if self._core.ours:
            self._core.alive(self.connection.heard_ns)

    def look(self, now_ns: int) -> int | None:
        if self.connection.is_held:
            self._core.alive(now_ns)
            return now_ns + self._hall.ping_ns
        for each in self._core.tick(now_ns):
            self._happened(each)
        self._send()
        due = self._core.next_deadline()
        if not self._core.ours or not self.connection.is_open:
            return due
        quiet_ns = now_ns - self.connection.heard_ns
        if quiet_ns >= self._hall.silent_ns:
            self._hall.metrics.count("half_open")
            self.connection.abort()
            return None
        if quiet_ns >= self._hall.ping_ns and now_ns - self.connection.pinged_ns >= self._hall.ping_ns:
            self.connection.ping()
        again = self.connection.heard_ns + self._hall.silent_ns
        if quiet_ns < self._hall.ping_ns:
            again = self.connection.heard_ns + self._hall.ping_ns
        elif now_ns + self._hall.ping_ns < again:
            again = now_ns + self._hall.ping_ns
        return again if due is None else min(again, due)

    def ended(self) -> None:
        if self._core.phase is not Phase.CLOSED:
            self._core.gone()
        self._hall.leave(self)

    # What the gateway calls

    def push(self, channel: str, message: bytes, *, message_id: str, kind: str) -> None:
        """Seal and write. Only where `is_reachable`."""
        self.connection.send(
            self._core.push(channel, message, message_id=message_id, wall_s=self._hall.wall_s(), kind=kind)
        )

    def acknowledge(self, stream: int, cls: BlockClass, next_: int) -> None:
        if self.is_reachable:
            self.connection.send(self._core.acknowledge(stream, cls, next_, self._hall.wall_s()))

    def stored(self, count: int) -> None:
        """Bytes that waited for the store do no longer."""
        self.held_bytes -= count
        self._weigh()

    def not_stored(self) -> None:
        """What it sent could not be kept: it sends it again on its next connection."""
        self.connection.close(TRY_LATER, "the store is not available, try again")

    # What happened

    def _happened(self, what: GatewayHappening) -> None:
        metrics = self._hall.metrics
        if isinstance(what, Heartbeat):
            metrics.heartbeats += 1
            self._heard()
        elif isinstance(what, Batch):
            self._batch(what)
        elif isinstance(what, Answer):
            self._heard()
            if self._hall.orders is not None and self.agent is not None:
                self._hall.orders.answered(self.agent.row.uid, what)
        elif isinstance(what, Authenticated):
            self._authenticated(what)
        elif isinstance(what, RegistrationProven):
            self._store_registration(what)
        elif isinstance(what, Refused):
            metrics.count(f"refused_{what.code}")
        elif isinstance(what, Closed):
            metrics.count("closed_by_gateway")
            self._send()
            self.connection.close(what.code, what.reason)
        elif isinstance(what, State):
            self._heard()
            if self.agent is not None:
                self._hall.agents.standings.told(self.agent.standing, what.state)
        elif isinstance(what, RegistrationBegun | Ignored):
            return

    def _heard(self) -> None:
        if self.agent is None:
            return
        self._hall.agents.seen(self.agent, self._hall.clock.wall_ns())
        if not self.settled and self._core.ours:
            self.settled = True
            if self._hall.orders is not None:
                self._hall.orders.reachable(self)

    def _authenticated(self, what: Authenticated) -> None:
        hall = self._hall
        try:
            hall.nonces.keep(what.used)
        except StorageError as error:
            hall.metrics.count("nonce_not_kept")
            hall.ingest.refused(error)
            self.not_stored()
            return
        agent = hall.agents.of_key(what.key)
        now_ns, wall_s = hall.clock.monotonic_ns(), hall.wall_s()
        self._core.accept(
            None if agent is None else agent.row.uid,
            ours=agent is not None and agent.ours,
            now_ns=now_ns,
            wall_s=wall_s,
        )
        hall.metrics.count("authenticated")
        self.expires_s = wall_s + hall.limits.session_s
        if hall.port is not None:
            hall.port.authenticated(self.connection)
        hall.enter(self)
        self._send()
        if agent is not None:
            self._join(agent)

    def _join(self, agent: Agent) -> None:
        """The agent is reached here from now on."""
        if self._hall.by_key.get(self.key) is not self:
            return  # a newer connection came while the store was written
        self.agent = agent
        agent.session = self
        self._hall.agents.standings.begin(agent.standing)  # it tells all of it anew
        self._hall.agents.seen(agent, self._hall.clock.wall_ns())
        if self._hall.orders is not None:
            self._hall.orders.reachable(self)
        if self._hall.port is not None and self._core.ours:
            self._hall.port.soon(self.connection, self._hall.clock.monotonic_ns() + self._hall.ping_ns)

    def _store_registration(self, what: RegistrationProven) -> None:
        task = asyncio.get_running_loop().create_task(self._register(what))
        self._hall.tasks.add(task)
        task.add_done_callback(self._hall.tasks.discard)

    async def _register(self, what: RegistrationProven) -> None:
        """The answer goes out once the row is committed."""
        hall = self._hall
        try:
            agent = await hall.enrolment.enrol(what.key, what.host_id, what.init, self._core.agent_id)
        except AegisError as error:
            hall.metrics.count("registration_failed")
            if isinstance(error, StorageError):
                hall.ingest.refused(error)
            if self._core.phase is not Phase.CLOSED:
                for each in self._core.registration_failed(str(error), hall.wall_s(), status=503):
                    self._happened(each)
                self._send()
            return
        hall.metrics.count("registered")
        if self._core.phase is Phase.CLOSED:
            return
        self._core.registered(hall.wall_s())
        self.settled = True
        self._send()
        self._join(agent)

    def _batch(self, what: Batch) -> None:
        if self.agent is None:
            return
        self._heard()
        ingest = self._hall.ingest
        try:
            size = ingest.offer(self, self.agent.row.uid, what)
        except EnvelopeInvalid as error:
            self._hall.metrics.count("refused_batch")
            for each in self._core.refuse(error.code, f"invalid batch: {error}", self._hall.wall_s()):
                self._happened(each)
            return
        except StorageError:
            self.not_stored()
            return
        self.held_bytes += size
        self._weigh()

    def _weigh(self) -> None:
        """Looked at whenever its own bytes change. One that is held has some that wait, so it is let go again."""
        held = self._hall.ingest.too_much(self.held_bytes)
        if held != self.held:
            self.held = held
            self.connection.hold_reading(on=held)

    def _send(self) -> None:
        for frame in self._core.outgoing():
            self.connection.send(frame)
