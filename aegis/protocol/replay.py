"""Remembers which nonces a key has used, for as long as one could be used again."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable

from aegis.protocol import v1

DIGEST_BYTES = 16


class ReplayCache:
    """(key, nonce) of the last `window_s`, at most `capacity`; the oldest goes first, and `evicted` counts those.

    Ask with `seen` before the signature is checked, and `remember` after, so that only the holder of a key adds to it.
    One entry is 16 bytes of a digest and its instant.
    """

    def __init__(self, *, capacity: int = 65536, window_s: float = v1.REPLAY_S) -> None:
        self._capacity = capacity
        self._window_ns = int(window_s * 1e9)
        self._seen: OrderedDict[bytes, int] = OrderedDict()  # digest to the monotonic instant it was used
        self.evicted = 0  # forgotten within the window

    def __len__(self) -> int:
        return len(self._seen)

    def seen(self, key: bytes, nonce: str, now_ns: int) -> bool:
        """Whether the key has used the nonce within the window."""
        self._expire(now_ns)
        return _digest(key, nonce) in self._seen

    def remember(self, key: bytes, nonce: str, now_ns: int) -> None:
        self._expire(now_ns)
        if len(self._seen) >= self._capacity:
            self._seen.popitem(last=False)
            self.evicted += 1
        digest = _digest(key, nonce)
        self._seen[digest] = now_ns
        self._seen.move_to_end(digest)

    def entries(self, now_ns: int) -> list[tuple[bytes, int]]:
        """Digest and age in ns of what is remembered, oldest first: what a restart is to keep."""
        self._expire(now_ns)
        return [(digest, now_ns - at_ns) for digest, at_ns in self._seen.items()]

    def load(self, entries: Iterable[tuple[bytes, int]], now_ns: int) -> None:
        """Take entries of an earlier process, ages as of now, in front of what is there; the oldest do not fit."""
        older = sorted(entries, key=lambda each: -each[1])
        merged = {digest: now_ns - age for digest, age in older if 0 <= age < self._window_ns}
        merged |= self._seen
        kept = sorted(merged.items(), key=lambda each: each[1])[-self._capacity :]
        self._seen = OrderedDict(kept)

    def _expire(self, now_ns: int) -> None:
        while self._seen:
            digest, at_ns = next(iter(self._seen.items()))
            if now_ns - at_ns < self._window_ns:
                return
            del self._seen[digest]


def _digest(key: bytes, nonce: str) -> bytes:
    return hashlib.blake2b(nonce.encode("utf-8", "surrogatepass"), key=key, digest_size=DIGEST_BYTES).digest()
