"""Any payload in each step of a registration, at both ends: typed refusals, never a registration."""

from __future__ import annotations

import base64
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

PARSERS = (
    "aegis/protocol/registration.py",
    "aegis/protocol/payloads.py:RegistrationInit",
    "aegis/protocol/payloads.py:unpacked",
    "aegis/protocol/payloads.py:unpacked_or_raw",
    "aegis/protocol/payloads.py:read_init",
    "aegis/protocol/payloads.py:read_completion",
)


HOLDERS = "aaabcaab"


def begun(init: Any) -> None:
    """It begins between others' registrations, where few have room; the caps hold, and only the signer completes."""
    from aegis.errors import RegistrationRefused
    from aegis.protocol import canonical
    from aegis.protocol.crypto import Signer
    from aegis.protocol.payloads import RegistrationCompletion, RegistrationInit
    from aegis.protocol.registration import Registrations
    from tests.support.sessions import SECOND, WALL, entropy

    waiting = Registrations(entropy=entropy(), capacity=4, most_bytes=600, of_holder=2)
    for number, holder in enumerate(HOLDERS):
        signer = Signer(bytes((number,)) * 32)
        own = RegistrationInit(agent_pubkey=base64.b64encode(signer.public_key).decode())
        with contextlib.suppress(RegistrationRefused):
            waiting.begin(init, holder=holder, now_ns=number * 20 * SECOND, wall_s=WALL)
        offer = waiting.begin(own, holder=holder, now_ns=number * 20 * SECOND, wall_s=WALL)
        assert 0 < len(waiting) <= 4
        assert 0 < waiting.waiting_bytes <= 600
        signed = canonical.registration(base64.b64decode(offer.nonce), offer.server_time, "unknown-host")
        good = base64.b64encode(signer.sign(signed)).decode()
        for asked, signature in (("x", good), (holder, "AAAA"), (holder, "A" * 86 + "=="), (holder, good)):
            said = RegistrationCompletion(offer.registration_id, "unknown-host", signature)
            if number % 2 and signature == good:
                continue  # left to expire, or to make room
            try:
                proven = waiting.complete(said, holder=asked, now_ns=number * 20 * SECOND)
            except RegistrationRefused:
                assert (asked, signature) != (holder, good)
            else:
                assert (asked, signature, proven.key) == (holder, good, signer.public_key)
    for holder in HOLDERS:
        waiting.forget(holder)
    assert (len(waiting), waiting.waiting_bytes) == (0, 0)


def one(data: bytes) -> None:
    from aegis.errors import EnvelopeInvalid
    from aegis.protocol import payloads
    from aegis.protocol.agent import Phase
    from tests.support.sessions import WALL
    from tests.support.stages import GATEWAY, Stage, opened

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
        begun(init)
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
