"""Runs of our programs that the kernel left out, because the same program ran on that CPU already.

What such a run would have recorded is in no counter of ours: the kernel counts it by program, in `recursion_misses`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from aegis.model.event import LossEvent
from aegis.runtime.module import Clock, History

IDENTITY = "missed = told"
STAGE = "programs"
REASON = "recursion"


class MissedRuns:
    """`take` what each program has missed so far; each further miss becomes part of a loss event."""

    def __init__(self, clock: Clock, history: History) -> None:
        self._clock = clock
        self._history = history
        self._seen: dict[int, int] = {}  # by program id, of programs that are loaded
        self._missed = 0
        self._told: Counter[str] = Counter()  # by the program's name

    def take(self, misses: Mapping[int, tuple[str, int]]) -> None:
        """`misses`: name and count by program id, of every program that is loaded now."""
        found = []
        for identity, (name, count) in misses.items():
            further = count - self._seen.get(identity, 0)
            if further > 0:
                self._missed += further
                found.append(
                    LossEvent(
                        time_ns=self._clock.wall_ns(), stage=STAGE, kind=name, reason=REASON, count=further
                    )
                )
        self._seen = {identity: count for identity, (_, count) in misses.items()}
        if found:
            self._history.append(found)
            for loss in found:
                self._told[loss.kind] += loss.count

    def terms(self) -> dict[str, dict[str, int]]:
        """Of the identity: what was missed, and what of it an event told."""
        return {STAGE: {"missed": self._missed, "told": self._told.total()}}

    def losses(self) -> dict[str, dict[str, int]]:
        """By program that missed any."""
        return {f"{STAGE}.{name}": {REASON: count} for name, count in self._told.items()}
