"""From a batch that was received to one that is stored and acknowledged.

What came while the store was writing is the next transaction: an idle gateway commits at once, a busy one in bulk. An
acknowledgement leaves after the commit, one for each stream and class of a transaction.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec

from aegis.errors import AegisError
from aegis.gateway.limits import Limits
from aegis.gateway.metrics import Metrics
from aegis.gateway.store import items
from aegis.gateway.store.base import Appended, Batch, Store
from aegis.model.block import BlockClass
from aegis.protocol import gateway_happenings
from aegis.runtime.clock import SystemClock
from aegis.runtime.log import logger

_MOST_A_TRANSACTION: Final = 512  # batches


class Waiting(msgspec.Struct, frozen=True, gc=False):
    """A batch, and the session that is told; its `size` counts against the session until it is stored."""

    session: Any
    batch: Batch
    size: int


class Ingest:
    """All batches of all agents."""

    def __init__(self, store: Store, clock: SystemClock, limits: Limits, metrics: Metrics) -> None:
        self._store = store
        self._clock = clock
        self._limits = limits
        self._metrics = metrics
        self._waiting: list[Waiting] = []
        self._bytes = 0
        self._writing = False
        self._settled: list[asyncio.Future[None]] = []
        self._log = logger(part="ingest")
        self.failing = False  # the last write failed

    def too_much(self, held_bytes: int) -> bool:
        """Whether an agent of which so much waits for the store is to send no more for now."""
        if self._bytes > self._limits.bytes_at_once_in_all:
            return held_bytes > 0
        return held_bytes > self._limits.bytes_at_once

    def offer(self, session: Any, uid: str, what: gateway_happenings.Batch) -> int:
        """Check a batch and put it with those that are stored next; its size. Raises EnvelopeInvalid."""
        received_ns = self._clock.wall_ns()
        batch = items.batch(
            uid=uid,
            cls=what.cls.value,
            stream=what.stream,
            first=what.first,
            boot_id=what.boot_id.hex(),
            items=what.items,
            received_ns=received_ns,
            losses=what.losses,
            shared=what.shared,
        )
        size = len(batch.items)
        self._waiting.append(Waiting(session, batch, size))
        self._bytes += size
        self._metrics.received(what.cls, batch.count, size)
        if not self._writing:
            self._write()
        return size

    async def probe(self) -> None:
        """After a write that failed: see whether the store takes one again. No agent is let in meanwhile."""
        if not self.failing:
            return
        try:
            await self._store.probe()
        except AegisError:
            return
        self._recovered()

    async def settle(self) -> None:
        """Wait until nothing waits any more."""
        while self._writing:
            waiter = asyncio.get_running_loop().create_future()
            self._settled.append(waiter)
            await waiter

    def _write(self) -> None:
        """What waits goes to the store at once: the writer's thread has it when this returns."""
        now, self._waiting = self._waiting[:_MOST_A_TRANSACTION], self._waiting[_MOST_A_TRANSACTION:]
        self._writing = True
        self._store_some(now)

    def _store_some(self, some: list[Waiting]) -> None:
        kept = asyncio.ensure_future(self._store.append([each.batch for each in some]))
        kept.add_done_callback(lambda done: self._stored(some, done))

    def _stored(self, some: list[Waiting], done: asyncio.Future[list[Appended]]) -> None:
        error = asyncio.CancelledError() if done.cancelled() else done.exception()
        if error is None:
            self._kept(some, done.result())
        else:
            self._failed(some, error)
        if self._waiting:
            self._write()
            return
        self._writing = False
        settled, self._settled = self._settled, []
        for waiter in settled:
            if not waiter.done():
                waiter.set_result(None)

    def _kept(self, some: list[Waiting], kept: list[Appended]) -> None:
        self._recovered()
        acknowledged: dict[tuple[int, int, str], tuple[Any, int]] = {}
        for each, (next_, fresh) in zip(some, kept, strict=True):
            self._release(each)
            batch = each.batch
            self._metrics.stored(batch.cls, fresh, known=batch.count - fresh)
            key = (id(each.session), batch.stream, batch.cls)
            before = acknowledged.get(key)
            acknowledged[key] = (each.session, next_ if before is None else max(before[1], next_))
        for (_, stream, cls), (session, next_) in acknowledged.items():
            session.acknowledge(stream, BlockClass(cls), next_)

    def _failed(self, some: list[Waiting], error: BaseException) -> None:
        """Nothing was kept, so nothing is acknowledged; each agent sends it again when it is back.

        What came behind it of the same sessions goes too: stored, it would move the cursor past what failed.
        """
        self.refused(error)
        self._metrics.count("store_failed")
        sessions = {id(each.session): each.session for each in some}
        behind = [each for each in self._waiting if id(each.session) in sessions]
        self._waiting = [each for each in self._waiting if id(each.session) not in sessions]
        for each in (*some, *behind):
            self._release(each)
        for session in sessions.values():
            session.not_stored()

    def refused(self, error: BaseException) -> None:
        """The data directory did not take a write, whoever's it was: nobody is let in until `probe` finds that it does."""
        if not self.failing:
            hint = error.hint if isinstance(error, AegisError) else None
            self._log.error("the store takes no writes", error=str(error) or repr(error), hint=hint)
        self.failing = True

    def _recovered(self) -> None:
        if self.failing:
            self.failing = False
            self._log.info("the store takes writes again")

    def _release(self, each: Waiting) -> None:
        self._bytes -= each.size
        each.session.stored(each.size)
