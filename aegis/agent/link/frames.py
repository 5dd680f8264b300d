"""What came of the frames a gateway sent: taken, errors it reported, or refused, by what was wrong with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from aegis.protocol.agent_happenings import REFUSALS, AgentHappening, PeerError, Refused

STAGE: Final = "link.frames"
IDENTITY: Final = f"received = taken + errors + {' + '.join(REFUSALS)}"


class Frames:
    """Counts since the agent's start, whatever the number of connections."""

    def __init__(self) -> None:
        self._terms = dict.fromkeys(("received", "taken", "errors", *REFUSALS), 0)

    def count(self, happened: Sequence[AgentHappening]) -> None:
        """One frame, by what the session made of it."""
        self._terms["received"] += 1
        self._terms[_came_to(happened)] += 1

    def terms(self) -> Mapping[str, Mapping[str, int]]:
        """The terms of `IDENTITY`."""
        return {STAGE: dict(self._terms)}


def _came_to(happened: Sequence[AgentHappening]) -> str:
    for one in happened:
        if isinstance(one, Refused):
            return one.code if one.code in REFUSALS else "unexpected"
        if isinstance(one, PeerError):
            return "errors"
    return "taken"
