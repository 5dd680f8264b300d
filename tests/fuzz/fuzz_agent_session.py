"""A script of what a gateway and a driver do to the agent's end of a session: frames are taken or refused in order.

Each line is a step, `WORD REST`:

    auth JSON, offer JSON, reply JSON   answers of a deployed gateway, members laid over those it sends
    error TEXT, push CHANNEL TEXT       an error frame; TEXT, sealed, on that channel
    frame TEXT, bin TEXT                a text frame or a binary one
    tick SECONDS, batch CLASS, answer TEXT, state JSON   what a driver does
    with JSON                           first line: members `uid`, `reregister`, `delay`, `known`

Not reached: SessionMisused of a session that is opened twice, a mistake of its driver.
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

PARSERS = (
    "aegis/protocol/agent.py",
    "aegis/protocol/authentication.py:lifetime",
    "aegis/protocol/authentication.py:answer_verifies",
    "aegis/protocol/channels.py:split_down",
)
STEPS = 64
UID = "agent-56475aa75463474c"


def members(text: str) -> dict[str, Any]:
    """The object that a step names; empty where it is none. As the wire has it: no half of a surrogate pair in it."""
    import msgspec

    try:
        return msgspec.json.decode(text.encode(), type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return {}


def frame_of(word: str, rest: str, session: Any) -> str | bytes:
    from aegis.protocol.crypto import seal, shared_key
    from tests.support.stages import GATEWAY

    match word:
        case "auth":
            told = members(rest)
            told.pop("self", None)
            late = told.pop("late", 0)
            frame = GATEWAY.auth(late=late if type(late) is int else 0, **told)
            if told.get("unsigned"):
                frame = json.dumps(json.loads(frame) | {"signature": ""})
            return frame
        case "offer" | "reply":
            told = members(rest)
            told.pop("self", None)
            return str(getattr(GATEWAY, word)(**told))
        case "error":
            return GATEWAY.error(rest)
        case "push":
            channel, _, text = rest.partition(" ")
            key = shared_key(session.public_key, GATEWAY.key)
            nonce = base64.b64encode(GATEWAY.NONCE).decode()
            sealed = base64.b64encode(
                seal(key, GATEWAY.NONCE, text.encode("utf-8", "surrogatepass"))
            ).decode()
            return GATEWAY.frame(channel, sealed, nonce=nonce)
        case "bin":
            return rest.encode("utf-8", "surrogatepass")
    return rest


def driven(session: Any, word: str, rest: str, wall_s: int) -> bool:
    """A step of the driver's own; False where the word is none of those."""
    from aegis.errors import SessionMisused
    from aegis.model.block import BlockClass
    from aegis.protocol.agent import Phase

    up = session.phase is Phase.UP
    try:
        match word:
            case "batch":
                cls = BlockClass(rest) if rest in set(BlockClass) else BlockClass.EVENT
                up = session.takes(cls)
                session.batch(cls, stream=1, first=0, boot_id=bytes(16), items_json=b"[{}]", wall_s=wall_s)
            case "answer":
                session.answer("c", ok=True, wall_s=wall_s, text=rest)
            case "state":
                session.state(members(rest), wall_s=wall_s)
            case _:
                return False
    except SessionMisused:
        assert not up
    else:
        assert up
    return True


def one(data: bytes) -> None:
    from aegis.protocol import agent_happenings as told
    from aegis.protocol import v1
    from aegis.protocol.agent import Phase
    from aegis.protocol.crypto import SIGNATURE_BYTES
    from tests.support.sessions import SECOND, WALL, agent_session
    from tests.support.stages import GATEWAY

    lines = data.decode("utf-8", "replace").split("\n")[:STEPS]
    asked = members(lines[0].removeprefix("with ")) if lines[0].startswith("with ") else {}
    session = agent_session(
        uid=UID if asked.get("uid") else None,
        reregister=bool(asked.get("reregister", True)),
        registration_delay_s=0.5 if asked.get("delay") else 0,
        known_gateway_key={"same": GATEWAY.key, "other": bytes(32)}.get(str(asked.get("known"))),
    )
    seconds = 0
    assert len(session.headers()[v1.HEADER_KEY]) == 44
    if asked.get("opened", True):
        session.opened(0, WALL)
    closed = False
    for line in lines:
        word, _, rest = line.partition(" ")
        now_ns, wall_s = seconds * SECOND, WALL + seconds
        happened: list[Any] = []
        if word == "tick":
            seconds += min(int(rest), 100_000) if rest.isascii() and rest.isdecimal() else 1
            happened = session.tick(seconds * SECOND, WALL + seconds)
        elif not driven(session, word, rest, wall_s):
            happened = session.receive(frame_of(word, rest, session), now_ns, wall_s)
        assert not (closed and happened)
        closed = closed or any(isinstance(each, told.Closed) for each in happened)
        assert closed == (session.phase is Phase.CLOSED)
        for each in happened:
            if isinstance(each, told.Registered):
                assert v1.ID.fullmatch(each.uid)
            elif isinstance(each, told.Authenticated):
                assert len(each.gateway_key) == 32
                assert each.expires_in_s is None or each.expires_in_s > 0
            elif isinstance(each, told.PeerError):
                text = each.text
                assert text.isprintable()
        due = session.next_deadline()
        assert (due is None) == (session.phase in {Phase.NEW, Phase.CLOSED})
        for frame in session.outgoing():
            said = json.loads(frame)
            signature = said["signature"]
            assert said["channel"].startswith(("auth", "agent."))
            assert signature == "" or len(base64.b64decode(signature)) == SIGNATURE_BYTES


if __name__ == "__main__":
    from tests.fuzz.entry import main

    main("agent_session")
