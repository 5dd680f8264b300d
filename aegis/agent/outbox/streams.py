"""The counter of streams: each start of the agent has a number no other ever had, and so has each return of the uplink.

outbox.stream holds `{"next": N}`, replaced durably before a number below N is used. Numbers are taken a few at a time,
so that a return need not wait for the disk; those not used are skipped. Without a file, as at the very first start, it
begins at the seconds of the wall clock, so that a lost file does not lead to numbers used before.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

import msgspec

from aegis.agent import private_file
from aegis.agent.outbox.rows import LARGEST_STREAM
from aegis.errors import StateFileRefused

FILE: Final = "outbox.stream"
TAKEN_AT_ONCE: Final = 8
UNRECORDED: Final = (
    1 << 52
)  # from here on the numbers of a counter that could not be written, drawn at random
_MAX_BYTES = 4096


class _Content(msgspec.Struct, frozen=True):
    next: int


class Streams:
    """Numbers taken and not used yet. `take` is called on the store's thread, the rest on the loop."""

    def __init__(self, directory: str, entropy: Callable[[int], bytes] = os.urandom) -> None:
        self._path = os.path.join(directory, FILE)
        self._entropy = entropy
        self._next = self._end = 0

    def unrecorded(self) -> int:
        """A number for when the counter cannot be written: one of 2^52."""
        return UNRECORDED + int.from_bytes(self._entropy(7), "big") % (LARGEST_STREAM - UNRECORDED)

    def take(self, wall_s: int, beyond: int = 0) -> tuple[int, int]:
        """Numbers from the first to below the second are ours now, durably; all are above `beyond`. Raises StorageError."""
        content = private_file.read(self._path, _MAX_BYTES)
        start = wall_s
        if content is not None:
            try:
                kept = msgspec.json.decode(content, type=_Content).next
                start = kept if 0 < kept < UNRECORDED else wall_s
            except msgspec.DecodeError:
                pass
        start = max(1, start, beyond + 1 if beyond < UNRECORDED else 1)
        if start + TAKEN_AT_ONCE >= UNRECORDED:
            raise StateFileRefused(f"{self._path}: the counter is at its end")
        private_file.replace(self._path, msgspec.json.encode(_Content(start + TAKEN_AT_ONCE)))
        return start, start + TAKEN_AT_ONCE

    def add(self, taken: tuple[int, int]) -> None:
        self._next, self._end = taken

    @property
    def taken(self) -> bool:
        """Whether numbers were ever taken."""
        return self._end > 0

    @property
    def low(self) -> bool:
        """Whether more should be taken soon."""
        return self._end - self._next < TAKEN_AT_ONCE // 2

    def next(self) -> int | None:
        """The next number; None while there is none taken."""
        if self._next >= self._end:
            return None
        self._next += 1
        return self._next - 1
