"""One timer for all connections: each stands in the slot of its next look, and a slot costs nothing until it comes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

SLOT_NS: Final = 250_000_000


class Timed(Protocol):
    """`due_ns` is the wheel's own note of when it looks next; 0 while it does not."""

    due_ns: int

    def look(self, now_ns: int) -> int | None:
        """Do what is due; when to look again (monotonic ns), None for never."""
        ...


class Wheel:
    """`look` comes up to one slot late, and never early. To be looked at sooner costs one more entry."""

    def __init__(self, now_ns: int) -> None:
        self._slots: dict[int, list[Timed]] = {}
        self._turned = now_ns // SLOT_NS

    def __len__(self) -> int:
        return sum(map(len, self._slots.values()))

    def want(self, thing: Timed, due_ns: int) -> None:
        """Look at it at `due_ns`, or before where that is wanted already."""
        if thing.due_ns and thing.due_ns <= due_ns:
            return
        thing.due_ns = due_ns
        slot = max(-(-due_ns // SLOT_NS), self._turned + 1)
        self._slots.setdefault(slot, []).append(thing)

    def turn(self, now_ns: int, failed: Callable[[Timed, Exception], None]) -> None:
        """Look at everything that is due. What one of them raises ends nothing."""
        until = now_ns // SLOT_NS
        for slot in range(self._turned + 1, until + 1):
            self._turned = slot
            for thing in self._slots.pop(slot, ()):
                if not thing.due_ns:
                    continue
                if -(-thing.due_ns // SLOT_NS) > slot:
                    continue  # it stands in a later slot too
                thing.due_ns = 0
                try:
                    following = thing.look(now_ns)
                except Exception as error:  # noqa: BLE001  told, and the others are looked at
                    failed(thing, error)
                    continue
                if following is not None:
                    self.want(thing, following)
