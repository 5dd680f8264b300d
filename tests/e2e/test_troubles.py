"""The five troubles of the design document, each from one end to the other.

1 idle close, 2 abnormal close (1006), 3 "agent not authenticated", 4 signature verification, 5 endless registration.
At full scale (`./dev soak troubles`) the first is the fixed five minutes of the deployed gateway, for real.
"""

from __future__ import annotations

import base64
import time
from pathlib import Path

import pytest

from tests.e2e.test_strangers import V1, eventually, state, strange_gateway
from tests.strangers.v1_agent import Died, StrangeAgent, b64
from tests.support.agent import running_agent
from tests.support.gateway import gateway
from tests.support.scale import scaled
from tests.support.world import World


@pytest.mark.require("root", "bpf", "tcx")
@pytest.mark.timeout(600)
def test_1_an_idle_link_is_not_cut(world: World) -> None:
    """The first message comes at once, and data before each deadline: nothing is ever cut for idleness."""
    idle_s = float(scaled(7, 300))
    watch_s = idle_s + scaled(9, 30)
    with (
        strange_gateway(world, idle_s=idle_s) as gate,
        running_agent(world, options=V1.format(url=gate.url, orders="refuse")) as agent,
    ):
        eventually(lambda: state(agent)["state"] == "connected", "the agent did not connect")
        since = state(agent)["authenticated_since"]
        time.sleep(watch_s)
        assert gate.connections == 1
        assert state(agent)["authenticated_since"] == since
        assert state(agent)["state"] == "connected"


@pytest.mark.require("root", "bpf", "tcx")
def test_2_an_abnormal_close_is_healed(world: World) -> None:
    """The connection breaks without a close frame: it comes back with the same key, and registers nothing anew."""
    with (
        strange_gateway(world) as gate,
        running_agent(world, options=V1.format(url=gate.url, orders="refuse")) as agent,
    ):
        eventually(lambda: state(agent)["state"] == "connected", "the agent did not connect")
        (uid,) = gate.agents
        key = gate.peers[0].key
        for round_ in range(1, 4):
            beats = len(gate.heartbeats)
            gate.cut()
            eventually(lambda: gate.connections == 1 + round_, "it did not come back", 30)  # noqa: B023
            eventually(lambda: len(gate.heartbeats) > beats, "it beats no more", 30)  # noqa: B023
            assert gate.peers[-1].key == key
        assert gate.completions == 1
        assert {who for who, _ in gate.heartbeats} == {uid}
        assert "Traceback" not in agent.log.read_text()


@pytest.mark.require("root", "bpf", "tcx")
def test_3_agent_not_authenticated(world: World) -> None:
    """Authentication is the first frame of every connection; told that it is not authenticated, it authenticates."""
    with (
        strange_gateway(world) as gate,
        running_agent(world, options=V1.format(url=gate.url, orders="refuse")) as agent,
    ):
        eventually(lambda: state(agent)["state"] == "connected", "the agent did not connect")
        (uid,) = gate.agents
        gate.say_error(uid, "agent not authenticated")
        beats = len(gate.heartbeats)
        eventually(lambda: len(gate.heartbeats) > beats, "it beats no more", 30)
        gate.cut()
        eventually(lambda: gate.connections >= 2 and state(agent)["state"] == "connected", "gone", 30)
        assert all(peer.channels[0] == "auth" for peer in gate.peers)
        assert list(gate.agents) == [uid]
        assert "agent not authenticated" not in gate.errors[1:]


@pytest.mark.require("root", "bpf", "tcx")
def test_4_signatures_verify_on_both_sides(world: World, tmp_path: Path) -> None:
    """Over the nonce's bytes, not its text: the deployed gateway takes ours, and ours takes nothing else."""
    with (
        strange_gateway(world) as gate,
        running_agent(world, options=V1.format(url=gate.url, orders="refuse")) as agent,
    ):
        eventually(lambda: state(agent)["state"] == "connected", "the agent did not connect")
        assert gate.completions == 1
        assert gate.errors == []
    with gateway(tmp_path) as ours:
        wrong = StrangeAgent(ours.url, "text-signer")
        wrong.dial()
        wrong.authenticate()
        wrong._frame(
            "request",
            "agent.registration",
            {"agent_pubkey": b64(wrong.public), "host_id": wrong.name, "capabilities": {}},
        )
        init = wrong._raw("agent.registration", ("registration_id", "nonce", "server_time"))
        text = (init["nonce"] + init["server_time"] + wrong.name).encode()
        assert base64.b64decode(init["nonce"]) not in text
        wrong._frame(
            "request",
            "agent.registration.complete",
            {
                "registration_id": init["registration_id"],
                "host_id": wrong.name,
                "signature": b64(wrong.signer.sign(text).signature),
            },
        )
        with pytest.raises(Died):
            wrong._raw("agent.registration.complete", ("agent_uid",))
        assert ours.agents() == {}
        right = StrangeAgent(ours.url, "byte-signer")
        right.connect()
        assert list(ours.agents()) == [right.uid]


@pytest.mark.require("root", "bpf", "tcx")
def test_5_registration_ends(world: World) -> None:
    """Once for a key: not at a reconnect, not at a restart; again only where the gateway has forgotten, and as the same."""
    with strange_gateway(world) as gate:
        options = V1.format(url=gate.url, orders="refuse")
        uids = set()
        for _ in range(3):
            with running_agent(world, options=options) as agent:
                eventually(lambda: state(agent)["state"] == "connected", "the agent did not connect")
                uids.add(agent.ask("status")[0]["agent"]["uid"])
                connections = gate.connections
                gate.cut()
                eventually(lambda: gate.connections > connections, "it did not come back", 30)  # noqa: B023
        assert gate.completions == 1
        assert uids == set(gate.agents)
