"""The agent's end: phases, deadlines, what it takes from a gateway and what it refuses."""

from __future__ import annotations

import base64
import json

import pytest

from aegis.errors import SessionMisused
from aegis.model.block import BlockClass
from aegis.protocol import v1
from aegis.protocol.agent import Phase
from aegis.protocol.agent_happenings import (
    Acknowledged,
    Authenticated,
    Closed,
    GatewayUnproven,
    Order,
    PeerError,
    ReconnectWanted,
    Refused,
    Registered,
)
from aegis.protocol.channels import Up
from tests.support.deployed import DeployedGateway, packed
from tests.support.sessions import SECOND, WALL, Pair, agent_session, channels_of
from tests.support.stages import GATEWAY, UID, inner, opened, push, up

# ---- who it is


@pytest.mark.parametrize("uid", [None, "agent-other"])
def test_headers(uid: str | None) -> None:
    assert agent_session(uid=uid).headers() == {
        "X-Agent-ID": uid or UID,
        "X-Agent-Public-Key": "A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg=",
        "User-Agent": "Aegis-Agent/1.0",
    }


# ---- the handshake with a deployed gateway


def test_the_whole_handshake() -> None:
    session = agent_session(registration_delay_s=0)
    session.opened(0, WALL)
    frames = session.outgoing()
    heard = session.receive(GATEWAY.auth(), 0, WALL)
    frames += session.outgoing()
    heard += session.receive(GATEWAY.offer(), 0, WALL)
    frames += session.outgoing()
    heard += session.receive(GATEWAY.reply(), 0, WALL)
    frames += session.outgoing()
    assert heard == [
        Authenticated(gateway_key=GATEWAY.key, ours=False, batches=False, expires_in_s=86400),
        Registered(uid=UID, fresh=True),
    ]
    assert channels_of(frames) == [
        "auth", "agent.registration", "agent.registration.complete", f"agent.{UID}.heartbeat"
    ]  # fmt: skip


def test_nothing_is_heard_before_it_is_opened_nor_opened_twice() -> None:
    session = agent_session()
    assert session.receive(GATEWAY.auth(), 0, WALL) == []
    assert (session.next_deadline(), session.tick(1 << 62, WALL)) == (None, [])
    session.opened(0, WALL)
    with pytest.raises(SessionMisused):
        session.opened(0, WALL)


@pytest.mark.parametrize(
    ("phase", "frames"),
    [("authenticating", []), ("registering", ["auth"]), ("completing", ["auth", "offer"])],
)
def test_each_answer_has_ten_seconds(phase: str, frames: list[str]) -> None:
    session = opened()
    for name in frames:
        session.receive(getattr(GATEWAY, name)(), 3 * SECOND, WALL)
    due = (13 if frames else 10) * SECOND
    assert session.next_deadline() == due
    assert session.tick(due - 1, WALL) == []
    assert session.tick(due, WALL) == [Closed(code="deadline", reason=f"no answer while {phase}")]
    assert (session.phase, session.outgoing(), session.next_deadline()) == (Phase.CLOSED, [], None)
    assert session.receive(GATEWAY.auth(), due, WALL) == []


def test_registration_at_a_gateway_that_is_not_ours_waits_a_moment() -> None:
    session = opened(registration_delay_s=2.0, entropy=lambda size: b"\x80" * size)
    session.receive(GATEWAY.auth(), 0, WALL)
    assert (session.phase, session.outgoing()) == (Phase.DELAYED, [])
    due = session.next_deadline()
    assert due is not None
    assert SECOND <= due < 1.01 * SECOND
    assert session.tick(due - 1, WALL) == []
    assert session.outgoing() == []
    session.tick(due, WALL)
    assert channels_of(session.outgoing()) == ["agent.registration"]


def test_a_refusal_closes_and_tells_the_gateways_time() -> None:
    heard = opened().receive(
        GATEWAY.auth(success=False, message="Invalid\nsignature", backend_key=""), 0, WALL
    )
    assert heard == [Closed(code="refused", reason="Invalid signature", gateway_time_s=WALL)]


@pytest.mark.parametrize(
    "key",
    [
        "",
        "x",
        base64.b64encode(bytes(31)).decode(),
        base64.b64encode(bytes(33)).decode(),
        base64.b64encode(bytes(32)).decode(),
    ],
)
def test_a_gateway_key_that_is_none(key: str) -> None:
    (closed,) = opened().receive(GATEWAY.auth(backend_key=key), 0, WALL)
    assert isinstance(closed, Closed)
    assert (closed.code, "backend_key" in closed.reason) == ("protocol", True)


@pytest.mark.parametrize("late", [0, 1])
def test_the_signature_of_the_answer_by_its_time_or_a_second_later(late: int) -> None:
    heard = opened().receive(GATEWAY.auth(late=late), 0, WALL)
    assert [type(each) for each in heard] == [Authenticated]


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (GATEWAY.auth(late=2), "bad_signature"),
        (GATEWAY.auth(late=-1), "bad_signature"),
        (
            DeployedGateway(bytes(32)).auth(backend_key=base64.b64encode(GATEWAY.key).decode()),
            "bad_signature",
        ),
        (GATEWAY.auth().replace('"signature": "', '"signature": "!'), "bad_signature"),
        (GATEWAY.frame("auth", json.loads(GATEWAY.auth())["payload"]), "unsigned"),
    ],
)
def test_a_gateway_that_proves_nothing_is_warned_of_and_taken(frame: str, reason: str) -> None:
    heard = opened().receive(frame, 0, WALL)
    assert heard[0] == GatewayUnproven(reason=reason, gateway_key=GATEWAY.key)
    assert isinstance(heard[1], Authenticated)


def test_a_key_that_changed_is_warned_of() -> None:
    assert not any(
        isinstance(each, GatewayUnproven)
        for each in opened(known_gateway_key=GATEWAY.key).receive(GATEWAY.auth(), 0, WALL)
    )
    heard = opened(known_gateway_key=bytes(32)).receive(GATEWAY.auth(), 0, WALL)
    assert heard[0] == GatewayUnproven(reason="key_changed", gateway_key=GATEWAY.key)


@pytest.mark.parametrize("size", [0, 1, 12, 15, 17, 31, 33, 64, 1000])
def test_the_nonce_to_sign_has_16_or_32_bytes(size: int) -> None:
    session = opened()
    session.receive(GATEWAY.auth(), 0, WALL)
    session.outgoing()
    heard = session.receive(GATEWAY.offer(nonce=base64.b64encode(bytes(size)).decode()), 0, WALL)
    assert [type(each) for each in heard] == [Closed]
    assert session.outgoing() == []


@pytest.mark.parametrize("size", [16, 32])
def test_both_sizes_are_signed(size: int) -> None:
    session = opened()
    session.receive(GATEWAY.auth(), 0, WALL)
    session.outgoing()
    assert session.receive(GATEWAY.offer(nonce=base64.b64encode(bytes(size)).decode()), 0, WALL) == []
    assert channels_of(session.outgoing()) == ["agent.registration.complete"]


ORACLE = "x:A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg=:1700000000:"


@pytest.mark.parametrize(
    "server_time",
    ["", ORACLE, "2026-01-01T00:00:00Z" + ORACLE, "2026-01-01 00:00:00Z", "2026-01-01T00:00:00", "1700000000", "2026-01-01T00:00:00Z\n",
     "2026-01-01T00:00:00z", "\u0662026-01-01T00:00:00Z", "2026-01-01T00:00:00.Z", "2026-01-01T00:00:00.1234567890Z"],
)  # fmt: skip
def test_the_time_to_sign_is_an_instant_and_no_text_of_the_gateways_choice(server_time: str) -> None:
    session = opened()
    session.receive(GATEWAY.auth(), 0, WALL)
    session.outgoing()
    heard = session.receive(GATEWAY.offer(server_time=server_time), 0, WALL)
    assert [(type(each), each.code) for each in heard if isinstance(each, Closed)] == [(Closed, "protocol")]
    assert session.outgoing() == []


@pytest.mark.parametrize("server_time", ["2026-01-01T00:00:00Z", "2026-01-01T00:00:00.123456789+02:00"])
def test_instants_that_are_signed(server_time: str) -> None:
    session = opened()
    session.receive(GATEWAY.auth(), 0, WALL)
    assert session.receive(GATEWAY.offer(server_time=server_time), 0, WALL) == []


@pytest.mark.parametrize("uid", ["", "a.b", "a\r\nX: y", "x" * 65, "a:b"])
def test_a_uid_that_is_none(uid: str) -> None:
    session = opened()
    for frame in (GATEWAY.auth(), GATEWAY.offer()):
        session.receive(frame, 0, WALL)
    (closed,) = session.receive(GATEWAY.reply(agent_uid=uid), 0, WALL)
    assert isinstance(closed, Closed)
    assert "agent_uid" in closed.reason


@pytest.mark.parametrize("wait", [["auth"], ["auth", "offer"]])
def test_an_error_is_the_answer_to_a_request_of_the_handshake(wait: list[str]) -> None:
    session = opened()
    for name in wait:
        session.receive(getattr(GATEWAY, name)(), 0, WALL)
    heard = session.receive(GATEWAY.error("Actions API error: 400 bad pubkey"), 0, WALL)
    assert heard[0] == PeerError(text="Actions API error: 400 bad pubkey")
    assert isinstance(heard[1], Closed)


@pytest.mark.parametrize("name", ["auth", "offer", "reply"])
def test_an_answer_nobody_waits_for_changes_nothing(name: str) -> None:
    session = up()
    (heard,) = session.receive(getattr(GATEWAY, name)(), 0, WALL)
    assert (type(heard), session.phase, session.outgoing()) == (Refused, Phase.UP, [])


def test_steps_cannot_be_left_out() -> None:
    session = opened()
    for frame in (GATEWAY.offer(), GATEWAY.reply(), push(session, "backend.modules", {})):
        (heard,) = session.receive(frame, 0, WALL)
        assert isinstance(heard, Refused)
    assert session.phase is Phase.AUTHENTICATING
    session.receive(GATEWAY.auth(), 0, WALL)
    (heard,) = session.receive(GATEWAY.reply(), 0, WALL)
    assert (type(heard), session.phase) == (Refused, Phase.REGISTERING)


# ---- a session


def test_heartbeats() -> None:
    session = up(heartbeat_s=20)
    assert session.next_deadline() == 20 * SECOND
    assert session.tick(20 * SECOND - 1, WALL) == []
    assert session.outgoing() == []
    for beat in (20, 40, 95):
        session.tick(beat * SECOND, WALL + beat)
        (frame,) = session.outgoing()
        said = json.loads(frame)
        assert (said["channel"], said["type"], said["payload"]) == (
            f"agent.{UID}.heartbeat",
            "heartbeat",
            "e30=",
        )
        assert said["timestamp"] == WALL + beat
    assert session.next_deadline() == 115 * SECOND


@pytest.mark.parametrize(
    ("expires_at", "due_s"),
    [(WALL + 30, 30), (WALL + 1, 5), (0, None), (None, None), (WALL - 5, None), (1 << 62, None)],
)
def test_a_session_ends_by_the_gateways_clock(expires_at: int | None, due_s: int | None) -> None:
    session = opened(heartbeat_s=1e6)
    wrong_clock = 12345
    for frame in (GATEWAY.auth(expires_at=expires_at), GATEWAY.offer(), GATEWAY.reply()):
        session.receive(frame, 0, wrong_clock)
    if due_s is None:
        assert session.next_deadline() == 10**6 * SECOND
        return
    assert session.next_deadline() == due_s * SECOND
    assert session.tick(due_s * SECOND, WALL) == [ReconnectWanted(reason="the session expires")]
    assert session.next_deadline() == 10**6 * SECOND


@pytest.mark.parametrize("uid", [None, UID, "agent-given"])
@pytest.mark.parametrize(
    "form", ["backend.{}", "backend.{uid}.{}", "agent.{uid}.{}", "agent.host-1.{}", "backend.host-1.{}"]
)
@pytest.mark.parametrize("kind", ["policies", "modules"])
def test_orders_on_every_form_of_a_channel(uid: str | None, form: str, kind: str) -> None:
    session = up(uid=uid)
    channel = form.format(kind, uid=session.uid)
    heard = session.receive(push(session, channel, {"action": "ping", "command_id": "c1"}), 0, WALL)
    assert heard == [Order(command_id="c1", channel=kind, body={"action": "ping", "command_id": "c1"})]


@pytest.mark.parametrize("named", [None, 5, "", "x" * 257])
def test_without_an_id_of_its_own_an_order_has_the_envelopes(named: object) -> None:
    session = up()
    (order,) = session.receive(push(session, "backend.policies", {"command_id": named}), 0, WALL)
    assert isinstance(order, Order)
    assert order.command_id == f"msg_{WALL}"


@pytest.mark.parametrize(
    ("channel", "code"),
    [
        ("backend.other.policies", "other_agent"),
        ("agent.x.modules", "other_agent"),
        ("backend.nothing", "unknown_channel"),
        ("", "unknown_channel"),
    ],
)
def test_pushes_that_are_for_nobody_here(channel: str, code: str) -> None:
    session = up()
    (refused,) = session.receive(push(session, channel, {}), 0, WALL)
    assert isinstance(refused, Refused)
    assert refused.code == code


def test_an_acknowledgement() -> None:
    session = up()
    said = {"type": "ack", "class": "flow", "stream": 3, "next": 77}
    assert session.receive(push(session, "backend.ack", said), 0, WALL) == [
        Acknowledged(stream=3, cls=BlockClass.FLOW, next_=77)
    ]
    (refused,) = session.receive(push(session, "backend.ack", said | {"class": "x"}), 0, WALL)
    assert isinstance(refused, Refused)


@pytest.mark.parametrize(
    "changed",
    [{"nonce": ""}, {"nonce": None}, {"nonce": base64.b64encode(bytes(11)).decode()}, {"nonce": base64.b64encode(bytes(12)).decode()},
     {"payload": ""}, {"payload": packed({"type": "list_modules"})}, {"payload": '{"type":"list_modules"}'}],
)  # fmt: skip
def test_what_is_not_sealed_is_no_order(changed: dict[str, object]) -> None:
    session = up()
    frame = json.dumps(json.loads(push(session, "backend.modules", {"type": "list_modules"})) | changed)
    (refused,) = session.receive(frame, 0, WALL)
    assert isinstance(refused, Refused)
    assert session.phase is Phase.UP


@pytest.mark.parametrize("frame", [b"\1", b"\0" * 9, "", "{", "null", "x" * (v1.FRAME_BYTES_AFTER + 1)])
def test_what_is_no_message_is_counted(frame: str | bytes) -> None:
    session = up()
    (refused,) = session.receive(frame, 0, WALL)
    assert isinstance(refused, Refused)
    assert refused.code in {"binary_frame", "envelope_invalid"}


def test_a_reply_to_a_heartbeat_is_nothing() -> None:
    session = up()
    assert session.receive(GATEWAY.frame("heartbeat", packed({})), 0, WALL) == []
    assert session.receive(GATEWAY.frame(f"backend.{UID}.heartbeat", packed({})), 0, WALL) == []


def test_what_is_said_before_the_session_is_up() -> None:
    session = opened()
    with pytest.raises(SessionMisused):
        session.answer("x", ok=True, wall_s=WALL)
    with pytest.raises(SessionMisused):
        session.state({}, wall_s=WALL)
    with pytest.raises(SessionMisused):
        session.batch(BlockClass.FINDING, stream=1, first=0, boot_id=bytes(16), items_json=b"[]", wall_s=WALL)


def test_a_gateway_that_is_not_ours_gets_findings_only() -> None:
    session = up()
    assert [each for each in BlockClass if session.takes(each)] == [BlockClass.FINDING]
    session.batch(
        BlockClass.FINDING, stream=1, first=0, boot_id=bytes(16), items_json=b'[{"a":1}]', wall_s=WALL
    )
    (frame,) = session.outgoing()
    assert json.loads(frame)["channel"] == f"agent.{UID}.threats"
    assert json.loads(frame)["headers"] == {}
    assert inner(frame) == {
        "kind": "findings",
        "stream": 1,
        "first": 0,
        "boot_id": "00" * 16,
        "items": [{"a": 1}],
    }
    with pytest.raises(SessionMisused):
        session.batch(BlockClass.EVENT, stream=1, first=0, boot_id=bytes(16), items_json=b"[]", wall_s=WALL)


def test_nothing_is_shared_with_a_gateway_that_did_not_say_so() -> None:
    session = up()
    assert not session.shares
    given = {"stream": 1, "first": 0, "boot_id": bytes(16), "items_json": b'[{"shared":0}]', "wall_s": WALL}
    with pytest.raises(SessionMisused):
        session.batch(BlockClass.FINDING, **given, shared_json=b"[{}]")  # type: ignore[arg-type]
    session.batch(BlockClass.FINDING, **given)  # type: ignore[arg-type]
    assert len(session.outgoing()) == 1


@pytest.mark.parametrize("mark", [{"v": 1, "batches": True}, {"v": 1, "batches": True, "shared": True}])
def test_a_gateway_says_whether_items_may_share(mark: dict[str, object]) -> None:
    session = opened()
    session.receive(GATEWAY.auth(aegis=mark), 0, WALL)
    assert session.shares is ("shared" in mark)


@pytest.mark.parametrize(("channel", "name"), [(Up.STATUS, "status"), (Up.POLICIES, "policies")])
def test_answers(channel: Up, name: str) -> None:
    session = up()
    session.answer("c1", ok=False, code="x", text="y", state={"a": 1}, wall_s=WALL, channel=channel)
    (frame,) = session.outgoing()
    assert json.loads(frame)["channel"] == f"agent.{UID}.{name}"
    assert inner(frame) == {
        "kind": "answer", "in_reply_to": "c1", "ok": False, "code": "x", "text": "y", "state": {"a": 1}
    }  # fmt: skip


def test_nonces_never_repeat() -> None:
    session = up(heartbeat_s=1)
    nonces = []
    for beat in range(1, 50):
        session.tick(beat * SECOND, WALL)
        nonces += [json.loads(each)["nonce"] for each in session.outgoing()]
    assert len(set(nonces)) == 49
    assert {len(base64.b64decode(each)) for each in nonces} == {16}


# ---- gateways that forget


@pytest.mark.parametrize(
    "text",
    [
        "agent not registered",
        f"no handler for channel: agent.{UID}.heartbeat",
        "Actions API error: agent not registered",
    ],
)
def test_a_gateway_that_does_not_know_the_uid_is_registered_at_once_a_connection(text: str) -> None:
    session = up(uid=UID, reregister=True)
    assert session.receive(GATEWAY.error(text), 0, WALL) == [PeerError(text=text)]
    assert channels_of(session.outgoing()) == ["agent.registration"]
    for frame in (GATEWAY.offer(), GATEWAY.reply()):
        heard = session.receive(frame, 0, WALL)
    assert heard == [Registered(uid=UID, fresh=True)]
    assert session.receive(GATEWAY.error(text), 0, WALL) == [
        PeerError(text=text),
        ReconnectWanted(reason=text),
    ]


@pytest.mark.parametrize("reregister", [True, False])
def test_a_gateway_that_forgot_the_authentication(reregister: bool) -> None:
    """It has its key still, so it has not begun anew: nobody registers again, and its next word is a reason to go."""
    session = opened(uid=UID, reregister=reregister)
    for frame in (GATEWAY.auth(), GATEWAY.offer(), GATEWAY.reply())[: 3 if reregister else 1]:
        session.receive(frame, 0, WALL)
    assert session.phase is Phase.UP
    session.outgoing()
    text = "agent not authenticated"
    assert session.receive(GATEWAY.error(text), 0, WALL) == [PeerError(text=text)]
    assert channels_of(session.outgoing()) == ["auth"]
    assert Registered(uid=UID, fresh=False) in session.receive(GATEWAY.auth(), 0, WALL)
    assert channels_of(session.outgoing()) == [f"agent.{UID}.heartbeat"]
    assert session.receive(GATEWAY.error(text), 0, WALL)[-1] == ReconnectWanted(reason=text)


@pytest.mark.parametrize(
    ("known", "reregister", "registers"),
    [
        ("same", True, False),
        ("same", False, False),
        ("other", True, True),
        ("other", False, False),
        ("none", True, True),
    ],
)
def test_a_gateway_with_another_key_has_begun_anew(known: str, reregister: bool, registers: bool) -> None:
    key = {"same": GATEWAY.key, "other": bytes([9]) * 32, "none": None}[known]
    session = opened(uid=UID, reregister=reregister, known_gateway_key=key)
    session.receive(GATEWAY.auth(), 0, WALL)
    wanted = "agent.registration" if registers else f"agent.{UID}.heartbeat"
    assert channels_of(session.outgoing()) == [wanted]


def test_other_errors_change_nothing() -> None:
    session = up()
    text = "no handler for channel: agent.x.telemetry"
    assert session.receive(GATEWAY.error(text), 0, WALL) == [PeerError(text=text)]
    assert (session.phase, session.outgoing()) == (Phase.UP, [])


@pytest.mark.parametrize(
    ("uid", "reregister", "registers"),
    [(None, False, True), (None, True, True), (UID, False, False), (UID, True, True)],
)
def test_who_registers_at_a_gateway_that_says_nothing(
    uid: str | None, reregister: bool, registers: bool
) -> None:
    session = opened(uid=uid, reregister=reregister)
    heard = session.receive(GATEWAY.auth(), 0, WALL)
    assert (Registered(uid=UID, fresh=False) in heard) is not registers
    assert channels_of(session.outgoing()) == (
        ["agent.registration"] if registers else [f"agent.{UID}.heartbeat"]
    )


@pytest.mark.parametrize(
    ("uid", "known", "registers"),
    [(None, False, True), (None, True, True), (UID, False, True), (UID, True, False)],
)
@pytest.mark.parametrize("reregister", [True, False])
def test_our_gateway_says_whether_it_knows_the_key(
    uid: str | None, known: bool, registers: bool, reregister: bool
) -> None:
    session = opened(uid=uid, reregister=reregister, registration_delay_s=9)
    mark = {"v": 1, "batches": True, "registered": known}
    session.receive(GATEWAY.auth(aegis=mark), 0, WALL)
    assert channels_of(session.outgoing()) == (
        ["agent.registration"] if registers else [f"agent.{UID}.heartbeat"]
    )


def test_the_mark_is_what_makes_batches_go() -> None:
    pair = Pair().pump()
    assert all(map(pair.agent.takes, BlockClass))
