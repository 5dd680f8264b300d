"""How things stand on an agent's host, as it told last: each module's state, and each condition that holds.

An agent tells all of it when it connects and then what changes. Kept in memory only, encoded as it came; bounded for
one agent and in all, because an agent may name what it likes.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

MOST: Final = 64  # modules and conditions of one agent
LONGEST: Final = 1024  # bytes of one
MOST_BYTES: Final = 64 << 20  # of all agents
_SUBJECTS: Final = {"module": ("name",), "condition": ("source", "code")}

Subject = tuple[str, ...]


class Standing:
    """Of one agent; only `Standings` changes it."""

    __slots__ = ("told",)

    def __init__(self) -> None:
        self.told: dict[Subject, bytes] = {}

    def of(self, what: str) -> list[msgspec.Raw]:
        """The `module`s or the `condition`s, by name."""
        return [msgspec.Raw(said) for subject, said in sorted(self.told.items()) if subject[0] == what]


class Standings:
    """What all agents' have in common: the bytes they take together."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self.held_bytes = 0
        self._most_bytes = most_bytes

    def told(self, standing: Standing, state: dict[str, Any]) -> None:
        """One message `state`. What names no subject, is too long or one too many is not kept."""
        subject = _subject(state)
        if subject is None:
            return
        self._drop(standing, subject)
        if state.get("holds") is False:
            return
        said = msgspec.json.encode(state)
        if (
            len(said) > LONGEST
            or len(standing.told) >= MOST
            or self.held_bytes + len(said) > self._most_bytes
        ):
            return
        standing.told[subject] = said
        self.held_bytes += len(said)

    def begin(self, standing: Standing) -> None:
        """The agent is about to tell all of it."""
        for subject in list(standing.told):
            self._drop(standing, subject)

    def _drop(self, standing: Standing, subject: Subject) -> None:
        self.held_bytes -= len(standing.told.pop(subject, b""))


def _subject(state: dict[str, Any]) -> Subject | None:
    what = state.get("what")
    names = _SUBJECTS.get(what) if isinstance(what, str) else None
    if names is None:
        return None
    said = [state.get(name) for name in names]
    if not all(isinstance(one, str) and one for one in said):
        return None
    return (str(what), *map(str, said))
