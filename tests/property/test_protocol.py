"""Agent and gateway of ours over a pipe that loses nothing, while arbitrary frames reach both.

Whatever order things happen in: an agent is known by one uid; what was sent in a session that holds arrives once and in
order; what arrives was sent; arbitrary frames change nothing but counts, or end the connection they came on.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aegis.model.block import BlockClass
from aegis.protocol import agent_happenings as agent_said
from aegis.protocol import channels
from aegis.protocol import gateway_happenings as gateway_said
from aegis.protocol.agent import AgentSession
from aegis.protocol.agent import Phase as AgentPhase
from aegis.protocol.crypto import uid_of
from aegis.protocol.gateway import GatewaySession
from aegis.protocol.gateway import Phase as GatewayPhase
from tests.support.sessions import SECOND, WALL, Gateway, agent_session, entropy
from tests.support.stages import BOOT

AGENT_HAPPENINGS = tuple(agent_said.AgentHappening.__args__)
GATEWAY_HAPPENINGS = tuple(gateway_said.GatewayHappening.__args__)

NOISE_CHANNELS = st.sampled_from([
    "auth", "error", "agent.registration", "agent.registration.complete", "registration.complete", "heartbeat", "",
    "agent.host-1.heartbeat", "agent.host-1.status", "backend.policies", "backend.ack", "agent.x.status", "backend.x.modules",
])  # fmt: skip
NOISE = st.one_of(
    st.binary(max_size=64),
    st.text(max_size=64),
    st.builds(
        lambda channel, payload, kind, nonce: json.dumps(
            {"channel": channel, "payload": payload, "type": kind, "nonce": nonce, "timestamp": WALL}
        ),
        NOISE_CHANNELS,
        st.sampled_from(["", "e30=", "{}", '{"success":true}', "x", '{"message":"agent not registered"}']),
        st.sampled_from(["request", "event", "", None]),
        st.sampled_from(["", "AAAAAAAAAAAAAAAA", None]),
    ),
)


def spoken(agent: AgentSession) -> list[str]:
    """Its frames as a gateway reads them."""
    return [frame if isinstance(frame, str) else frame.decode() for frame in agent.outgoing()]


class Link(RuleBasedStateMachine):
    agent: AgentSession
    gateway: GatewaySession

    @initialize(reregister=st.booleans())
    def begin(self, reregister: bool) -> None:
        self.shared = Gateway()
        self.entropy = entropy(7 << 40)
        self.reregister = reregister
        self.uid: str | None = None
        self.now_ns = 0
        self.sent: list[tuple[str, Any]] = []
        self.got: list[tuple[str, Any]] = []
        self.pushed: list[Any] = []
        self.ordered: list[Any] = []
        self.heartbeats = 0
        self.disturbed = False
        self.connect()

    def connect(self) -> None:
        self.agent = agent_session(uid=self.uid, reregister=self.reregister, entropy=self.entropy)
        self.gateway = self.shared.connect(self.agent.headers())
        self.gateway.opened(self.now_ns)
        self.agent.opened(self.now_ns, self.wall)
        self.disturbed = False
        self.begun_at = len(self.sent), len(self.pushed)

    @property
    def wall(self) -> int:
        return WALL + self.now_ns // SECOND

    def hear_agent(self, frame: str | bytes) -> None:
        for each in self.agent.receive(frame, self.now_ns, self.wall):
            assert isinstance(each, AGENT_HAPPENINGS)
            if isinstance(each, agent_said.Registered):
                self.uid = each.uid
            elif isinstance(each, agent_said.Order):
                self.ordered.append(each.body)
            elif isinstance(each, agent_said.Acknowledged):
                self.ordered.append((each.stream, each.cls, each.next_))

    def hear_gateway(self, frame: str | bytes) -> None:
        for each in self.shared.drive(self.gateway, frame, self.now_ns, self.wall):
            assert isinstance(each, GATEWAY_HAPPENINGS)
            if isinstance(each, gateway_said.Batch):
                self.got.append((each.cls, [bytes(item) for item in each.items]))
            elif isinstance(each, gateway_said.Answer):
                self.got.append(("answer", each.in_reply_to))
            elif isinstance(each, gateway_said.Heartbeat):
                self.heartbeats += 1

    @rule()
    def pump(self) -> None:
        moved = True
        while moved:
            up, down = spoken(self.agent), self.gateway.outgoing()
            for frame in up:
                self.hear_gateway(frame)
            for frame in down:
                self.hear_agent(frame)
            moved = bool(up or down)

    @rule(seconds=st.floats(0, 90))
    def wait(self, seconds: float) -> None:
        self.now_ns += int(seconds * SECOND)
        for each in self.agent.tick(self.now_ns, self.wall):
            assert isinstance(each, AGENT_HAPPENINGS)
        for frame in spoken(self.agent):
            self.hear_gateway(frame)
        for other in self.gateway.tick(self.now_ns):
            assert isinstance(other, gateway_said.Closed)

    @rule()
    def drop(self) -> None:
        """The connection breaks between two frames; a new one begins."""
        self.pump()
        self.gateway.gone()
        self.connect()

    @rule()
    def forget(self) -> None:
        """The gateway loses its store, and its connections with it."""
        self.pump()
        self.shared.store.clear()
        self.gateway.gone()
        self.connect()

    @precondition(lambda self: self.agent.phase is AgentPhase.UP)
    @rule(
        cls=st.sampled_from(BlockClass),
        items=st.lists(st.dictionaries(st.text(max_size=4), st.integers(), max_size=3), max_size=4),
    )
    def send(self, cls: BlockClass, items: list[dict[str, int]]) -> None:
        if not self.agent.takes(cls):
            return
        texts = [json.dumps(item).encode() for item in items]
        self.agent.batch(
            cls,
            stream=1,
            first=len(self.sent),
            boot_id=BOOT,
            items_json=b"[" + b",".join(texts) + b"]",
            wall_s=self.wall,
        )
        self.sent.append((cls, texts))

    @precondition(lambda self: self.agent.phase is AgentPhase.UP)
    @rule(name=st.text("abc", min_size=1, max_size=3))
    def answer(self, name: str) -> None:
        self.agent.answer(name, ok=True, wall_s=self.wall)
        self.sent.append(("answer", name))

    @precondition(lambda self: self.both_up())
    @rule(body=st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=3), batch=st.booleans())
    def push(self, body: dict[str, str], batch: bool) -> None:
        if batch:
            self.hear_agent(self.gateway.acknowledge(1, BlockClass.FLOW, len(self.pushed), self.wall))
            self.pushed.append((1, BlockClass.FLOW, len(self.pushed)))
            return
        self.pushed.append(body)
        self.hear_agent(self.gateway.push(channels.MODULES, body, message_id="m", wall_s=self.wall))

    def both_up(self) -> bool:
        return self.agent.phase is AgentPhase.UP and self.gateway.phase is GatewayPhase.REGISTERED

    @rule(frame=NOISE)
    def noise_at_the_gateway(self, frame: str | bytes) -> None:
        before = len(self.got), dict(self.shared.store)
        self.disturbed = True
        self.hear_gateway(frame)
        assert (len(self.got), self.shared.store) == before

    @rule(frame=NOISE)
    def noise_at_the_agent(self, frame: str | bytes) -> None:
        before = len(self.ordered)
        self.disturbed = True
        self.hear_agent(frame)
        assert len(self.ordered) == before

    @invariant()
    def one_agent_one_uid(self) -> None:
        known = {uid for uid, _ in self.shared.store.values()}
        assert known <= {uid_of(self.agent.public_key)}
        assert self.uid in {None, uid_of(self.agent.public_key)}

    @invariant()
    def what_arrives_was_sent(self) -> None:
        def countable(items: list[Any]) -> Counter[str]:
            return Counter(map(repr, items))

        assert countable(self.got) <= countable(self.sent)
        assert countable(self.ordered) <= countable(self.pushed)

    @invariant()
    def ends_of_a_closed_session_are_quiet(self) -> None:
        if self.agent.phase is AgentPhase.CLOSED:
            assert (self.agent.outgoing(), self.agent.next_deadline()) == ([], None)
        if self.gateway.phase is GatewayPhase.CLOSED:
            assert self.gateway.next_deadline() is None

    @rule()
    def an_undisturbed_link_comes_up_and_loses_nothing(self) -> None:
        if self.disturbed or self.gateway.close_reason is not None or self.agent.phase is AgentPhase.CLOSED:
            return
        self.pump()
        assert self.both_up()
        sent, pushed = self.begun_at
        if sent < len(self.sent):
            assert self.got[-(len(self.sent) - sent) :] == self.sent[sent:]
        if pushed < len(self.pushed):
            assert self.ordered[-(len(self.pushed) - pushed) :] == self.pushed[pushed:]
        assert self.heartbeats > 0


Link.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestLink = Link.TestCase


def test_the_machine_is_not_vacuous() -> None:
    """The steps of one run by hand reach every part of it."""
    link = Link()
    link.begin(reregister=True)
    link.pump()
    link.send(BlockClass.EVENT, [{"a": 1}])
    link.answer("a")
    link.pump()
    link.push({"x": "y"}, batch=False)
    link.push({}, batch=True)
    link.an_undisturbed_link_comes_up_and_loses_nothing()
    assert len(link.got) == len(link.ordered) == 2
    link.forget()
    link.an_undisturbed_link_comes_up_and_loses_nothing()
    link.drop()
    link.noise_at_the_gateway(b"x")
    link.pump()
    assert link.shared.connections == 3
    link.one_agent_one_uid()
