"""What is wrong with a peer's frames, told without letting the peer write the log or steer a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

EVERY_NS = 60_000_000_000


def escaped(text: str, most: int = 200) -> str:
    """A stranger's words, at most so many characters of them, none of which is a control character."""
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape", "surrogatepass").decode()
        for one in text[:most]
    )[:most]


class Complaints:
    """Tells the first complaint of each kind a minute, and then how many like it were not told."""

    def __init__(self, tell: Callable[..., None], now_ns: Callable[[], int]) -> None:
        self._tell = tell
        self._now_ns = now_ns
        self._told_ns: dict[str, int] = {}
        self._untold: Counter[str] = Counter()

    def add(self, event: str, code: str, text: str) -> None:
        """`event` and `code` are ours, so there are few kinds; `text` may be the peer's, one line."""
        kind, now_ns = f"{event} {code}", self._now_ns()
        told_ns = self._told_ns.get(kind)
        if told_ns is not None and now_ns - told_ns < EVERY_NS:
            self._untold[kind] += 1
            return
        self._told_ns[kind] = now_ns
        self._tell(event, code=code, text=text, like_it_untold=self._untold.pop(kind, 0))
