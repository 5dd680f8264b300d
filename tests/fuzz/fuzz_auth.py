"""Any payload as an authentication, at a gateway that waits for one: only the one that was signed gets in.

Every frame is answered once.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

PARSERS = (
    "aegis/protocol/crypto.py:verifies",
    "aegis/protocol/crypto.py:is_sound",
    "aegis/protocol/payloads.py:parse",
    "aegis/protocol/payloads.py:unpacked",
    "aegis/protocol/payloads.py:unpacked_or_raw",
    "aegis/protocol/payloads.py:read_auth_response",
)


@functools.cache
def signed() -> object:
    """Members of the request in the corpus, which the agent's key has signed."""
    from aegis.protocol import payloads

    path = Path(__file__).parent / "corpus/auth/request.json"
    return payloads.read_auth(base64.b64encode(path.read_bytes()).decode())


def one(data: bytes) -> None:
    from aegis.errors import EnvelopeInvalid
    from aegis.protocol import payloads, v1
    from aegis.protocol.crypto import is_sound, verifies
    from aegis.protocol.gateway import Phase
    from aegis.protocol.gateway_happenings import Authenticated, Refused
    from tests.support.stages import Stage

    payload = base64.b64encode(data).decode()
    too_large = base64.b64encode(data.ljust(v1.FRAME_BYTES_BEFORE + 8)).decode()
    for read in (payloads.read_auth, payloads.read_auth_response):
        # As it comes, packed, and with half of a surrogate pair in it, which no socket gives and a caller might.
        for text in (payload, data.decode("utf-8", "replace"), data.decode("utf-8", "surrogateescape")):
            try:
                read(text)
            except EnvelopeInvalid as error:
                said = str(error)
                assert said.startswith("auth: ")
        with contextlib.suppress(EnvelopeInvalid):
            read(too_large)
            raise AssertionError("more was read than a frame holds")
    key, signature = data[:32], data[32:96]
    assert verifies(key, signature, data[96:]) <= is_sound(key)
    stage = Stage()
    frame = json.dumps({"type": "request", "channel": "auth", "payload": payload, "timestamp": 1})
    happened = stage.say(frame)
    assert len(stage.heard()) == 1
    if isinstance(happened[0], Authenticated):
        assert payloads.read_auth(payload) == signed()
        return
    assert [type(each) for each in happened] == [Refused], happened
    assert stage.session.phase is Phase.UNAUTHENTICATED


if __name__ == "__main__":
    from tests.fuzz.entry import main

    main("auth")
