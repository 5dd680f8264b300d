"""Any payload in each step of a registration, at both ends: typed refusals, never a registration."""

from __future__ import annotations

import base64
import contextlib
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

PARSERS = (
    "aegis/protocol/registration.py:key_of",
    "aegis/protocol/payloads.py:RegistrationInit",
    "aegis/protocol/payloads.py:unpacked",
    "aegis/protocol/payloads.py:unpacked_or_raw",
    "aegis/protocol/payloads.py:read_init",
    "aegis/protocol/payloads.py:read_completion",
)


def one(data: bytes) -> None:
    from aegis.errors import EnvelopeInvalid, RegistrationRefused
    from aegis.protocol import payloads
    from aegis.protocol.agent import Phase
    from aegis.protocol.registration import key_of
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
    # The same over HTTP, where the body is the JSON; and no more of it than a registration holds.
    try:
        init = payloads.read_init(data)
    except EnvelopeInvalid:
        pass
    else:
        assert not init.is_ours or init.capabilities["aegis"]["v"] == 1  # type: ignore[call-overload,index]
        with contextlib.suppress(RegistrationRefused):
            assert len(key_of(init)) == 32
    with contextlib.suppress(EnvelopeInvalid):
        payloads.read_completion(data)
    large = data.ljust(payloads.REGISTRATION_BYTES + 1)
    for read in (payloads.read_init, payloads.read_completion):
        for text in (large, base64.b64encode(large.ljust(payloads.REGISTRATION_BYTES + 4)).decode()):
            with contextlib.suppress(EnvelopeInvalid):
                read(text)
                raise AssertionError("more was read than a registration holds")
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
