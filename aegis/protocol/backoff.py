"""When to try again: full jitter, so that many agents that lost one gateway do not come back as one."""

from __future__ import annotations

from collections.abc import Callable

FIRST_S = 5.0
LONGEST_S = 60.0
LONGEST_HINT_S = 600.0  # a gateway may ask for more patience than ours, but not for ever


class Backoff:
    """`entropy(n)` gives n random bytes. A wait is U(0, span): the span is what was waited already, in all, but no less
    than `first_s` and no more than `cap_s`.

    So a gateway that was away for no longer than `first_s` has everyone back within `first_s`, also who tried often
    meanwhile; and the spans of one that stays away double.
    """

    def __init__(
        self, *, entropy: Callable[[int], bytes], first_s: float = FIRST_S, cap_s: float = LONGEST_S
    ) -> None:
        self._entropy = entropy
        self._first_s = first_s
        self._cap_s = cap_s
        self._failures = 0
        self._waited_s = 0.0

    @property
    def failures(self) -> int:
        """Waits given since the last `reset`."""
        return self._failures

    def next_s(self, hint_s: float | None = None) -> float:
        """Seconds to wait now. With a hint of the gateway's: no less than that, and the jitter behind it."""
        span = min(max(self._waited_s, self._first_s), self._cap_s)
        self._failures += 1
        share = int.from_bytes(self._entropy(7), "big") / (1 << 56)
        waited = span * share
        if hint_s is not None and hint_s > 0:
            waited += min(hint_s, LONGEST_HINT_S)
        self._waited_s += waited
        return waited

    def reset(self) -> None:
        """A session came up: the next failure is a first one."""
        self._failures = 0
        self._waited_s = 0.0
