"""What was committed last, and who waits for more: a follower at the end is woken by a commit and answered from memory.

Belongs to the loop. It has what was told by `add` and nothing else, so a place before its `floor` is the database's.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final

import msgspec

from aegis.gateway.store.base import Batch, Page, Query
from aegis.gateway.store.items import type_bits
from aegis.gateway.store.reading import AT_ONCE, END, Found, after_text, gathered, place_after

MOST_HELD: Final = 1024  # batches
MOST_BYTES: Final = 4 << 20
MOST_LOOKED_AT: Final = (
    64 << 10
)  # bytes of items a page looks at here, on the loop; more is for the reader's thread


class _Waiting(msgspec.Struct, frozen=True):
    """A follower that sleeps: which batches are worth waking it for."""

    uid: str | None
    cls: tuple[str, ...]
    types: int


class Recent:
    """All that was stored with a number above `floor`, up to `newest`."""

    def __init__(self) -> None:
        self.floor = 0
        self.newest = 0
        self._held: deque[tuple[int, Batch]] = deque()
        self._bytes = 0
        self._waiting: dict[asyncio.Future[None], _Waiting] = {}
        self._stopping = False

    def begin(self, newest: int) -> None:
        """What is stored already has numbers up to this one."""
        self.floor = self.newest = newest

    def place(self) -> str:
        """The `after` that means: from now on."""
        return after_text(self.newest, END)

    def add(self, stored: Sequence[tuple[int, Batch]]) -> None:
        """These were committed, numbered in order. Whom they may concern is woken."""
        seen: dict[tuple[str | None, str], int] = {}
        for number, batch in stored:
            if number != self.newest + 1:  # what is between was not told of
                self._held.clear()
                self._bytes = 0
                self.floor = number - 1
            self.newest = number
            self._held.append((number, batch))
            self._bytes += len(batch.items)
            for whose in (None, batch.uid):
                seen[whose, batch.cls] = seen.get((whose, batch.cls), 0) | batch.types
        while self._bytes > MOST_BYTES or len(self._held) > MOST_HELD:
            self.floor, gone = self._held.popleft()
            self._bytes -= len(gone.items)
        for future, wanted in self._waiting.items():
            if any(seen.get((wanted.uid, cls), 0) & wanted.types for cls in wanted.cls):
                _wake(future)

    def page(self, query: Query) -> Page | None:
        """As `Store.items` of a checked query with `after`; None where the database has to be asked."""
        batch, index = place_after(query.after or "")
        found = self._behind(batch, index)
        if found is None:
            return None
        wanted = [
            Found(
                id=number, uid=one.uid, newest_ns=one.newest_ns, received_ns=one.received_ns, items=one.items
            )
            for number, one in found
            if _may_hold(one, query)
        ]
        if len(wanted) >= query.limit + AT_ONCE or sum(len(one.items) for one in wanted) > MOST_LOOKED_AT:
            return None
        items, place, is_full = gathered(wanted, query, batch, index)
        if not is_full and (batch, index) < (self.newest, END):
            place = (self.newest, END)
        return Page(items=items, next=after_text(*place))

    def _behind(self, number: int, index: int) -> list[tuple[int, Batch]] | None:
        """What is held from a place on, oldest first; None where there may be more of it."""
        if number < self.floor or (number == self.floor and index < END):
            return None
        found: list[tuple[int, Batch]] = []
        for one in reversed(self._held):
            if one[0] < number:
                break
            found.append(one)
        found.reverse()
        return found

    async def wait(self, query: Query, within_s: float) -> None:
        """Until something is committed behind the query's `after` that it may ask for; so long at most."""
        number, index = place_after(query.after or "")
        bits = type_bits(query.types) if query.types else -1
        behind = self._behind(number, index)
        if behind is None or any(one[0] > number and _may_hold(one[1], query) for one in behind):
            return
        if self._stopping:
            return
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()
        self._waiting[woken] = _Waiting(query.uid, query.cls, bits)
        over = loop.call_later(within_s, _wake, woken)
        try:
            await woken
        finally:
            over.cancel()
            del self._waiting[woken]

    def stop_waiting(self) -> None:
        """Nobody waits from now on."""
        self._stopping = True
        for future in self._waiting:
            _wake(future)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _may_hold(batch: Batch, query: Query) -> bool:
    """Whether a batch may have what is asked for, by what was read off it when it came; as the database chooses."""
    return (
        batch.cls in query.cls
        and (query.uid is None or query.uid == batch.uid)
        and (not query.types or bool(type_bits(query.types) & batch.types))
        and (query.since_ns is None or batch.newest_ns >= query.since_ns)
        and (query.until_ns is None or batch.oldest_ns < query.until_ns)
    )
