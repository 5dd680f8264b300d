"""Any payload in an error frame: one short printable line, and a session that goes on or ends in order."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

PARSERS = (
    "aegis/protocol/payloads.py:read_error",
    "aegis/protocol/payloads.py:_one_line",
    "aegis/protocol/agent.py:_error",
)


def one(data: bytes) -> None:
    from aegis.protocol import payloads
    from aegis.protocol.agent import Phase
    from aegis.protocol.agent_happenings import Closed, PeerError, ReconnectWanted
    from tests.support.sessions import WALL
    from tests.support.stages import GATEWAY, opened, up

    payload = data.decode("utf-8", "replace")
    text = payloads.read_error(payload)
    assert len(text) <= 512
    assert text == "" or text.isprintable()
    frame = GATEWAY.frame("error", payload)
    error, closed = opened().receive(frame, 0, WALL)
    assert isinstance(error, PeerError)
    assert isinstance(closed, Closed)
    session = up()
    for _ in range(2):
        first, *rest = session.receive(frame, 0, WALL)
        assert isinstance(first, PeerError)
        assert all(isinstance(each, ReconnectWanted | Closed) for each in rest)
    assert session.phase in {Phase.UP, Phase.REGISTERING, Phase.AUTHENTICATING, Phase.CLOSED}


if __name__ == "__main__":
    from tests.fuzz.entry import main

    main("error")
