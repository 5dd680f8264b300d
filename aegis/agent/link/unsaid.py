"""What is to be told to the gateway beside records: answers, kept until a connection took them, and changes of state."""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec

MOST_ANSWERS = 256


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to one order. `policy`: it goes where answers to policy orders go."""

    in_reply_to: str
    ok: bool
    code: str = ""
    text: str = ""
    state: Any = None
    policy: bool = False


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A module's state or a condition. Of one `subject` only the newest matters."""

    subject: tuple[str, ...]
    state: dict[str, Any]


class Unsaid:
    """Answers go first, in their order; of more than there is room for the oldest is dropped and counted."""

    def __init__(self, most_answers: int = MOST_ANSWERS) -> None:
        self._most = most_answers
        self._answers: deque[Reply] = deque()
        self._changes: dict[tuple[str, ...], Change] = {}
        self.dropped = 0

    def answer(self, reply: Reply) -> None:
        if len(self._answers) >= self._most:
            self._answers.popleft()
            self.dropped += 1
        self._answers.append(reply)

    def change(self, change: Change) -> None:
        self._changes.pop(change.subject, None)
        self._changes[change.subject] = change

    def next(self) -> Reply | Change | None:
        """What to say next; it stays until it is `said`."""
        if self._answers:
            return self._answers[0]
        return next(iter(self._changes.values()), None)

    def said(self, one: Reply | Change) -> None:
        """A connection took it. Something newer of its subject may have come meanwhile, and stays."""
        if isinstance(one, Reply):
            if self._answers and self._answers[0] is one:
                self._answers.popleft()
        elif self._changes.get(one.subject) is one:
            del self._changes[one.subject]

    def forget_changes(self) -> None:
        """The connection is over: the next one is told how things stand, not how they got there."""
        self._changes.clear()
