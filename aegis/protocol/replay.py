"""Remembers which nonces a key has used, for as long as one could be used again."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable

from aegis.protocol import v1

DIGEST_BYTES = 16
_OWNER_BYTES = 6  # of them: the beginning of the key, so that a restart still knows whose an entry is


class ReplayCache:
    """(key, nonce) of the last `window_s`, at most `capacity`, of which a key has `of_key`; the oldest goes first, of a
    key with more than its share its own. `evicted` counts those.

    Ask with `seen` before the signature is checked, and `remember` after, so that only the holder of a key adds to it.
    One entry is 16 bytes of a digest and its instant.
    """

    def __init__(self, *, capacity: int = 65536, of_key: int = 256, window_s: float = v1.REPLAY_S) -> None:
        self._capacity = capacity
        self._of_key = of_key
        self._window_ns = int(window_s * 1e9)
        self._seen: OrderedDict[bytes, int] = OrderedDict()  # digest to the monotonic instant it was used
        self._of: dict[bytes, list[bytes]] = {}  # owner to its digests, oldest first
        self.evicted = 0  # forgotten within the window

    def __len__(self) -> int:
        return len(self._seen)

    def seen(self, key: bytes, nonce: str, now_ns: int) -> bool:
        """Whether the key has used the nonce within the window."""
        self._expire(now_ns)
        return _digest(key, nonce) in self._seen

    def remember(self, key: bytes, nonce: str, now_ns: int) -> bytes:
        """The digest, as `entries` has it."""
        self._expire(now_ns)
        digest = _digest(key, nonce)
        if digest in self._seen:
            self._forget(digest)
        own = self._of.get(digest[:_OWNER_BYTES])
        if own is not None and len(own) >= self._of_key:
            self._evict(own[0])
        elif len(self._seen) >= self._capacity:
            self._evict(next(iter(self._seen)))
        self._add(digest, now_ns)
        return digest

    def entries(self, now_ns: int) -> list[tuple[bytes, int]]:
        """Digest and age in ns of what is remembered, oldest first: what a restart is to keep."""
        self._expire(now_ns)
        return [(digest, now_ns - at_ns) for digest, at_ns in self._seen.items()]

    def load(self, entries: Iterable[tuple[bytes, int]], now_ns: int) -> None:
        """Take entries of an earlier process, ages as of now, in front of what is there; the oldest do not fit."""
        older = sorted(entries, key=lambda each: -each[1])
        merged = {digest: now_ns - age for digest, age in older if 0 <= age < self._window_ns}
        merged |= self._seen
        self._seen, self._of = OrderedDict(), {}
        for digest, at_ns in sorted(merged.items(), key=lambda each: each[1])[-self._capacity :]:
            self._add(digest, at_ns)

    def _add(self, digest: bytes, at_ns: int) -> None:
        self._seen[digest] = at_ns
        self._of.setdefault(digest[:_OWNER_BYTES], []).append(digest)

    def _evict(self, digest: bytes) -> None:
        self._forget(digest)
        self.evicted += 1

    def _forget(self, digest: bytes) -> None:
        del self._seen[digest]
        owner = digest[:_OWNER_BYTES]
        own = self._of[owner]
        own.remove(digest)  # the first of a few, but for one that is used again
        if not own:
            del self._of[owner]

    def _expire(self, now_ns: int) -> None:
        while self._seen:
            digest, at_ns = next(iter(self._seen.items()))
            if now_ns - at_ns < self._window_ns:
                return
            self._forget(digest)


def _digest(key: bytes, nonce: str) -> bytes:
    size = DIGEST_BYTES - _OWNER_BYTES
    text = nonce.encode("utf-8", "surrogatepass")
    return key[:_OWNER_BYTES] + hashlib.blake2b(text, key=key, digest_size=size).digest()
