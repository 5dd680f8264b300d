"""Any text inside a seal, and any frame, at an agent whose session is up: orders, acknowledgements or refusals."""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

PARSERS = (
    "aegis/protocol/payloads.py:read_push_text",
    "aegis/protocol/payloads.py:read_push",
    "aegis/protocol/payloads.py:read_ack",
    "aegis/protocol/crypto.py:unseal",
)


@functools.cache
def session() -> Any:
    from tests.support.stages import up

    return up()


def one(data: bytes) -> None:
    from aegis.errors import EnvelopeInvalid, SealInvalid
    from aegis.protocol import payloads
    from aegis.protocol.agent import Phase
    from aegis.protocol.agent_happenings import Acknowledged, Order, Refused
    from aegis.protocol.crypto import seal, shared_key, unseal
    from tests.support.sessions import WALL
    from tests.support.stages import GATEWAY

    for read in (payloads.read_push, payloads.read_ack):
        try:
            read(data)
        except EnvelopeInvalid as error:
            said = str(error)
            assert said
    with contextlib.suppress(SealInvalid):
        unseal(bytes(32), data[:12], data[12:])
        raise AssertionError("a seal that nobody made opened")
    agent = session()
    key = shared_key(agent.public_key, GATEWAY.key)
    for text in (data, base64.b64encode(data)):
        payload = base64.b64encode(seal(key, GATEWAY.NONCE, text)).decode()
        for name in ("modules", "policies", "ack", "threats"):
            frame = GATEWAY.frame(f"backend.{name}", payload, nonce=base64.b64encode(GATEWAY.NONCE).decode())
            (happened,) = agent.receive(frame, 0, WALL)
            assert isinstance(happened, Order | Acknowledged | Refused)
    frame_said = {
        "channel": "backend.modules",
        "payload": data.decode("latin-1"),
        "nonce": data[:32].decode("latin-1"),
    }
    (happened,) = agent.receive(json.dumps(frame_said), 0, WALL)
    assert isinstance(happened, Refused)
    assert agent.phase is Phase.UP
    assert agent.outgoing() == []


if __name__ == "__main__":
    from tests.fuzz.entry import main

    main("push")
