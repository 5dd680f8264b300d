"""Our agent with a gateway, and our gateway with an agent, that share no line with Aegis (tests/strangers)."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from tests.strangers.v1_agent import Died, StrangeAgent
from tests.strangers.v1_gateway import StrangeGateway
from tests.support import testers
from tests.support.agent import RunningAgent, running_agent
from tests.support.gateway import RunningGateway, gateway
from tests.support.world import World

V1 = """
[gateway]
url = "{url}"
min_protocol = 1
[policy]
unsigned_orders = "{orders}"
[modules.websocket_communication]
heartbeat_interval_s = 5
"""


def eventually(holds: Callable[[], Any], what: str, seconds: float = 15) -> Any:
    """The first true answer; fails with `what` when there is none in time."""
    deadline = time.monotonic() + seconds
    while True:
        found = holds()
        if found:
            return found
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@contextmanager
def strange_gateway(world: World, **settings: Any) -> Iterator[StrangeGateway]:
    """A stranger that listens in the agent's own namespace, on loopback."""
    with world.a.entered():
        gate = StrangeGateway(**settings)
        gate.__enter__()
    try:
        yield gate
    finally:
        gate.__exit__(None, None, None)


def state(agent: RunningAgent) -> dict[str, Any]:
    found: dict[str, Any] = agent.ask("status")[0]["gateway"]
    return found


@pytest.mark.require("root", "bpf", "tcx")
def test_our_agent_with_a_deployed_gateway(world: World) -> None:
    """The whole exchange: authenticate, register once, beat, take a push, survive its error frames, stay quiet."""
    with (
        strange_gateway(world) as gate,
        running_agent(world, options=V1.format(url=gate.url, orders="accept")) as agent,
    ):
        eventually(lambda: state(agent)["state"] == "connected", "the agent did not connect")
        status = agent.ask("status")[0]
        assert status["gateway"]["protocol"] == "v1"
        assert status["gateway"]["insecure_v1"] is True
        assert gate.completions == 1
        (uid,) = gate.agents
        assert status["agent"]["uid"] == uid
        peer = gate.peers[0]
        assert peer.channels[:3] == ["auth", "agent.registration", "agent.registration.complete"]
        assert uid == f"agent-{hashlib.sha256(peer.key).hexdigest()[:16]}"

        eventually(lambda: len(gate.heartbeats) >= 2, "no two heartbeats")
        for who, frame in gate.heartbeats:
            assert who == uid
            assert frame["channel"] == f"agent.{uid}.heartbeat"
            assert frame["type"] == "heartbeat"
            assert base64.b64decode(frame["payload"]).startswith(b"{")

        # The one push that works on the deployed pair: variant (a) denies what it names, and nothing else.
        with (
            testers.tcp_server(world.b, world.b.v4) as denied,
            testers.tcp_server(world.b, world.b.v4) as other,
        ):
            assert world.a.run(testers.tcp_connects, world.b.v4, denied, 1).done == 1
            gate.push(
                uid,
                "backend.policies",
                {
                    "action": "deploy_policy",
                    "policy_id": "from-afar",
                    "policy_config": {
                        "type": "network_filter",
                        "action": "block",
                        "target": world.b.v4,
                        "protocol": "tcp",
                        "port": str(denied),
                    },
                },
            )
            names = eventually(
                lambda: [row["policy"] for row in agent.ask("policy.list")],
                "the pushed policy was not applied",
            )
            assert names == ["from-afar"]
            cut = world.a.run(testers.tcp_connects, world.b.v4, denied, 1, b"", 0.5)
            assert (cut.done, cut.only_error()) == (0, "ETIMEDOUT")
            assert world.a.run(testers.tcp_connects, world.b.v4, other, 1).done == 1

        # What kills the deployed agent: an error frame without a nonce whose payload is no JSON.
        gate.say_error(uid, 'no handler for "channel"\n')
        beats = len(gate.heartbeats)
        eventually(lambda: len(gate.heartbeats) > beats, "the agent did not survive an error frame")
        assert gate.connections == 1
        # Nothing it said met "no handler": on a deployed gateway the agent is quiet.
        assert gate.errors == ['no handler for "channel"\n']
        assert gate.refused == []


def test_our_gateway_with_a_deployed_agent(tmp_path: Path) -> None:
    """Its first connection, a push, a reconnect with its other headers: nothing that would crash or wedge it."""
    with gateway(tmp_path) as gate:
        agent = StrangeAgent(gate.url)
        started = time.monotonic()
        agent.connect()
        assert time.monotonic() - started < 1, "the deployed agent gives the whole exchange one second"
        assert agent.uid == f"agent-{hashlib.sha256(agent.public).hexdigest()[:16]}"
        listed = gate.agents()
        assert list(listed) == [agent.uid], "one agent is one record, also when it beats before it registers"
        assert listed[agent.uid]["status"] == "online"
        assert agent.receive(1.5) is None, "a heartbeat has no reply"

        pushed = {
            "channel": "backend.policies",
            "message": {"action": "deploy_policy", "policy_id": "p", "policy_config": {"target": "10.9.8.7"}},
        }
        status, answer = gate.call("POST", f"/agents/{agent.uid}/send", pushed)
        assert (status, answer["status"]) == (200, "sent")
        assert agent.receive(5) == ("backend.policies", pushed["message"])

        agent.drop()
        agent.connect()
        # Nothing may come between the frames of its handshake, whose end it does not tell: a push waits a moment.
        status, answer = gate.call("POST", f"/agents/{agent.uid}/send", pushed)
        assert (status, answer["status"]) in {(200, "sent"), (200, "queued")}
        assert agent.receive(5) == ("backend.policies", pushed["message"])
        assert list(gate.agents()) == [agent.uid]


def test_a_deployed_agent_is_told_timeout_never_ok(tmp_path: Path) -> None:
    """The deployed agent answers nothing: an order that waits for its answer says so."""
    with gateway(tmp_path) as gate:
        agent = StrangeAgent(gate.url)
        agent.connect()
        status, answer = gate.call(
            "POST",
            f"/agents/{agent.uid}/send?wait=1s",
            {"channel": "backend.modules", "message": {"type": "list_modules"}},
        )
        assert answer["status"] == "timeout", (status, answer)


def test_our_gateway_obeys_its_own_verdict(tmp_path: Path) -> None:
    """Faults G2 and G3 of the deployed gateway: a failed login is no login, and completes nothing."""
    with gateway(tmp_path) as gate:
        agent = StrangeAgent(gate.url)
        agent.dial()
        other = StrangeAgent(gate.url)
        agent.signer = other.signer  # signs with a key that is not the one it shows
        with pytest.raises((Died, ConnectionClosed)):
            agent.authenticate()
        with pytest.raises((Died, ConnectionClosed, TimeoutError)):
            agent.register()
        assert gate.agents() == {}


def strangers_survive(gate: RunningGateway, agent: StrangeAgent) -> None:
    """The gateway still serves `agent`."""
    status, answer = gate.call(
        "POST", f"/agents/{agent.uid}/send", {"channel": "backend.threats", "message": {"still": "there"}}
    )
    assert (status, answer["status"]) == (200, "sent")
    assert agent.receive(5) == ("backend.threats", {"still": "there"})


def test_two_sockets_of_one_key(tmp_path: Path) -> None:
    """Fault G4: the old connection's end does not take the new one's route away."""
    with gateway(tmp_path) as gate:
        seed = bytes(range(32))
        old = StrangeAgent(gate.url, seed=seed)
        old.connect()
        new = StrangeAgent(gate.url, seed=seed)
        new.connect()
        assert new.uid == old.uid
        old.drop()
        time.sleep(0.3)
        strangers_survive(gate, new)
        assert len(gate.agents()) == 1
