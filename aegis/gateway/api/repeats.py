"""`Idempotency-Key`: the same key with the same body gets the first answer again, and the order is sent once.

Kept in memory for ten minutes: a gateway that restarted in between knows no key.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from aegis.gateway.api.problems import Refusal
from aegis.runtime.clock import SystemClock

KEPT_NS = 600 * 1_000_000_000
MOST_KEYS = 4096
LONGEST_KEY = 128
CLOSE_S = 0.5

_monotonic_ns = SystemClock().monotonic_ns


class Kept(msgspec.Struct):
    """One key: the digest of what was asked, since when it is known, and the answer to come."""

    digest: bytes
    since_ns: int
    answer: asyncio.Task[Any]


class Repeats:
    """The keys of one API."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Kept] = OrderedDict()

    async def once(self, key: str | None, asked: object, make: Callable[[], Awaitable[Any]]) -> Any:
        """What `make` returns; of a key that is known, what it returned then. An error is told to who waits, and not kept.

        Without a key each call makes. Raises Refusal for a key that was given with another request, for one that
        cannot be a key, and where too many are known.
        """
        if key is None:
            return await make()
        if not 1 <= len(key) <= LONGEST_KEY or not key.isascii() or not key.isprintable():
            raise Refusal(
                400, "idempotency_key_invalid", f"a key has 1 to {LONGEST_KEY} printable characters"
            )
        digest = hashlib.sha256(msgspec.json.encode(asked, order="deterministic")).digest()
        self._forget()
        known = self._kept.get(key)
        if known is None:
            if len(self._kept) >= MOST_KEYS:
                raise Refusal(
                    429, "too_many_requests", "too many keys at once", headers={"Retry-After": "60"}
                )
            # A task of its own: the first caller may go away while another waits for the same answer.
            task = asyncio.ensure_future(make())
            task.add_done_callback(lambda done: self._looked_at(key, done))
            known = self._kept[key] = Kept(digest, _monotonic_ns(), task)
        elif known.digest != digest:
            raise Refusal(
                422,
                "idempotency_key_reused",
                "this key was given with another request",
                hint="use a new key for each request that is to have an effect of its own",
            )
        return await asyncio.shield(known.answer)

    def _forget(self) -> None:
        """Keys past their time; they are in the order of their coming."""
        oldest = _monotonic_ns() - KEPT_NS
        while self._kept and next(iter(self._kept.values())).since_ns < oldest:
            self._kept.popitem(last=False)

    async def close(self) -> None:
        """What is being made has a moment to be ready, since it waits for nobody any more; then it is cancelled."""
        tasks = [one.answer for one in self._kept.values() if not one.answer.done()]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=CLOSE_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        self._kept.clear()

    def _looked_at(self, key: str, task: asyncio.Task[Any]) -> None:
        """An error had no effect: the key may try again. When nobody waits, it is not a warning of the loop."""
        if task.cancelled() or task.exception() is not None:
            known = self._kept.get(key)
            if known is not None and known.answer is task:
                del self._kept[key]
