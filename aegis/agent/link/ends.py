"""How a connection ended: by whom, why, and when to come back."""

from __future__ import annotations

import re

from websockets.exceptions import ConnectionClosed

from aegis.agent.link.complaints import escaped
from aegis.errors import ConnectionLost

REPLACED, REPLACED_S = 4001, 60.0  # two that take each other's place do it once a minute
_SECONDS = re.compile(r"\b([0-9]{1,5}(?:\.[0-9]{1,3})?) ?s\b")


class BeginAnew(Exception):
    """The session is to be followed by another one now; nobody failed."""


class Replaced(ConnectionLost):
    """Another connection with this agent's key has taken the place of this one."""

    code = "session_conflict"


def lost(error: ConnectionClosed) -> ConnectionLost:
    """What the library says of a connection that is closed, with the gateway's hint when to come back."""
    if error.rcvd is not None:
        if error.rcvd.code == REPLACED:
            return Replaced(f"closed by the gateway: {escaped(error.rcvd.reason)}", retry_s=REPLACED_S)
        said = f"closed by the gateway: {error.rcvd.code} {escaped(error.rcvd.reason)}".rstrip()
        return ConnectionLost(said, retry_s=hint_of(error.rcvd.code, error.rcvd.reason))
    if error.sent is not None:
        return ConnectionLost(f"closed here: {error.sent.code} {escaped(error.sent.reason)}".rstrip())
    cause = error.__cause__
    text = getattr(cause, "strerror", None) or (str(cause) if cause is not None else "")
    return ConnectionLost(f"the connection broke: {text or 'no close frame came'}")


def hint_of(code: int, reason: str) -> float | None:
    """Seconds in the words of a gateway that has no room now (1013) or goes away (1001, 1012); None where it says none."""
    found = _SECONDS.search(reason) if code in {1001, 1012, 1013} else None
    return float(found[1]) if found else None
