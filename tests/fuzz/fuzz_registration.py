"""Any payload in each step of a registration, at both ends: typed refusals, never a registration."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def one(data: bytes) -> None:
    from aegis.errors import EnvelopeInvalid
    from aegis.protocol import payloads
    from aegis.protocol.agent import Phase
    from tests.support.stages import GATEWAY, WALL, Stage, opened

    raw = data.decode("utf-8", "replace")
    packed = base64.b64encode(data).decode()
    for read in (payloads.read_init, payloads.read_completion, payloads.read_offer, payloads.read_reply):
        for payload in (raw, packed):
            try:
                read(payload)
            except EnvelopeInvalid as error:
                said = str(error)
                assert said
    stage = Stage().authenticate()
    for channel in ("agent.registration", "agent.registration.complete", "registration.complete"):
        frame = {"type": "request", "channel": channel, "payload": packed}
        stage.say(json.dumps(frame))
        assert len(stage.heard()) == 1
    assert stage.session.uid is None
    session = opened()
    session.receive(GATEWAY.auth(), 0, WALL)
    session.outgoing()
    for payload in (raw, packed):
        session.receive(GATEWAY.frame("agent.registration", payload), 0, WALL)
        session.receive(GATEWAY.frame("agent.registration.complete", payload), 0, WALL)
    assert session.phase in {Phase.CLOSED, Phase.COMPLETING, Phase.UP}


if __name__ == "__main__":
    from tests.fuzz.entry import main

    main("registration")
