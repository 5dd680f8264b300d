from __future__ import annotations

import pytest
from websockets.exceptions import ConnectionClosedError
from websockets.frames import Close

from aegis.agent.link.ends import hint_of, lost


@pytest.mark.parametrize(
    ("code", "reason", "seconds"),
    [
        (1013, "retry in 12 s", 12.0),
        (1012, "restarts; back in 1.5s", 1.5),
        (1001, "lame duck 7 s", 7.0),
        (1013, "no room", None),
        (1013, "12 seconds", None),
        (1013, "error 5xs", None),
        (1000, "retry in 12 s", None),
        (1008, "retry in 12 s", None),
        (1013, "999999999999 s", None),
        (1013, "", None),
    ],
)
def test_a_gateways_hint_is_read_from_its_reason(code: int, reason: str, seconds: float | None) -> None:
    assert hint_of(code, reason) == seconds
    closed = ConnectionClosedError(Close(code, reason), None)
    assert lost(closed).retry_s == seconds
    assert str(lost(closed)) == f"closed by the gateway: {code} {reason}".strip()


def test_a_gateways_reason_is_shown_without_its_control_characters() -> None:
    closed = ConnectionClosedError(Close(1013, "\x1b[2J retry in 5 s"), None)
    assert str(lost(closed)) == "closed by the gateway: 1013 \\x1b[2J retry in 5 s"
    assert lost(closed).retry_s == 5


def test_an_end_of_ours_says_so() -> None:
    closed = ConnectionClosedError(None, Close(1009, "too long"))
    assert str(lost(closed)) == "closed here: 1009 too long"


def test_an_end_without_a_close_frame_has_its_cause() -> None:
    closed = ConnectionClosedError(None, None)
    assert str(lost(closed)) == "the connection broke: no close frame came"
    closed.__cause__ = ConnectionResetError(104, "Connection reset by peer")
    assert str(lost(closed)) == "the connection broke: Connection reset by peer"
