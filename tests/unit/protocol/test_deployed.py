"""What the deployed agent needs of our gateway, bugs of the deployed programs that ours do not have, and what was seen.

Names: `needs` section 8, `bug` section 9 by its id, `seen` section 10 by its number, `weakness` the W table.
"""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest

from aegis.errors import SessionMisused
from aegis.protocol import canonical, v1
from aegis.protocol.agent import Phase
from aegis.protocol.agent_happenings import Authenticated, Closed, Order, Refused
from aegis.protocol.crypto import is_sound, verifies
from aegis.protocol.gateway_happenings import Heartbeat, RegistrationProven
from aegis.protocol.registration import Registrations
from tests.support.deployed import DeployedAgent, DeployedGateway, b64, packed, unb64
from tests.support.sessions import WALL, Gateway, Pair, agent_session, channels_of, entropy
from tests.support.stages import GATEWAY, UID, Stage, codes, inner, opened, push, up

# ---- section 8, a row each


def test_needs_frames_without_nonce_and_signature_and_a_nonce_of_15_bytes() -> None:
    stage = Stage().register()
    beat = json.loads(stage.agent.heartbeat())
    assert len(unb64(beat["nonce"])) == 15
    assert stage.say(json.dumps(beat)) == [Heartbeat(UID)]


def test_needs_one_frame_for_each_request_and_nothing_between() -> None:
    stage = Stage()
    heard = []
    stage.say(stage.agent.authentication())
    heard.append(stage.heard())
    stage.agent.take_auth(*heard[0])
    stage.say(stage.agent.heartbeat())  # the deployed one's comes before its registration
    heard.append(stage.heard())
    stage.say(stage.agent.registration())
    heard.append(stage.heard())
    stage.say(stage.agent.completion(stage.agent.take_offer(*heard[2])))
    heard.append(stage.heard())
    assert [len(each) for each in heard] == [1, 0, 1, 1]
    assert channels_of([frame for each in heard for frame in each]) == [
        "auth", "agent.registration", "agent.registration.complete"
    ]  # fmt: skip
    assert stage.shared.store == {stage.agent.key: (UID, False)}


def test_needs_auth_in_base64_and_registration_raw() -> None:
    stage = Stage()
    stage.say(stage.agent.authentication())
    (frame,) = stage.heard()
    assert inner(frame)["success"]
    stage.agent.take_auth(frame)
    stage.say(stage.agent.registration())
    assert json.loads(*stage.heard())["payload"].startswith("{")


def test_needs_long_tokens_and_a_session_that_lasts() -> None:
    stage = Stage()
    stage.say(stage.agent.authentication())
    answer = stage.agent.take_auth(*stage.heard())  # dies of a short one
    assert answer["expires_at"] == WALL + 24 * 3600


def test_needs_twelve_bytes_of_nonce_on_every_frame() -> None:
    stage = Stage().authenticate()
    frames = []
    for frame in (
        "{",
        stage.agent.frame("request", "nothing", {}),
        stage.agent.registration(agent_pubkey="x"),
    ):
        stage.say(frame)
        frames += stage.heard()
    stage.say(stage.agent.registration())
    frames += stage.heard()
    stage.say(stage.agent.completion(stage.agent.take_offer(frames[-1])))
    frames += stage.heard()
    assert len(frames) == 5
    assert {len(unb64(json.loads(each)["nonce"])) for each in frames} == {12}
    for each in frames[:3]:
        assert stage.agent.take(each) is None  # dropped, and it lives


def test_needs_sealed_frames_afterwards() -> None:
    stage = Stage().register()
    policy = {
        "action": "deploy_policy",
        "policy_id": "p",
        "policy_config": {"target": "10.0.0.1", "port": "443"},
    }
    frame = stage.session.push("backend.policies", policy, message_id="m", wall_s=WALL)
    assert stage.agent.take(frame) == policy


def test_needs_a_reconnect_with_its_uid_in_the_header_and_its_first_id_in_the_payload() -> None:
    stage = Stage().register()
    again = Stage(stage.agent, stage.shared)
    assert stage.agent.headers()["X-Agent-Id"] == UID
    again.authenticate()
    assert again.say(stage.agent.heartbeat()) == [Heartbeat(UID)]
    assert stage.agent.take(
        again.session.push("backend.policies", {"a": 1}, message_id="m", wall_s=WALL)
    ) == {"a": 1}


def test_needs_many_reconnects_in_a_row() -> None:
    stage = Stage().register()
    for number in range(50):
        again = Stage(stage.agent, stage.shared)
        now_ns = number * 7_000_000_000
        stage.shared.drive(
            again.session, stage.agent.authentication(WALL + 7 * number), now_ns, WALL + 7 * number
        )
        stage.agent.take_auth(*again.heard())
        again.session.gone()
    assert stage.shared.store == {stage.agent.key: (UID, False)}


# ---- section 9: bugs of the gateway


@pytest.mark.parametrize("size", [0, 10, 31, 33, 4096])
def test_bug_g1_a_key_of_another_length(size: int) -> None:
    stage = Stage()
    text = b64(bytes(range(1, 250))[:size] or b"")
    assert codes(stage.say(stage.agent.authentication(public_key=text)))
    assert stage.session.phase.value == "unauthenticated"


def test_bug_g2_a_failed_login_lets_nobody_in() -> None:
    stage = Stage()
    stage.say(stage.agent.authentication(signature=b64(bytes(64))))
    assert codes(stage.say(stage.agent.registration())) == ["not_authenticated"]


def test_bug_g3_nothing_is_completed_before_authentication() -> None:
    stage = Stage().authenticate()
    stage.say(stage.agent.registration())
    frame = json.loads(stage.agent.completion(stage.agent.take_offer(*stage.heard())))
    stranger = Stage(stage.agent, stage.shared)
    for channel in ("registration.complete", "agent.registration.complete"):
        assert codes(stranger.say(json.dumps(frame | {"channel": channel}))) == ["not_authenticated"]
    assert stage.shared.store == {}


def test_bug_g5_nobody_is_pushed_to_before_it_is_authenticated_and_registered() -> None:
    victim = Stage().register()
    thief = Stage(DeployedAgent(bytes(32), "thief"), victim.shared, headers={"X-Agent-Id": UID})
    with pytest.raises(SessionMisused):
        thief.session.push("backend.policies", {}, message_id="m", wall_s=WALL)
    thief.register()
    assert thief.session.uid != UID


def test_bug_g7_no_key_stream_is_used_twice() -> None:
    stage = Stage().register()
    frames = [
        stage.session.push("backend.policies", {"a": 1}, message_id="m", wall_s=WALL) for _ in range(100)
    ]
    assert len({json.loads(each)["payload"] for each in frames}) == 100


def test_bug_g8_errors_are_made_by_an_encoder() -> None:
    stage = Stage().authenticate()
    stage.say(json.dumps({"channel": '","code":0,"x":"\n\0'}))
    body = json.loads(json.loads(*stage.heard())["payload"])
    assert (body["code"], body["message"]) == (4002, 'no handler for channel: ","code":0,"x":"\n\0')


def test_bug_g9_tokens_are_not_made_from_a_constant() -> None:
    shared = Gateway()
    tokens = set()
    for number in range(5):
        stage = Stage(DeployedAgent(bytes([number]) * 32), shared)
        stage.say(stage.agent.authentication())
        tokens.add(stage.agent.take_auth(*stage.heard())["session_token"])
    assert len(tokens) == 5


def test_bug_g10_a_channel_belongs_to_its_connection() -> None:
    stage = Stage().register()
    assert codes(
        stage.say(stage.agent.frame("event", "agent.other.status", {"kind": "state", "state": {}}))
    ) == ["other_agent"]


def test_bug_p3_registrations_end_are_bounded_and_bound() -> None:
    """A registration expires, the table has a size, and key, host and holder are those it began with."""
    table = Registrations(entropy=entropy(), capacity=5)
    stage = Stage()
    from aegis.protocol.payloads import RegistrationInit

    for number in range(20):
        table.begin(
            RegistrationInit(agent_pubkey=stage.agent.key_text), holder=str(number), now_ns=0, wall_s=WALL
        )
    assert len(table) == 5


# ---- section 9: bugs of the agent


@pytest.mark.parametrize("size", [0, 11, 13, 24])
def test_bug_a1_a_nonce_of_another_length_kills_nobody(size: int) -> None:
    session = up()
    frame = json.dumps(json.loads(push(session, "backend.modules", {})) | {"nonce": b64(bytes(size))})
    assert [type(each) for each in session.receive(frame, 0, WALL)] == [Refused]
    assert session.phase is Phase.UP


@pytest.mark.parametrize("token", ["", "abc", None])
def test_bug_a5_short_tokens_kill_nobody(token: str | None) -> None:
    session = opened()
    changed: dict[str, Any] = {} if token is None else {"session_token": token}
    assert isinstance(session.receive(GATEWAY.auth(**changed), 0, WALL)[0], Authenticated)
    session.receive(GATEWAY.offer(), 0, WALL)
    session.receive(GATEWAY.reply(bootstrap_token=token or ""), 0, WALL)
    assert session.phase is Phase.UP


def test_bug_a6_the_key_is_the_callers_and_stays() -> None:
    assert agent_session().public_key == agent_session(entropy=entropy(99)).public_key


# ---- section 10


def test_seen_1_small_order_keys_and_forged_signatures() -> None:
    small = bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05")
    assert not is_sound(small)
    stage = Stage()
    forged = b64((1).to_bytes(32, "little") + bytes(32))
    assert codes(stage.say(stage.agent.authentication(public_key=b64(small), signature=forged)))


def test_seen_2_registration_comes_late_and_scattered() -> None:
    waits = set()
    for number in range(20):
        session = opened(registration_delay_s=2.0, entropy=entropy(number * 1000))
        session.receive(GATEWAY.auth(), 0, WALL)
        assert session.phase is Phase.DELAYED
        waits.add(session.next_deadline())
    assert len(waits) == 20


def test_seen_6_completion_is_bound_to_connection_key_and_host() -> None:
    shared = Gateway()
    mine = Stage(shared=shared).authenticate()
    mine.say(mine.agent.registration())
    offer = mine.agent.take_offer(*mine.heard())
    thief = Stage(DeployedAgent(bytes(32)), shared).authenticate()
    assert codes(thief.say(mine.agent.completion(offer))) == ["registration_refused"]
    assert codes(mine.say(DeployedAgent(bytes(32)).completion(offer))) == ["registration_refused"]
    assert codes(mine.say(mine.agent.completion(offer, host_id="other"))) == ["registration_refused"]
    assert isinstance(mine.say(mine.agent.completion(offer))[0], RegistrationProven)


def test_seen_8_text_with_nul_and_quotes() -> None:
    stage = Stage().authenticate()
    stage.say('{"channel":"\\u0000\\"\\ud83d\\ude00"}')
    assert json.loads(json.loads(*stage.heard())["payload"])["message"].endswith('\0"\U0001f600')


def test_seen_10_no_error_frame_after_registration() -> None:
    stage = Stage().register()
    for bad in (
        "{",
        "null",
        '{"channel":"x"}',
        stage.agent.frame("request", "agent.x.status", {}),
        "x" * 1000,
    ):
        assert len(codes(stage.say(bad))) == 1
    assert stage.heard() == []


@pytest.mark.parametrize("uid", ["a.b", "a b", "x\r\ny: z", "", "x" * 65])
def test_seen_11_no_uid_is_taken_that_is_none(uid: str) -> None:
    session = opened()
    for frame in (GATEWAY.auth(), GATEWAY.offer()):
        session.receive(frame, 0, WALL)
    assert [type(each) for each in session.receive(GATEWAY.reply(agent_uid=uid), 0, WALL)] == [Closed]


def test_seen_12_no_phantom_agent() -> None:
    session = agent_session(registration_delay_s=0)
    session.opened(0, WALL)
    frames = session.outgoing()
    for frame in (GATEWAY.auth(), GATEWAY.offer()):
        session.receive(frame, 0, WALL)
        frames += session.outgoing()
    assert not any("heartbeat" in each for each in channels_of(frames))
    stage = Stage().authenticate()
    assert stage.say(stage.agent.heartbeat()) == [Heartbeat(None)]
    assert stage.shared.store == {}


# ---- the W table, what can be done without a change of the wire


def test_weakness_3_signing_nonces_are_random() -> None:
    pair = Pair().pump().wait(200)
    nonces = [json.loads(each)["nonce"] for each in pair.up if json.loads(each)["nonce"]]
    assert len(nonces) == len(set(nonces)) > 5


def test_weakness_4_the_payload_is_covered_towards_ours() -> None:
    pair = Pair().pump()
    pair.agent.state({"a": 1}, wall_s=WALL)
    said = json.loads(*pair.agent.outgoing())
    said["payload"] = packed({"kind": "state", "state": {"a": 2}})
    assert codes(pair.shared.drive(pair.gateway, json.dumps(said))) == ["signature_invalid"]


@pytest.mark.parametrize("deployed", [True, False])
def test_weakness_5_a_heartbeat_is_no_authentication(deployed: bool) -> None:
    pair = Pair().pump()
    frame = DeployedAgent().heartbeat() if deployed else pair.up[-1]
    said = json.loads(frame)
    who = said["channel"].split(".")[1]
    forged = {
        "agent_id": who,
        "public_key": b64(pair.agent.public_key),
        "timestamp": said["timestamp"],
        "nonce": said["nonce"],
        "signature": said["signature"],
    }
    text = canonical.authentication(who, b64(pair.agent.public_key), said["timestamp"], said["nonce"])
    assert verifies(pair.agent.public_key, unb64(said["signature"]), text)  # the wire has this
    other = Gateway()
    session = other.connect(pair.agent.headers())
    session.opened(0)
    assert codes(other.drive(session, DeployedAgent().frame("request", "auth", forged))) == [
        "authentication_failed"
    ]


def test_weakness_6_registration_signs_no_text_of_the_gateways_choice() -> None:
    victim = DeployedAgent()
    oracle = f"x:{victim.key_text}:{WALL}:"
    for changed in (
        {"nonce": b64(oracle.encode())},
        {"nonce": b64(oracle.encode()[:32]), "server_time": oracle[32:]},
    ):
        session = opened()
        session.receive(GATEWAY.auth(), 0, WALL)
        session.outgoing()
        assert [type(each) for each in session.receive(GATEWAY.offer(**changed), 0, WALL)] == [Closed]
        assert session.outgoing() == []
    # A nonce of a lawful size and a lawful time hold no colon where an authentication has one.
    assert not re.search(":[A-Za-z0-9+/]{43}=:", "2026-01-01T00:00:00.123456789+00:00")


def test_weakness_8_a_registration_is_of_one_gateway_and_one_time() -> None:
    stage = Stage().authenticate()
    stage.say(stage.agent.registration())
    first = stage.agent.take_offer(*stage.heard())
    stage.say(stage.agent.registration())
    stage.heard()
    assert codes(stage.say(stage.agent.completion(first))) == ["registration_refused"]


def test_weakness_9_a_replay_is_refused_for_ten_minutes_and_too_old_after_five() -> None:
    stage = Stage()
    frame = stage.agent.authentication()
    stage.say(frame)
    for later_s in (1, 299, 301, 599, 3600):
        again = stage.shared.connect(stage.agent.headers())
        now_ns = later_s * 1_000_000_000
        again.opened(now_ns)
        assert codes(stage.shared.drive(again, frame, now_ns, WALL + later_s)) == ["authentication_failed"]


def test_weakness_16_no_secret_is_in_what_is_printed() -> None:
    pair = Pair().pump()
    tokens = [
        inner(pair.down[0])["session_token"],
        json.loads(json.loads(pair.down[2])["payload"])["bootstrap_token"],
    ]
    text = repr(pair.agent_heard) + repr(pair.gateway_heard)
    assert all(len(token) >= 20 and token not in text for token in tokens)


def test_weakness_19_registration_needs_authentication() -> None:
    stage = Stage()
    assert codes(stage.say(stage.agent.registration())) == ["not_authenticated"]


def test_a_deployed_gateway_and_our_agent_to_the_first_order() -> None:
    gateway, session = DeployedGateway(), agent_session(registration_delay_s=0)
    session.opened(0, WALL)
    for frame in (gateway.auth(late=1), gateway.offer(), gateway.reply()):
        session.receive(frame, 0, WALL)
    (order,) = session.receive(
        gateway.push(session.public_key, "backend.policies", {"action": "ping"}), 0, WALL
    )
    assert isinstance(order, Order)
    assert base64.b64encode(session.public_key).decode() == DeployedAgent().key_text
    assert v1.ID.fullmatch(session.uid or "")
