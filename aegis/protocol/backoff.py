"""When to try again: full jitter, so that many agents that lost one gateway do not come back as one."""

from __future__ import annotations

from collections.abc import Callable

FIRST_S = 5.0
LONGEST_S = 60.0
LONGEST_HINT_S = 600.0  # a gateway may ask for more patience than ours, but not for ever


class Backoff:
    """`entropy(n)` gives n random bytes. Two waits are U(0, `first_s`), each next from twice that, up to `cap_s`.

    Two: a gateway that starts anew takes a second, and who asked in that second is to be back as soon as the others.
    """

    def __init__(
        self, *, entropy: Callable[[int], bytes], first_s: float = FIRST_S, cap_s: float = LONGEST_S
    ) -> None:
        self._entropy = entropy
        self._first_s = first_s
        self._cap_s = cap_s
        self._failures = 0

    @property
    def failures(self) -> int:
        """Waits given since the last `reset`."""
        return self._failures

    def next_s(self, hint_s: float | None = None) -> float:
        """Seconds to wait now. With a hint of the gateway's: no less than that, and the jitter behind it."""
        # Doubling by a shift that cannot grow without end.
        span = min(self._first_s * (1 << min(max(self._failures - 1, 0), 32)), self._cap_s)
        self._failures += 1
        share = int.from_bytes(self._entropy(7), "big") / (1 << 56)
        waited = span * share
        if hint_s is not None and hint_s > 0:
            waited += min(hint_s, LONGEST_HINT_S)
        return waited

    def reset(self) -> None:
        """A session came up: the next failure is a first one."""
        self._failures = 0
