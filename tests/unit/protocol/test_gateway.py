"""The gateway's end: who gets in, what is answered, what is only counted, and when it ends."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from aegis.errors import SessionMisused
from aegis.model.block import BlockClass
from aegis.protocol import payloads, v1
from aegis.protocol.gateway import Phase, push_text
from aegis.protocol.gateway_happenings import (
    Answer,
    Authenticated,
    Batch,
    Closed,
    Heartbeat,
    Ignored,
    Refused,
    RegistrationBegun,
    RegistrationProven,
    State,
)
from tests.support.deployed import DeployedAgent, packed
from tests.support.sessions import (
    SECOND,
    WALL,
    Gateway,
    Pair,
    agent_session,
    channels_of,
    entropy,
)
from tests.support.stages import BOOT, Stage, codes, error_of

# ---- who gets in


def test_the_whole_handshake() -> None:
    stage = Stage()
    (happened,) = stage.say(stage.agent.authentication())
    ((used, _),) = stage.shared.replay.entries(0)
    assert happened == Authenticated(key=stage.agent.key, agent_id="host-1", used=used)
    stage.agent.take_auth(*stage.heard())
    (begun,) = stage.say(stage.agent.registration())
    assert isinstance(begun, RegistrationBegun)
    (proven,) = stage.say(stage.agent.completion(stage.agent.take_offer(*stage.heard())))
    assert isinstance(proven, RegistrationProven)
    assert (proven.key, proven.uid, proven.host_id, proven.ours) == (
        stage.agent.key,
        "agent-56475aa75463474c",
        "host-1",
        False,
    )
    stage.agent.take_reply(*stage.heard())
    assert stage.agent.uid == stage.session.uid == proven.uid
    assert stage.session.phase is Phase.REGISTERED


def test_a_session_is_opened_once_and_hears_nothing_before() -> None:
    shared, agent = Gateway(), DeployedAgent()
    session = shared.connect(agent.headers())
    assert (session.receive(agent.authentication(), 0, WALL), session.next_deadline()) == ([], None)
    session.opened(0)
    with pytest.raises(SessionMisused):
        session.opened(0)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"public_key": "x"}, "Invalid public key format"),
        ({"public_key": base64.b64encode(bytes(10)).decode()}, "Invalid public key format"),
        ({"public_key": base64.b64encode(bytes(33)).decode()}, "Invalid public key format"),
        ({"public_key": base64.b64encode(bytes(32)).decode()}, "Invalid public key format"),
        ({"public_key": DeployedAgent(bytes(32)).key_text}, "Public key mismatch"),
        ({"agent_id": "a.b"}, "Invalid agent id"),
        ({"agent_id": "a:b"}, "Invalid agent id"),
        ({"agent_id": ""}, "Invalid agent id"),
        ({"agent_id": "other"}, "Invalid signature"),
        ({"public_key": DeployedAgent().key_text[:-1] + "=="}, "Invalid public key format"),
        ({"timestamp": WALL + 301}, "Timestamp outside the window"),
        ({"timestamp": WALL - 301}, "Timestamp outside the window"),
        ({"timestamp": 1}, "Timestamp outside the window"),
        ({"signature": "x"}, "Invalid signature"),
        ({"signature": base64.b64encode(bytes(64)).decode()}, "Invalid signature"),
        ({"signature": base64.b64encode(bytes(63)).decode()}, "Invalid signature"),
    ],
)
def test_an_authentication_that_fails_stays_outside(changed: dict[str, Any], text: str) -> None:
    stage = Stage()
    assert codes(stage.say(stage.agent.authentication(**changed))) == ["authentication_failed"]
    (frame,) = stage.heard()
    answer = json.loads(base64.b64decode(json.loads(frame)["payload"]))
    assert (answer["success"], answer["message"], answer["backend_key"], answer["session_token"], answer["expires_at"]) == (
        False, text, "", "", 0
    )  # fmt: skip
    assert stage.session.phase is Phase.UNAUTHENTICATED
    for after in (stage.agent.registration(), stage.agent.heartbeat()):
        assert codes(stage.say(after)) == ["not_authenticated"]


@pytest.mark.parametrize("name", ["timestamp", "nonce", "agent_id", "signature"])
def test_no_signed_member_can_be_changed(name: str) -> None:
    stage = Stage()
    frame = json.loads(stage.agent.authentication())
    said = json.loads(base64.b64decode(frame["payload"]))
    said[name] = WALL + 1 if name == "timestamp" else "A" + said[name][1:]
    assert codes(stage.say(json.dumps(frame | {"payload": packed(said)}))) == ["authentication_failed"]


@pytest.mark.parametrize("skew", [-300, 300])
def test_a_clock_may_be_five_minutes_off(skew: int) -> None:
    stage = Stage()
    (happened,) = stage.say(stage.agent.authentication(WALL + skew))
    assert isinstance(happened, Authenticated)


def test_the_same_authentication_twice() -> None:
    stage = Stage()
    frame = stage.agent.authentication()
    stage.say(frame)
    again = Stage(stage.agent, stage.shared)
    assert codes(again.say(frame)) == ["authentication_failed"]
    answer = json.loads(base64.b64decode(json.loads(again.heard()[0])["payload"]))
    assert answer["message"] == "Nonce used before"
    assert again.say(stage.agent.authentication())


def test_what_failed_does_not_use_up_a_nonce() -> None:
    stage = Stage()
    stage.say(stage.agent.authentication(nonce="n", signature=base64.b64encode(bytes(64)).decode()))
    (happened,) = stage.say(stage.agent.authentication(nonce="n"))
    assert isinstance(happened, Authenticated)


def test_attempts_are_counted_and_the_last_one_closes() -> None:
    stage = Stage(attempts=3)
    for _ in range(2):
        assert len(stage.say(stage.agent.authentication(signature="x"))) == 1
    _, closed = stage.say(stage.agent.authentication(signature="x"))
    assert closed == Closed(code=1008, reason="authentication failed")
    assert len(stage.heard()) == 3
    assert stage.session.close_reason == closed
    assert (stage.say(stage.agent.authentication()), stage.session.next_deadline()) == ([], None)


@pytest.mark.parametrize(
    "frame", ["{", "null", '{"channel":"x"}', b"\0", '{"channel":"registration.complete","type":"request"}']
)
def test_other_frames_before_authentication_are_attempts_too(frame: str | bytes) -> None:
    stage = Stage(attempts=2)
    assert len(stage.say(frame)) == 1
    assert isinstance(stage.say(frame)[1], Closed)
    for each in stage.heard():
        assert error_of(each)


def test_the_key_may_be_proven_and_turned_away() -> None:
    stage = Stage()
    stage.session.receive(stage.agent.authentication(), 0, WALL)
    assert stage.session.turn_away("revoked", WALL) == [Closed(code=1008, reason="revoked")]
    (frame,) = stage.heard()
    answer = json.loads(base64.b64decode(json.loads(frame)["payload"]))
    assert (answer["success"], answer["message"]) == (False, "revoked")


def test_nothing_is_let_in_while_the_driver_decides() -> None:
    stage = Stage()
    stage.session.receive(stage.agent.authentication(), 0, WALL)
    assert codes(stage.session.receive(stage.agent.registration(), 0, WALL)) == ["not_authenticated"]
    stage.session.accept(None, ours=False, now_ns=0, wall_s=WALL)
    with pytest.raises(SessionMisused):
        stage.session.accept(None, ours=False, now_ns=0, wall_s=WALL)
    with pytest.raises(SessionMisused):
        stage.session.turn_away("x", WALL)


def test_it_may_authenticate_again_on_a_connection_that_is_up() -> None:
    stage = Stage().register()
    assert [type(each) for each in stage.say(stage.agent.authentication())] == [Authenticated]
    stage.agent.take_auth(*stage.heard())
    assert stage.session.phase is Phase.REGISTERED
    refused, closed = stage.say(stage.agent.authentication(signature="x"))
    assert (type(refused), closed) == (Refused, Closed(code=1008, reason="authentication failed"))


# ---- time and size


def test_five_seconds_to_authenticate_and_a_minute_of_silence_then() -> None:
    stage = Stage()
    assert stage.session.next_deadline() == 5 * SECOND
    stage.session.alive(4 * SECOND)
    assert stage.session.tick(5 * SECOND - 1) == []
    other = Stage()
    assert other.session.tick(5 * SECOND) == [Closed(code=1008, reason="not authenticated in time")]
    stage.shared.drive(stage.session, stage.agent.authentication(), 4 * SECOND)
    assert stage.session.next_deadline() == 64 * SECOND
    stage.shared.drive(stage.session, stage.agent.heartbeat(), 30 * SECOND)
    assert stage.session.next_deadline() == 90 * SECOND
    stage.session.alive(80 * SECOND)
    assert stage.session.tick(90 * SECOND) == []
    assert stage.session.tick(140 * SECOND) == [Closed(code=1001, reason="nothing heard for too long")]


def test_a_session_holds_for_as_long_as_it_was_told() -> None:
    stage = Stage(session_s=100).register()
    for second in range(10, 100, 10):
        stage.shared.drive(stage.session, stage.agent.heartbeat(), second * SECOND)
    assert stage.session.next_deadline() == 100 * SECOND
    assert stage.session.tick(100 * SECOND - 1) == []
    assert stage.session.tick(100 * SECOND) == [Closed(code=4003, reason="the session expired")]
    assert stage.session.next_deadline() is None


def test_to_authenticate_again_makes_it_longer() -> None:
    stage = Stage(session_s=100).register()
    stage.shared.drive(stage.session, stage.agent.authentication(nonce="another"), 90 * SECOND)
    assert stage.session.phase is Phase.REGISTERED
    stage.session.alive(180 * SECOND)
    assert stage.session.tick(189 * SECOND) == []
    assert stage.session.next_deadline() == 190 * SECOND


@pytest.mark.parametrize("phase", ["before", "after"])
def test_a_frame_too_large_closes(phase: str) -> None:
    stage = Stage()
    most = v1.FRAME_BYTES_BEFORE
    if phase == "after":
        stage.authenticate()
        most = v1.FRAME_BYTES_AFTER
    assert not any(isinstance(each, Closed) for each in stage.say("x" * most))
    assert stage.say("x" * (most + 1)) == [Closed(code=1009, reason=f"a frame of more than {most} bytes")]


def test_errors_are_counted_and_the_last_one_closes() -> None:
    stage = Stage(errors=5).register()
    happened = [each for _ in range(5) for each in stage.say("{")]
    assert happened[-1] == Closed(code=1008, reason="too many refused frames")
    assert len(happened) == 6


# ---- registration


def test_the_key_of_a_registration_is_the_one_of_the_connection() -> None:
    stage = Stage().authenticate()
    other = DeployedAgent(bytes(32))
    assert codes(stage.say(other.registration())) == ["registration_refused"]
    assert error_of(*stage.heard()) == "Actions API error: 400 bad pubkey"


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"agent_pubkey": None}, "missing agent_pubkey in registration data"),
        ({"agent_pubkey": "x"}, "invalid JSON payload: agent_pubkey: is not standard base64 with padding"),
        ({"capabilities": "x"}, "invalid JSON payload: registration: "),
        ({"host_id": "a\nb"}, "Actions API error: 400 bad host_id"),
    ],
)
def test_a_registration_that_is_refused_is_told(changed: dict[str, Any], text: str) -> None:
    stage = Stage().authenticate()
    assert len(codes(stage.say(stage.agent.registration(**changed)))) == 1
    assert error_of(*stage.heard()).startswith(text)


def test_a_completion_is_of_its_connection() -> None:
    stage = Stage().authenticate()
    stage.say(stage.agent.registration())
    offer = stage.agent.take_offer(*stage.heard())
    other = Stage(stage.agent, stage.shared).authenticate()
    assert codes(other.say(stage.agent.completion(offer))) == ["registration_refused"]
    assert error_of(*other.heard()) == "Actions API error: 404 unknown registration"
    assert isinstance(stage.say(stage.agent.completion(offer))[0], RegistrationProven)
    assert codes(stage.say(stage.agent.completion(offer))) == ["registration_refused"]


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"registration_id": "x"}, "Actions API error: 404 unknown registration"),
        ({"host_id": "host-2"}, "Actions API error: 404 unknown registration"),
        ({"signature": "x"}, "Actions API error: 400 bad signature"),
        (
            {"signature": base64.b64encode(bytes(64)).decode()},
            "Actions API error: 401 signature verify failed",
        ),
        ({"signature": ""}, "missing required fields: registration_id, host_id, or signature"),
        ({"host_id": None}, "missing required fields: registration_id, host_id, or signature"),
    ],
)
def test_a_completion_that_is_refused_is_told(changed: dict[str, Any], text: str) -> None:
    stage = Stage().authenticate()
    stage.say(stage.agent.registration())
    offer = stage.agent.take_offer(*stage.heard())
    assert len(codes(stage.say(stage.agent.completion(offer, **changed)))) == 1
    assert error_of(*stage.heard()).startswith(text)
    assert stage.session.uid is None


def test_a_registration_that_cannot_be_stored_is_told() -> None:
    stage = Stage().authenticate()
    stage.say(stage.agent.registration())
    frame = stage.agent.completion(stage.agent.take_offer(*stage.heard()))
    stage.session.receive(frame, 0, WALL)
    assert codes(stage.session.registration_failed("the store is full", WALL)) == ["registration_refused"]
    assert error_of(*stage.heard()) == "Actions API error: 500 the store is full"
    assert stage.session.phase is Phase.AUTHENTICATED
    with pytest.raises(SessionMisused):
        stage.session.registered(WALL)


def test_a_connection_that_is_gone_leaves_no_registration() -> None:
    stage = Stage().authenticate()
    stage.say(stage.agent.registration())
    assert len(stage.shared.registrations) == 1
    stage.session.gone()
    assert len(stage.shared.registrations) == 0
    assert stage.say(stage.agent.heartbeat()) == []


def test_registrations_of_one_connection_are_counted() -> None:
    stage = Stage(registrations=2).authenticate()
    for _ in range(2):
        assert isinstance(stage.say(stage.agent.registration())[0], RegistrationBegun)
    assert isinstance(stage.say(stage.agent.registration())[0], Closed)


# ---- what is said


def test_heartbeats_are_never_answered_and_make_no_record_before_registration() -> None:
    stage = Stage().authenticate()
    assert stage.say(stage.agent.heartbeat()) == [Heartbeat(None)]
    stage = Stage().register()
    for payload in ("e30=", "", "garbage", "\0"):
        frame = json.dumps(json.loads(stage.agent.heartbeat()) | {"payload": payload})
        assert stage.say(frame) == [Heartbeat("agent-56475aa75463474c")]
    assert stage.heard() == []


@pytest.mark.parametrize("who", ["host-1", "agent-56475aa75463474c"])
def test_a_heartbeat_by_start_up_id_or_uid(who: str) -> None:
    stage = Stage().register()
    frame = stage.agent.frame("heartbeat", f"agent.{who}.heartbeat", "e30=")
    assert stage.say(frame) == [Heartbeat("agent-56475aa75463474c")]


VICTIM = "agent-0123456789abcdef"


@pytest.mark.parametrize(
    "stage", [Stage(headers={"X-Agent-Id": VICTIM}), Stage(DeployedAgent(agent_id=VICTIM))]
)
def test_the_uid_of_another_is_no_name_to_speak_under(stage: Stage) -> None:
    """In the header or signed: who is let in under it speaks for itself only."""
    stage.register()
    assert stage.session.uid == "agent-56475aa75463474c"
    for kind in ("heartbeat", "processes"):
        frame = stage.agent.frame("event", f"agent.{VICTIM}.{kind}", "e30=")
        assert codes(stage.say(frame)) == ["other_agent"]
    assert stage.say(stage.agent.frame("heartbeat", "agent.agent-56475aa75463474c.heartbeat", "e30=")) == [
        Heartbeat("agent-56475aa75463474c")
    ]


def test_the_channel_of_another_agent() -> None:
    stage = Stage().register()
    frame = stage.agent.frame("heartbeat", "agent.agent-0000000000000000.heartbeat", "e30=")
    assert codes(stage.say(frame)) == ["other_agent"]


@pytest.mark.parametrize(
    "channel",
    [
        "",
        "heartbeat",
        "agent.status",
        "agent.host-1.telemetry",
        "agent.host-1.dependencies",
        "agent.*.x",
        "../x",
        "error",
    ],
)
def test_a_channel_nobody_handles(channel: str) -> None:
    stage = Stage().authenticate()
    assert codes(stage.say(stage.agent.frame("event", channel, {}))) == ["unknown_channel"]
    assert error_of(*stage.heard()) == f"no handler for channel: {channel}"


@pytest.mark.parametrize("kind", ["policies", "anomalies", "threats", "processes", "status", "logs"])
def test_the_six_channels_need_a_registration(kind: str) -> None:
    frame = DeployedAgent().frame("event", f"agent.host-1.{kind}", {"kind": "x"})
    stage = Stage().authenticate()
    assert codes(stage.say(frame)) == ["not_registered"]
    assert error_of(*stage.heard()) == "agent not registered"
    stage = Stage().register()
    assert stage.say(frame) == [Ignored(channel=f"agent.host-1.{kind}")]
    assert stage.heard() == []


@pytest.mark.parametrize(
    "bad", ["{", b"\0", '{"channel":"x"}', '{"channel":"agent.host-1.status","payload":"x"}']
)
def test_no_error_goes_to_a_registered_peer_that_is_not_ours(bad: str | bytes) -> None:
    stage = Stage().register()
    assert len(codes(stage.say(bad))) == 1
    assert stage.heard() == []


def test_nor_for_a_registration_that_is_refused_to_one_that_has_its_own() -> None:
    """It dies of what is not sealed once its handshake is over, whatever it asked for."""
    stage = Stage().register()
    offer = {"registration_id": "x", "nonce": base64.b64encode(bytes(32)).decode(), "server_time": "t"}
    for frame in (
        stage.agent.registration(agent_pubkey=DeployedAgent(bytes(32)).key_text),
        stage.agent.registration(agent_pubkey=None),
        stage.agent.registration(capabilities="x"),
        stage.agent.completion(offer),
        stage.agent.completion(offer, signature=""),
    ):
        (code,) = codes(stage.say(frame))
        assert code in {"registration_refused", "envelope_invalid"}
        assert stage.heard() == []
    # One that asks and has none, with its uid in the header or without, waits for an answer.
    agent = DeployedAgent()
    agent.uid = "agent-56475aa75463474c"
    stage = Stage(agent).authenticate()
    stage.say(agent.registration(agent_pubkey=None))
    assert error_of(*stage.heard()) == "missing agent_pubkey in registration data"


def test_nor_to_one_that_comes_back_with_its_uid_and_is_not_known() -> None:
    agent = DeployedAgent()
    agent.uid = "agent-56475aa75463474c"
    stage = Stage(agent).authenticate()
    assert stage.say(agent.heartbeat()) == [Heartbeat(None)]
    assert codes(stage.say("{")) == ["envelope_invalid"]
    assert stage.heard() == []


def test_but_to_one_of_ours() -> None:
    pair = Pair().pump()
    pair.shared.drive(pair.gateway, '{"channel":"nothing"}')
    (frame,) = pair.gateway.outgoing()
    assert error_of(frame) == "no handler for channel: nothing"


@pytest.mark.parametrize("text", ['a "quoted" word', "back\\slash", "nul \\u0000", "line\\nend", "\u20ac"])
def test_the_text_of_an_error_is_encoded(text: str) -> None:
    stage = Stage().authenticate()
    stage.say(json.dumps({"channel": text}))
    assert error_of(*stage.heard()) == f"no handler for channel: {text}"


def test_what_our_agent_says() -> None:
    pair = Pair().pump()
    losses = (("outbox", "event", "evicted", 3),)
    pair.agent.batch(
        BlockClass.EVENT, stream=2, first=5, boot_id=BOOT, items_json=b'[{"a":1}]', losses=losses, wall_s=WALL
    )
    pair.agent.answer("c1", ok=True, code="done", text="t", state=[1], wall_s=WALL)
    pair.agent.state({"conditions": []}, wall_s=WALL)
    pair.gateway_heard.clear()
    batch, *rest = pair.pump().gateway_heard
    assert isinstance(batch, Batch)
    assert (batch.cls, batch.kind, batch.stream, batch.first, batch.boot_id, batch.losses) == (
        BlockClass.EVENT, "events", 2, 5, BOOT, losses
    )  # fmt: skip
    assert [bytes(each) for each in batch.items] == [b'{"a":1}']
    assert rest == [
        Answer(in_reply_to="c1", ok=True, code="done", text="t", state=[1]),
        State(state={"conditions": []}),
    ]


def test_items_of_our_agent_name_what_they_share() -> None:
    pair = Pair().pump()
    assert pair.agent.shares
    pair.gateway_heard.clear()
    pair.agent.batch(
        BlockClass.EVENT, stream=2, first=5, boot_id=BOOT, items_json=b'[{"a":1,"shared":0}]', shared_json=b'[{"b":2}]',
        wall_s=WALL,
    )  # fmt: skip
    (batch,) = pair.pump().gateway_heard
    assert isinstance(batch, Batch)
    assert [bytes(each) for each in batch.items] == [b'{"a":1,"shared":0}']
    assert [bytes(each) for each in batch.shared] == [b'{"b":2}']


@pytest.mark.parametrize("cls", BlockClass)
def test_every_class_of_batch(cls: BlockClass) -> None:
    pair = Pair().pump()
    pair.gateway_heard.clear()
    pair.agent.batch(cls, stream=0, first=0, boot_id=BOOT, items_json=b"[{}]", wall_s=WALL)
    (batch,) = pair.pump().gateway_heard
    assert isinstance(batch, Batch)
    assert batch.cls is cls


@pytest.mark.parametrize("name", ["payload", "id", "type", "timestamp", "nonce", "channel", "headers"])
def test_what_our_agent_signed_cannot_be_changed(name: str) -> None:
    pair = Pair().pump()
    pair.agent.batch(BlockClass.FLOW, stream=0, first=0, boot_id=BOOT, items_json=b"[{}]", wall_s=WALL)
    (made,) = pair.agent.outgoing()
    assert isinstance(made, bytearray)
    frame = made.decode()
    said = json.loads(frame)
    other: dict[str, Any] = {
        "payload": packed({"kind": "flows"}), "id": "x", "type": "request", "timestamp": 1, "nonce": "x",
        "channel": "agent.host-1.status", "headers": {},
    }  # fmt: skip
    assert codes(list(pair.shared.drive(pair.gateway, json.dumps(said | {name: other[name]})))) == [
        "signature_invalid"
    ]
    (batch,) = pair.shared.drive(pair.gateway, frame)
    assert isinstance(batch, Batch)


@pytest.mark.parametrize(
    ("channel", "said"),
    [
        ("status", {"kind": "answer", "in_reply_to": "x"}),
        ("status", {"kind": "state", "state": []}),
        ("status", {"kind": "flows", "stream": 0}),
        ("processes", {"kind": "events", "stream": 0, "first": 0, "boot_id": BOOT.hex(), "items": [1]}),
    ],
)
def test_a_message_of_another_shape(channel: str, said: object) -> None:
    stage = Stage().register()
    assert codes(stage.say(stage.agent.frame("event", f"agent.host-1.{channel}", said))) == [
        "envelope_invalid"
    ]


def test_a_batch_on_the_channel_of_another_kind_is_ignored() -> None:
    stage = Stage().register()
    said = {"kind": "events", "stream": 0, "first": 0, "boot_id": BOOT.hex(), "items": []}
    assert stage.say(stage.agent.frame("event", "agent.host-1.logs", said)) == [
        Ignored(channel="agent.host-1.logs")
    ]


# ---- down


def test_a_push_opens_at_a_deployed_agent() -> None:
    stage = Stage().register()
    frame = stage.session.push("backend.policies", {"action": "ping"}, message_id="m1", wall_s=WALL)
    assert stage.agent.take(frame) == {"action": "ping"}
    said = json.loads(frame)
    assert (said["id"], said["type"], said["channel"], said["timestamp"]) == (
        "m1",
        "event",
        "backend.policies",
        WALL,
    )


def test_one_text_for_many() -> None:
    stage = Stage().register()
    text = push_text({"a": 1})
    frames = [
        stage.session.push("backend.policies", text, message_id=str(number), wall_s=WALL)
        for number in range(50)
    ]
    assert all(stage.agent.take(each) == {"a": 1} for each in frames)
    assert len({json.loads(each)["nonce"] for each in frames}) == 50


def test_nothing_is_pushed_before_registration() -> None:
    for stage in (Stage(), Stage().authenticate()):
        with pytest.raises(SessionMisused):
            stage.session.push("backend.policies", {}, message_id="x", wall_s=WALL)
        with pytest.raises(SessionMisused):
            stage.session.acknowledge(1, BlockClass.EVENT, 1, WALL)


def test_an_agent_that_is_known_is_up_at_once() -> None:
    shared = Gateway()
    stage = Stage(shared=shared).register()
    again = Stage(stage.agent, shared).authenticate()
    assert (again.session.phase, again.session.uid) == (Phase.REGISTERED, stage.agent.uid)
    assert again.say(stage.agent.heartbeat()) == [Heartbeat(stage.agent.uid)]
    assert stage.agent.take(
        again.session.push("backend.policies", {"a": 1}, message_id="x", wall_s=WALL)
    ) == {"a": 1}


def test_ours_comes_back_as_ours() -> None:
    shared = Gateway()
    pair = Pair(gateway=shared).pump()
    assert pair.gateway.ours
    back = Pair(agent_session(uid=pair.agent.uid, entropy=entropy(9000)), shared).pump()
    assert back.gateway.ours
    assert channels_of(back.up) == ["auth", "agent.agent-56475aa75463474c.heartbeat"]


def test_the_driver_may_refuse_what_a_frame_brought() -> None:
    pair = Pair().pump()
    assert codes(pair.gateway.refuse("envelope_invalid", "invalid batch: first is behind", WALL)) == [
        "envelope_invalid"
    ]
    assert error_of(*pair.gateway.outgoing()) == "invalid batch: first is behind"
    stage = Stage(errors=2).register()
    assert codes(stage.session.refuse("x", "y", WALL)) == ["x"]
    assert isinstance(stage.session.refuse("x", "y", WALL)[-1], Closed)
    assert stage.heard() == []


def test_one_registration_at_a_time_is_being_stored() -> None:
    """A second one is answered with a fault while the first is on its way to the store, and loses nothing of it."""
    stage = Stage().authenticate()
    stage.say(stage.agent.registration())
    completion = stage.agent.completion(stage.agent.take_offer(*stage.heard()))
    stage.shared.registrations.begin(
        payloads.RegistrationInit(agent_pubkey=stage.agent.key_text, host_id="other"),
        holder="another",
        now_ns=0,
        wall_s=WALL,
    )
    (proven,) = stage.session.receive(completion, 0, WALL)
    assert isinstance(proven, RegistrationProven)
    for frame in (stage.agent.registration(host_id="second"), completion):
        assert codes(stage.session.receive(frame, 0, WALL)) == ["registration_refused"]
        (said,) = stage.heard()
        assert error_of(said) == "Actions API error: 409 a registration is being stored"
    stage.session.registered(WALL)
    stage.agent.take_reply(*stage.heard())
    assert stage.session.uid == proven.uid
    with pytest.raises(SessionMisused):
        stage.session.registered(WALL)


def test_a_connection_authenticates_again_eight_times() -> None:
    stage = Stage().register()
    for _ in range(8):
        assert isinstance(stage.say(stage.agent.authentication())[0], Authenticated)
    (happened,) = stage.say(stage.agent.authentication())
    assert isinstance(happened, Closed)
    assert (happened.code, happened.reason) == (1008, "too many authentications on one connection")
    assert len(stage.shared.replay) == 9
