"""The 44 contradictions between the documents and the deployed programs, a test a row, named after it.

Each test says the row's topic. Rows that are about more than the protocol's core are proven where `ELSEWHERE` says.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from aegis.errors import OrderUnknown, PolicyUnenforceable
from aegis.model.block import BlockClass
from aegis.protocol import channels, orders, upgrade, v1
from aegis.protocol.agent import AgentIdentity, Phase
from aegis.protocol.agent_happenings import (
    Authenticated,
    Closed,
    GatewayUnproven,
    Order,
    PeerError,
    Registered,
)
from aegis.protocol.channels import Up
from aegis.protocol.gateway_happenings import Heartbeat, Ignored, RegistrationBegun, RegistrationProven
from tests.support.deployed import DeployedAgent, DeployedGateway, b64, packed, unb64
from tests.support.sessions import SECOND, WALL, Pair, agent_session, channels_of
from tests.support.stages import BOOT, GATEWAY, UID, Stage, codes, error_of, inner, opened, push, up

ROOT = Path(__file__).resolve().parents[3]
ROWS = range(1, 45)

# Row to the test file that proves it, and what it says there.
ELSEWHERE: dict[int, tuple[str, str]] = {
    3: ("tests/unit/gateway/test_websocket.py", "/health and /healthz on the gateway's port"),
    36: ("tests/unit/agent/test_options.py", "which modules are enabled by default"),
    39: ("tests/unit/gateway/api/test_registration.py", "registration over HTTP keeps platform and network"),
    40: ("tests/e2e/test_agent_control_socket.py", "no HTTP server in the agent: a unix socket"),
    41: ("tests/unit/gateway/test_admission.py", "limits by connection, host and time"),
    42: ("tests/unit/gateway/api/test_agents.py", "members of the list of agents"),
    43: ("tests/e2e/test_agent_shutdown.py", "a stop that is said twice"),
}


def test_row_01_upgrade_headers() -> None:
    assert set(agent_session().headers()) == {"X-Agent-ID", "X-Agent-Public-Key", "User-Agent"}
    document = [("agentID", "host-1"), ("publicKey", GATEWAY_KEY_TEXT), ("User-Agent", "Aegis-Agent/1.0")]
    assert isinstance(upgrade.check(document), upgrade.Upgrade)
    refused = upgrade.check([("User-Agent", "Aegis-Agent/1.0")])
    assert refused == upgrade.UpgradeRefused(status=400, text=v1.MISSING_HEADERS)


GATEWAY_KEY_TEXT = b64(GATEWAY.key)


def test_row_02_user_agent() -> None:
    assert agent_session().headers()["User-Agent"] == "Aegis-Agent/1.0"
    headers = agent_session().headers() | {"User-Agent": "AegisFlux-Agent/1.0.0"}
    assert upgrade.check(headers.items()) == upgrade.UpgradeRefused(status=400, text="Invalid user agent")
    assert isinstance(upgrade.check(headers.items(), any_user_agent=True), upgrade.Upgrade)


def test_row_04_first_message() -> None:
    session = agent_session()
    session.opened(0, WALL)
    assert channels_of(session.outgoing()) == ["auth"]
    stage = Stage()
    assert stage.session.next_deadline() == 5 * SECOND
    stage.authenticate()
    assert stage.session.next_deadline() == 60 * SECOND


def test_row_05_keep_alive_is_a_data_frame() -> None:
    pair = Pair().pump().wait(300)
    assert pair.gateway.close_reason is None
    beats = [each for each in pair.gateway_heard if isinstance(each, Heartbeat)]
    assert len(beats) == 16
    stage = Stage().register()
    stage.session.alive(59 * SECOND)  # a ping: ours is kept by it, and answered by the driver
    assert stage.session.tick(60 * SECOND) == []


def test_row_06_heartbeat_period() -> None:
    assert up().next_deadline() == 20 * SECOND
    assert up(heartbeat_s=7).next_deadline() == 7 * SECOND


def test_row_07_heartbeat_channel() -> None:
    session = up()
    session.tick(20 * SECOND, WALL)
    assert channels_of(session.outgoing()) == [f"agent.{UID}.heartbeat"]
    stage = Stage().authenticate()
    assert codes(stage.say(stage.agent.frame("heartbeat", "", "e30="))) == ["unknown_channel"]
    assert error_of(*stage.heard()) == "no handler for channel: "
    assert codes(stage.say('{"type":"heartbeat","payload":"e30="}')) == ["envelope_invalid"]


def test_row_08_heartbeat_payload() -> None:
    session = up()
    session.tick(20 * SECOND, WALL)
    assert inner(*session.outgoing()) == {}
    stage = Stage().register()
    for payload in ("e30=", packed({"cpu": 1}), "{}", "\x01"):
        frame = json.dumps(json.loads(stage.agent.heartbeat()) | {"payload": payload})
        assert stage.say(frame) == [Heartbeat(UID)]


def test_row_09_no_reply_to_a_heartbeat() -> None:
    stage = Stage().authenticate()
    stage.say(stage.agent.heartbeat())
    assert stage.heard() == []
    stage.register_now()
    stage.say(stage.agent.heartbeat())
    assert stage.heard() == []


def test_row_10_ids_without_dots() -> None:
    with pytest.raises(ValueError, match="agent id"):
        AgentIdentity(bytes(32), "my.host")
    stage = Stage(DeployedAgent(agent_id="my.host"), headers={"X-Agent-Id": "x"})
    assert codes(stage.say(stage.agent.authentication())) == ["authentication_failed"]


def test_row_11_auth_payload_fields() -> None:
    session = agent_session()
    session.opened(0, WALL)
    (frame,) = session.outgoing()
    assert list(inner(frame)) == ["agent_id", "public_key", "timestamp", "nonce", "signature"]
    assert json.loads(frame)["type"] == "request"


def test_row_12_neither_nonce_nor_signature_around_auth() -> None:
    session = agent_session()
    session.opened(0, WALL)
    said = json.loads(session.outgoing()[0])
    assert (said["nonce"], said["signature"]) == ("", "")
    stage = Stage()
    frame = json.loads(stage.agent.authentication())
    assert not {"nonce", "signature"} & set(frame)
    assert stage.say(json.dumps(frame))


def test_row_13_auth_signature_text() -> None:
    session = agent_session()
    session.opened(0, WALL)
    said = inner(*session.outgoing())
    text = f"host-1:{said['public_key']}:{WALL}:{said['nonce']}"
    DeployedAgent().signing.verify_key.verify(text.encode(), unb64(said["signature"]))


def test_row_14_auth_answer_is_base64_of_json_with_success() -> None:
    stage = Stage()
    stage.say(stage.agent.authentication())
    (frame,) = stage.heard()
    assert inner(frame)["success"] is True
    assert isinstance(opened().receive(GATEWAY.auth(), 0, WALL)[0], Authenticated)


def test_row_15_success_decides() -> None:
    session = opened()
    (closed,) = session.receive(GATEWAY.auth(success=False, message="Invalid signature"), 0, WALL)
    assert (type(closed), session.phase) == (Closed, Phase.CLOSED)
    stage = Stage(attempts=2)
    stage.say(stage.agent.authentication(signature="x"))
    assert codes(stage.say(stage.agent.registration()))[0] == "not_authenticated"
    assert stage.session.close_reason is not None


def test_row_16_the_key_binds_and_either_id_will_do() -> None:
    stage = Stage(headers={"X-Agent-Id": UID})
    assert stage.say(stage.agent.authentication())[0].agent_id == "host-1"
    other = Stage(headers={"X-Agent-Public-Key": DeployedAgent(bytes(32)).key_text})
    assert codes(other.say(other.agent.authentication())) == ["authentication_failed"]


@pytest.mark.parametrize(
    ("skew", "holds"), [(-301, False), (-300, True), (300, True), (301, False), (1 - WALL, False)]
)
def test_row_17_timestamp_skew(skew: int, holds: bool) -> None:
    stage = Stage()
    assert (codes(stage.say(stage.agent.authentication(WALL + skew))) == []) is holds


def test_row_18_nonce_replay() -> None:
    stage = Stage()
    frame = stage.agent.authentication(nonce="sixteen letters.")
    assert codes(stage.say(frame)) == []
    again = Stage(stage.agent, stage.shared)
    assert codes(again.say(frame)) == ["authentication_failed"]
    assert codes(again.say(stage.agent.authentication(nonce="Sixteen letters."))) == []


def test_row_19_session_token() -> None:
    stage = Stage()
    stage.say(stage.agent.authentication())
    assert len(inner(*stage.heard())["session_token"]) >= 20
    session = opened()
    session.receive(GATEWAY.auth(session_token="short"), 0, WALL)
    assert session.phase is Phase.REGISTERING


@pytest.mark.parametrize("name", ["agent_pubkey", "public_key"])
def test_row_20_registration_key_field(name: str) -> None:
    session = opened()
    session.receive(GATEWAY.auth(), 0, WALL)
    assert "agent_pubkey" in inner(*session.outgoing())
    stage = Stage().authenticate()
    said = {"agent_pubkey": None, name: stage.agent.key_text}
    assert isinstance(stage.say(stage.agent.registration(**said))[0], RegistrationBegun)


@pytest.mark.parametrize("capabilities", [{}, [], ["ebpf", "ws"], {"ebpf": True}])
def test_row_21_capabilities(capabilities: object) -> None:
    session = opened()
    session.receive(GATEWAY.auth(), 0, WALL)
    assert inner(*session.outgoing())["capabilities"] == {"aegis": {"v": 1}}
    stage = Stage().authenticate()
    assert isinstance(stage.say(stage.agent.registration(capabilities=capabilities))[0], RegistrationBegun)


@pytest.mark.parametrize("encoded", [False, True])
def test_row_22_registration_reply_encoding(encoded: bool) -> None:
    session = opened()
    session.receive(GATEWAY.auth(), 0, WALL)
    heard: list[Any] = []
    for frame in (GATEWAY.offer(), GATEWAY.reply()):
        said = json.loads(frame)
        if encoded:
            said["payload"] = b64(said["payload"].encode())
        heard += session.receive(json.dumps(said), 0, WALL)
    assert heard == [Registered(uid=UID, fresh=True)]
    stage = Stage().authenticate()
    stage.say(stage.agent.registration())
    assert json.loads(json.loads(*stage.heard())["payload"])["server_time"]


def test_row_23_completion_channel() -> None:
    session = opened()
    for frame in (GATEWAY.auth(), GATEWAY.offer()):
        session.receive(frame, 0, WALL)
    assert channels_of(session.outgoing())[-1] == "agent.registration.complete"
    stage = Stage()
    alias = {"registration_id": "x", "host_id": "y", "signature": "z"}
    assert codes(stage.say(stage.agent.frame("request", "registration.complete", alias))) == [
        "not_authenticated"
    ]
    stage = Stage().authenticate()
    stage.say(stage.agent.registration())
    frame = json.loads(stage.agent.completion(stage.agent.take_offer(*stage.heard()))) | {
        "channel": "registration.complete"
    }
    assert codes(stage.say(json.dumps(frame | {"type": "event"}))) == ["unknown_channel"]
    stage.heard()
    assert isinstance(stage.say(json.dumps(frame))[0], RegistrationProven)
    assert channels_of(stage.heard()) == ["agent.registration.complete"]


def test_row_24_completion_signs_the_bytes_of_the_nonce() -> None:
    session = opened()
    for frame in (GATEWAY.auth(), GATEWAY.offer()):
        session.receive(frame, 0, WALL)
    said = inner(session.outgoing()[-1])
    wanted = "8AXfwWRgbD9jSvsMN7eS6ZQyYCOk/uZ8/tln09Gh7iAy1m8iEHuSq6yxanhDm5ERgHVyB89VZ8iuKnCqu/C5Cg=="
    assert said["signature"] == wanted
    stage = Stage().authenticate()
    stage.say(stage.agent.registration())
    offer = stage.agent.take_offer(*stage.heard())
    text = f"{offer['nonce']}{offer['server_time']}host-1"  # as some documents have it
    of_text = b64(stage.agent.signing.sign(text.encode()).signature)
    assert codes(stage.say(stage.agent.completion(offer, signature=of_text))) == ["registration_refused"]
    assert isinstance(stage.say(stage.agent.completion(offer))[0], RegistrationProven)


def test_row_25_completion_reply() -> None:
    stage = Stage().authenticate()
    stage.say(stage.agent.registration())
    stage.say(stage.agent.completion(stage.agent.take_offer(*stage.heard())))
    said = json.loads(json.loads(*stage.heard())["payload"])
    assert set(said) == {"agent_uid", "bootstrap_token"}
    assert len(said["bootstrap_token"]) >= 20


def test_row_26_uid() -> None:
    stage = Stage().register()
    assert stage.agent.uid == "agent-" + hashlib.sha256(stage.agent.key).hexdigest()[:16] == UID
    assert agent_session().headers()["X-Agent-ID"] == UID
    assert up(uid="6f1c0a39-6c8c-4f1e-8f0e-2a4d6a1d0c11").uid == UID  # opaque: the gateway's word


def test_row_27_nothing_is_sealed_towards_the_gateway() -> None:
    pair = Pair().pump()
    pair.agent.batch(BlockClass.EVENT, stream=1, first=0, boot_id=BOOT, items_json=b'[{"a":1}]', wall_s=WALL)
    pair.pump()
    assert all(isinstance(inner(frame), dict) for frame in pair.up)
    assert inner(pair.up[-1])["items"] == [{"a": 1}]


def test_row_28_key_derivation() -> None:
    agent = DeployedAgent()
    shared = hashlib.sha256(agent.key + GATEWAY.key).hexdigest()
    assert shared == "0a70edcdbe01865f976fcd6793291f06f6daaaf955252bc0a3b54fc4b448e5a3"
    (order,) = up().receive(GATEWAY.push(agent.key, "backend.modules", {"a": 1}), 0, WALL)
    assert isinstance(order, Order)
    stage = Stage().register()
    assert stage.agent.take(stage.session.push("backend.modules", {"a": 1}, message_id="m", wall_s=WALL)) == {
        "a": 1
    }


def test_row_29_message_nonce() -> None:
    stage = Stage().register()
    frames = [stage.session.push("backend.policies", {}, message_id="m", wall_s=WALL) for _ in range(20)]
    nonces = {json.loads(each)["nonce"] for each in frames}
    assert {len(unb64(each)) for each in nonces} == {12}
    assert len(nonces) == 20
    session = up()
    said = json.loads(push(session, "backend.modules", {}))
    for size in (11, 13):
        frame = json.dumps(said | {"nonce": b64(b"message_nonce"[:size])})
        assert codes(list(session.receive(frame, 0, WALL))) == ["envelope_invalid"]


def test_row_30_inner_encoding_of_pushes() -> None:
    from nacl.bindings import crypto_aead_chacha20poly1305_ietf_encrypt as encrypt

    session = up()
    shared = hashlib.sha256(session.public_key + GATEWAY.key).digest()
    for text in (b'{"a":1}', base64.b64encode(b'{"a":1}')):
        said = json.loads(push(session, "backend.modules", {}))
        said["payload"] = b64(encrypt(text, None, GATEWAY.NONCE, shared))
        (order,) = session.receive(json.dumps(said), 0, WALL)
        assert isinstance(order, Order)
        assert order.body == {"a": 1}


def test_row_31_message_signature() -> None:
    session = up()
    session.tick(20 * SECOND, WALL)
    said = json.loads(*session.outgoing())
    text = f"{UID}:{b64(session.public_key)}:{WALL}:{said['nonce']}"
    DeployedAgent().signing.verify_key.verify(text.encode(), unb64(said["signature"]))
    pushed = json.loads(push(session, "backend.modules", {"a": 1}))
    assert pushed["signature"] == ""
    assert isinstance(session.receive(json.dumps(pushed), 0, WALL)[0], Order)


def test_row_32_error_payload() -> None:
    session = up()
    text = 'failed: "quoted\n'
    assert session.receive(GATEWAY.error(text), 0, WALL) == [PeerError(text='failed: "quoted')]
    stage = Stage().authenticate()
    stage.say('{"channel":"a \\"quoted\\" name"}')
    assert error_of(*stage.heard()) == 'no handler for channel: a "quoted" name'  # and 12 bytes of nonce


@pytest.mark.parametrize("form", ["backend.policies", f"backend.{UID}.policies", f"agent.{UID}.policies"])
def test_row_33_push_channels(form: str) -> None:
    session = up()
    assert isinstance(session.receive(push(session, form, {}), 0, WALL)[0], Order)
    stage = Stage().register()
    frame = stage.session.push(channels.POLICIES, {"a": 1}, message_id="m", wall_s=WALL)
    assert json.loads(frame)["channel"] == "backend.policies"


def test_row_34_policy_action_word() -> None:
    command = orders.parse(
        "policies", {"action": "deploy_policy", "policy_config": {"target": "10.0.0.1"}}, wall_s=WALL
    )
    assert isinstance(command, orders.ApplyPolicy)
    flat = {"type": "policy_deployment", "action": "deploy", "policy_id": "p", "target_ip": "10.0.0.1"}
    assert isinstance(orders.parse("policies", flat, wall_s=WALL), orders.ApplyPolicy)
    with pytest.raises(PolicyUnenforceable, match="variant c"):
        orders.parse("policies", {"action": "withdraw", "policy_id": "p"}, wall_s=WALL)
    with pytest.raises(OrderUnknown):
        orders.parse("policies", {"action": "deploy"}, wall_s=WALL)


def test_row_35_module_control() -> None:
    """That a module then starts and stops is `tests/unit/agent/link` and the end-to-end tests."""
    pair = Pair().pump()
    message = {"type": "stop_module", "module_id": "telemetry", "command_id": "c1"}
    (order,) = pair.give(pair.gateway.push(channels.MODULES, message, message_id="m1", wall_s=WALL))
    assert isinstance(order, Order)
    assert orders.parse(order.channel, order.body, wall_s=WALL) == orders.StopModule("telemetry")
    pair.agent.answer(order.command_id, ok=True, wall_s=WALL)
    assert getattr(pair.pump().gateway_heard[-1], "in_reply_to", None) == "c1"


def test_row_37_telemetry_channels() -> None:
    assert {each.value for each in Up} == {
        "heartbeat", "policies", "anomalies", "threats", "processes", "status", "logs"
    }  # fmt: skip
    stage = Stage().register()
    for kind in Up:
        if kind is not Up.HEARTBEAT:
            frame = stage.agent.frame("event", channels.up(UID, kind), {"cpu": 1})
            assert stage.say(frame) == [Ignored(channel=f"agent.{UID}.{kind}")]
    for other in ("telemetry", "tests", "rollbacks", "dependencies"):
        assert codes(stage.say(stage.agent.frame("event", f"agent.{UID}.{other}", {}))) == ["unknown_channel"]


def test_row_38_reconnect_keeps_the_identity() -> None:
    first = Pair().pump()
    assert channels_of(first.up).count("agent.registration") == 1
    for reregister in (False, True):  # ours says that it knows the key
        again = agent_session(uid=first.agent.uid, reregister=reregister, entropy=iter_entropy())
        pair = Pair(again, first.shared).pump()
        assert "agent.registration" not in channels_of(pair.up)
        assert again.uid == first.agent.uid
    first.shared.store.clear()  # and that it has forgotten it
    pair = Pair(
        agent_session(uid=first.agent.uid, reregister=False, entropy=iter_entropy()), first.shared
    ).pump()
    assert channels_of(pair.up).count("agent.registration") == 1
    assert pair.agent.uid == first.agent.uid
    deployed = opened(uid=UID, reregister=False)
    assert Registered(uid=UID, fresh=False) in deployed.receive(GATEWAY.auth(), 0, WALL)
    deployed.outgoing()
    deployed.receive(GATEWAY.error("agent not registered"), 0, WALL)
    assert channels_of(deployed.outgoing()) == ["agent.registration"]


def iter_entropy(start: list[int] = [1 << 20]) -> Any:  # noqa: B006  another one at each call
    from tests.support.sessions import entropy

    start[0] += 1 << 10
    return entropy(start[0])


def test_row_44_mutual_authentication() -> None:
    other = DeployedGateway(bytes(32))
    heard = opened(known_gateway_key=GATEWAY.key).receive(other.auth(), 0, WALL)
    assert heard[0] == GatewayUnproven(reason="key_changed", gateway_key=other.key)
    assert isinstance(heard[1], Authenticated)
    assert not any(isinstance(each, GatewayUnproven) for each in opened().receive(GATEWAY.auth(), 0, WALL))


# ---- none is missing


def test_every_row_has_its_test() -> None:
    here = {int(found[1]) for name in globals() if (found := re.match(r"test_row_(\d\d)_", name))}
    assert here | set(ELSEWHERE) == set(ROWS)
    assert not here & set(ELSEWHERE)


@pytest.mark.parametrize("row", ELSEWHERE)
def test_what_is_proven_elsewhere_is_there(row: int) -> None:
    path, said = ELSEWHERE[row]
    assert said
    assert (ROOT / path).exists(), path
