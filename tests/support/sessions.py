"""Both ends of a v1 session in one process, and the frames between them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aegis.protocol import agent_happenings as agent_said
from aegis.protocol import gateway_happenings as gateway_said
from aegis.protocol import upgrade
from aegis.protocol.agent import AgentIdentity, AgentSession, Registration
from aegis.protocol.gateway import GatewayKeys, GatewayLimits, GatewaySession
from aegis.protocol.registration import Registrations
from aegis.protocol.replay import ReplayCache

WALL = 1_700_000_000
SECOND = 1_000_000_000
AGENT_SEED = bytes(range(32))
GATEWAY_SEED = bytes(range(32, 64))


def entropy(start: int = 0) -> Callable[[int], bytes]:
    """Bytes that look random, never repeat, and are the same in every run."""
    count = start

    def give(size: int) -> bytes:
        nonlocal count
        count += 1
        return hashlib.shake_128(b"entropy %d" % count).digest(size)

    return give


def agent_session(seed: bytes = AGENT_SEED, uid: str | None = None, **changed: Any) -> AgentSession:
    said: dict[str, Any] = {"entropy": entropy(), "registration": Registration(host_id="host-1")}
    identity = AgentIdentity(seed, changed.pop("agent_id", "host-1"), uid)
    return AgentSession(identity, **(said | changed))


class Gateway:
    """What the sessions of a gateway share, and a store that is a dictionary: key to (uid, ours)."""

    def __init__(self, *, limits: GatewayLimits | None = None, seed: bytes = GATEWAY_SEED) -> None:
        self.entropy = entropy(1 << 32)
        self.keys = GatewayKeys(seed)
        self.replay = ReplayCache()
        self.registrations = Registrations(entropy=self.entropy)
        self.limits = limits or GatewayLimits()
        self.store: dict[bytes, tuple[str, bool]] = {}
        self.connections = 0

    def connect(self, headers: Mapping[str, str]) -> GatewaySession:
        """A session for an upgrade that holds."""
        found = upgrade.check(headers.items())
        assert isinstance(found, upgrade.Upgrade), found
        self.connections += 1
        return GatewaySession(
            self.keys,
            found,
            connection=str(self.connections),
            entropy=self.entropy,
            replay=self.replay,
            registrations=self.registrations,
            limits=self.limits,
        )

    def drive(
        self, session: GatewaySession, frame: str | bytes, now_ns: int = 0, wall_s: int = WALL
    ) -> list[gateway_said.GatewayHappening]:
        """Receive as a gateway does that lets everybody in and stores at once."""
        happened = session.receive(frame, now_ns, wall_s)
        for each in happened:
            if isinstance(each, gateway_said.Authenticated):
                uid, ours = self.store.get(each.key, (None, False))
                session.accept(uid, ours=ours, now_ns=now_ns, wall_s=wall_s)
            elif isinstance(each, gateway_said.RegistrationProven):
                self.store[each.key] = (each.uid, each.ours)
                session.registered(wall_s)
        return happened


class Pair:
    """An agent and a gateway of ours on one connection; `pump` carries frames until both are silent."""

    def __init__(
        self, agent: AgentSession | None = None, gateway: Gateway | None = None, wall_s: int = WALL
    ) -> None:
        self.agent = agent or agent_session()
        self.shared = gateway or Gateway()
        self.gateway = self.shared.connect(self.agent.headers())
        self.now_ns = 0
        self.wall_s = wall_s
        self.up: list[str] = []
        self.down: list[str] = []
        self.agent_heard: list[agent_said.AgentHappening] = []
        self.gateway_heard: list[gateway_said.GatewayHappening] = []
        self.gateway.opened(self.now_ns)
        self.agent.opened(self.now_ns, self.wall_s)

    def pump(self) -> Pair:
        moved = True
        while moved:
            moved = False
            for said in self.agent.outgoing():
                frame = said if isinstance(said, str) else said.decode()
                moved = True
                self.up.append(frame)
                self.gateway_heard += self.shared.drive(self.gateway, frame, self.now_ns, self.wall_s)
            for frame in self.gateway.outgoing():
                moved = True
                self.give(frame)
        return self

    def give(self, frame: str) -> list[agent_said.AgentHappening]:
        """Hand the agent a frame of the gateway."""
        self.down.append(frame)
        happened = self.agent.receive(frame, self.now_ns, self.wall_s)
        self.agent_heard += happened
        return happened

    def wait(self, seconds: float) -> Pair:
        """Let time pass, deadline by deadline at the agent."""
        end = self.now_ns + int(seconds * SECOND)
        while (due := self.agent.next_deadline()) is not None and due <= end:
            self.now_ns = max(due, self.now_ns)
            self.agent_heard += self.agent.tick(self.now_ns, self.wall_s + self.now_ns // SECOND)
            self.pump()
        self.now_ns = end
        self.gateway_heard += self.gateway.tick(end)
        return self


def channels_of(frames: Sequence[str | bytearray]) -> list[str]:
    return [json.loads(each)["channel"] for each in frames]
