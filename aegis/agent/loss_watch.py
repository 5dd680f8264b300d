"""Tells of records lost in the ring: a condition while it happens, and a loss event for each second and kind."""

from __future__ import annotations

from collections.abc import Mapping

from aegis.model.event import LossEvent
from aegis.runtime.module import Clock, Health, History

REASON = "ring_full"
QUIET_NS = 60_000_000_000  # without a further loss the condition ends


class LossWatch:
    """`take` what each kind has lost so far, once a second or oftener: within 1 s of the first loss it is known."""

    def __init__(self, clock: Clock, health: Health, history: History) -> None:
        self._clock = clock
        self._health = health
        self._history = history
        self._known: dict[str, int] = {}
        self._last_ns = 0

    def start(self, lost: Mapping[str, int]) -> None:
        """What an agent before this one lost is not told again."""
        self._known = dict(lost)

    def take(self, lost: Mapping[str, int]) -> None:
        """`lost`: records lost to a full ring since the tables were made, by kind."""
        found = []
        for kind, total in lost.items():
            count = total - self._known.get(kind, 0)
            if count > 0:
                self._known[kind] = total
                now_ns = self._clock.wall_ns()
                found.append(LossEvent(time_ns=now_ns, stage="ring", kind=kind, reason=REASON, count=count))
        now = self._clock.monotonic_ns()
        if found:
            self._last_ns = now
            self._history.append(found)
            text = ", ".join(f"{loss.count} {loss.kind}" for loss in found)
            self._health.raise_("records_lost", f"records lost in the ring within a second: {text}")
        elif self._last_ns and now - self._last_ns > QUIET_NS:
            self._last_ns = 0
            self._health.clear("records_lost")
