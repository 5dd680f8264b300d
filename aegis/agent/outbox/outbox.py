"""What waits for the gateway: taken from the bus, handed to the uplink, kept on disk until it is acknowledged.

    bus -> take -> open blocks -> queue -> sendable -> uplink
                                   |  ^
                           store (its own thread)

A record survives kill -9 and a power cut once its block is committed: findings and verdicts at once, events within
`outbox.commit_ms` of their block's end. A block that the gateway acknowledges before that is never written. Records of
an earlier life are sent in the stream they were given then, as backlog.

Nothing here raises for want of storage: a file that cannot be had or written is the condition `storage_degraded`, blocks
then wait in memory, and it is tried again with back-off. After a failed write or flush nobody knows what the file
holds, so all that is needed of it and all that memory has go into another.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Any, Final

from aegis.agent.outbox.builder import Builder, Draft
from aegis.agent.outbox.changes import Changes, Evicted, Fetched, Opened, Totals
from aegis.agent.outbox.queue import Fetch, Limits, Queue
from aegis.agent.outbox.rows import CLASSES
from aegis.agent.outbox.store import Store
from aegis.agent.outbox.streams import Streams
from aegis.errors import SpoolCorrupt, SpoolUncertain, StorageError
from aegis.model.block import Block, BlockClass, Encoded
from aegis.runtime.module import Clock, Health, Log
from aegis.runtime.offload import Worker
from aegis.runtime.settings import Settings

IDENTITY: Final = "taken + recovered = acknowledged + evicted + unwritable + corrupt + pending"
DEGRADED: Final = "storage_degraded"
QUARANTINED: Final = "outbox_quarantined"
RETRY_FIRST_NS: Final = 100_000_000
RETRY_MOST_NS: Final = 15_000_000_000


class Outbox:
    """One agent's. Construction does no I/O; all methods are for the loop's thread.

    `on_ready` is called when something became sendable, at most once until `sendable` is called again.
    """

    store_type: type[Store] = Store

    def __init__(
        self,
        directory: str,
        settings: Settings,
        *,
        boot_id: bytes,
        clock: Clock,
        health: Health,
        log: Log,
    ) -> None:
        self.on_ready: Callable[[], None] | None = None
        self._clock = clock
        self._health = health
        self._log = log
        self._builder = Builder()
        self._limits = limits(settings)
        self._queue = Queue(self._limits, boot_id)
        self._store = self.store_type(directory)
        self._streams = Streams(directory)
        self._worker: Worker | None = None
        self._busy = False  # a job is on the store's thread
        self._adopted = False
        self._open = False
        self._doubted = False  # the file is not to be written any more: another is needed
        self._returning = True
        self._told = False
        self._closing = False
        self._retry_ns: int | None = None  # when to try again, while degraded
        self._wait_ns = RETRY_FIRST_NS
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ns = 0
        self._ready = asyncio.Event()
        self._rested: list[asyncio.Future[None]] = []
        self._forced = False

    # ---- life

    async def open(self) -> None:
        """Take over what is on disk, and begin a stream. Never raises for want of storage."""
        self._queue.begin_stream(self._streams.unrecorded())
        self._worker = Worker("outbox")
        self._pump()
        await self._rest()

    async def close(self, within_s: float) -> None:
        """Write what can be written in that time, and let go of the file. Twice is harmless."""
        worker = self._worker
        if worker is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self.flush()
                while self._busy:
                    await self._rest()
        self._closing = True
        self._worker = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        closed = worker.submit(self._store.close)
        worker.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(closed, max(within_s, 0.1))
            worker.join(0.1)

    async def flush(self) -> bool:
        """Write everything there is now; whether it is on disk."""
        self._admit(self._builder.close_all())
        self._forced = True
        self._pump()
        while self._busy:
            await self._rest()
        self._forced = False
        return self._queue.stored()

    # ---- in

    def take(self, run: Encoded) -> None:
        """Records of one class. Never waits, never raises."""
        now_ns = self._clock.monotonic_ns()
        self._queue.shelf(run.cls).tally.taken += run.count
        opened = self._builder.drafts
        closed = self._builder.add(run, now_ns)
        if closed:
            self._admit(closed)
        if closed or self._timer is None or self._builder.drafts != opened:
            self._arm()  # else nothing is due sooner than before

    def _admit(self, drafts: list[Draft]) -> None:
        now_ns = self._clock.monotonic_ns()
        for draft in drafts:
            self._queue.add(draft, now_ns)
        if drafts:
            self._queue.squeeze(now_ns)
            self._tell()
            pressed = self._queue.memory_bytes() > self._limits.memory // 2
            if pressed or any(not self._limits.delay_ns(draft.cls) for draft in drafts):
                self._pump()

    # ---- out

    def sendable(self, most_bytes: int) -> list[Block]:
        """The next blocks to send, on the way from now on; [] when there are none yet (`wait`, `on_ready`).

        Up to so many bytes of records, and at least one block when there is one and room for a byte. The first call
        behind `disconnected` begins a new stream if there is a backlog, so that live blocks need not wait for it.
        """
        if self._returning:
            self._returning = False
            self._return()
        found = self._queue.sendable(most_bytes)
        self._told = False
        if not self._queue.ready():
            self._ready.clear()
        self._pump()
        return found

    def confine(self, *, to_findings: bool) -> None:
        """Until the disconnection: `sendable` gives findings alone, for a gateway that takes nothing else."""
        self._queue.confine(to_findings=to_findings)

    def _return(self) -> None:
        if not self._queue.link():
            return
        stream = self._streams.next()
        if stream is not None:
            self._queue.divide()
            self._queue.begin_stream(stream)

    def acknowledged(self, stream: int, cls: BlockClass, next_: int) -> None:
        """The gateway has stored all of (stream, class) below `next_`."""
        if self._queue.acknowledged(stream, cls, next_, self._clock.monotonic_ns()):
            self._arm()

    def disconnected(self) -> None:
        """Everything on the way is sendable again."""
        self._queue.disconnected()
        self._returning = True
        self._told = False
        self._arm()

    async def wait(self) -> None:
        """Until something is sendable. Before the first `sendable` of a connection anything pending is."""
        while not self.ready():
            self._ready.clear()
            await self._ready.wait()

    def ready(self) -> bool:
        """Whether `sendable` has something now."""
        return self._queue.ready() or (self._returning and any(shelf.disk.rows for shelf in self._queue))

    def _tell(self) -> None:
        if not self._told and self.ready():
            self._told = True
            self._ready.set()
            if self.on_ready is not None:
                self.on_ready()

    # ---- figures

    def terms(self) -> Mapping[str, Mapping[str, int]]:
        """The terms of `IDENTITY` by class, in records since the start. `recovered` were on disk when it began."""
        found = {}
        for shelf in self._queue:
            tally = shelf.tally
            found[f"outbox.{shelf.cls}"] = {
                "taken": tally.taken,
                "recovered": tally.recovered,
                "acknowledged": tally.acknowledged,
                "evicted": tally.evicted,
                "unwritable": tally.unwritable,
                "corrupt": tally.corrupt,
                "pending": self._builder.records(shelf.cls) + shelf.pending(),
            }
        return found

    def losses(self) -> dict[str, dict[str, int]]:
        """Records lost here since the start, by stage and reason, without zeros."""
        found = {}
        for name, terms in self.terms().items():
            lost = {reason: terms[reason] for reason in ("evicted", "unwritable", "corrupt") if terms[reason]}
            if lost:
                found[name] = lost
        return found

    def pending(self) -> dict[BlockClass, int]:
        """Records that wait, by class."""
        return {shelf.cls: self._builder.records(shelf.cls) + shelf.pending() for shelf in self._queue}

    @property
    def stream(self) -> int:
        """The stream of blocks that close now."""
        return self._queue.stream

    @property
    def degraded(self) -> bool:
        return self._queue.degraded

    def disk_bytes(self) -> int:
        """Bytes of rows on disk, as the caps count them."""
        return sum(shelf.disk.size for shelf in self._queue)

    def memory_bytes(self) -> int:
        """Bytes of blocks in memory, as the cap counts them, and of open ones."""
        return self._queue.memory_bytes() + self._builder.size()

    def written_bytes(self) -> int | None:
        """What the store's thread made the kernel write so far; None where /proc does not say."""
        return self._store.written_bytes()

    # ---- time

    def _arm(self) -> None:
        """See that `_turn` runs when the next thing is due."""
        if self._worker is None or self._closing:
            return
        at_ns, job_ns = self._builder.due_ns(), self._next_job_ns()
        if at_ns is None or (job_ns is not None and job_ns < at_ns):
            at_ns = job_ns
        if self._timer is not None:
            if self._timer_ns == at_ns:
                return
            self._timer.cancel()  # what comes too early wakes the loop for nothing
            self._timer = None
        if at_ns is None:
            return
        self._timer_ns = at_ns
        # Whole milliseconds, as uvloop counts, and upwards: one that comes early finds nothing to do and comes again.
        left_ms = max(0, -((self._clock.monotonic_ns() - at_ns) // 1_000_000))
        self._timer = asyncio.get_running_loop().call_later(left_ms / 1e3, self._turn)

    def _next_job_ns(self) -> int | None:
        if self._busy:
            return None  # its end looks again
        if self._retry_ns is not None:
            return self._retry_ns
        return self._queue.due_ns()

    def _turn(self) -> None:
        self._timer = None
        now_ns = self._clock.monotonic_ns()
        self._admit(self._builder.close_due(now_ns))
        job_ns = self._next_job_ns()
        if job_ns is not None and job_ns <= now_ns:
            self._pump()
        self._arm()

    # ---- the store's thread, one job at a time

    def _pump(self) -> None:
        """Give the store's thread its next job, if it has none and there is one."""
        if self._busy or self._worker is None or self._closing:
            return
        now_ns = self._clock.monotonic_ns()
        may_try = self._retry_ns is None or now_ns >= self._retry_ns or self._forced
        if not self._open:
            if may_try:
                self._submit(self._opening(), self._opened)
        elif self._doubted:
            if may_try:
                self._submit(self._rebuilding(), self._rebuilt)
            else:
                self._read()
        else:
            changes = (
                self._queue.changes(now_ns, force=self._forced or self._retry_ns is not None)
                if may_try
                else None
            )
            if changes is None and self._retry_ns is not None and may_try:
                changes = Changes(losses=self._queue.untold())  # nothing to write but to see whether one can
            if changes is not None:
                self._submit(self._applying(changes), lambda found: self._applied(changes, *found))
            elif self._streams.low and may_try:
                self._take_streams()
            else:
                self._read()

    def _submit(self, call: Callable[[], Any], done: Callable[[Any], None]) -> None:
        assert self._worker is not None
        self._busy = True
        self._worker.submit(call).add_done_callback(lambda future: self._finished(future, done))

    def _finished(self, future: asyncio.Future[Any], done: Callable[[Any], None]) -> None:
        self._busy = False
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            done(future.result())
        elif isinstance(error, Exception):
            self._failed(error)
        rested, self._rested = self._rested, []
        for waiter in rested:
            if not waiter.done():
                waiter.set_result(None)
        if error is None or not self._forced or self._retry_ns == 0:
            self._pump()
        self._tell()
        self._arm()

    async def _rest(self) -> None:
        """Until the job on the thread is done."""
        if self._busy:
            waiter = asyncio.get_running_loop().create_future()
            self._rested.append(waiter)
            await waiter

    def _read(self) -> None:
        fetch = self._queue.wanted() if self._store.readable else None
        if fetch is not None:
            self._submit(
                lambda: self._store.fetch(fetch.cls, fetch.low, fetch.high, fetch.most_bytes),
                lambda rows: self._fetched(fetch, rows),
            )

    def _fetched(self, fetch: Fetch, rows: list[Fetched]) -> None:
        now_ns = self._clock.monotonic_ns()
        self._queue.fetched(fetch, rows, now_ns)
        if self._queue.missed(now_ns):
            self._quarantined("rows of the file are gone", uncounted=False)

    def _applying(
        self, changes: Changes
    ) -> Callable[[], tuple[Mapping[BlockClass, Evicted], StorageError | None]]:
        def call() -> tuple[Mapping[BlockClass, Evicted], StorageError | None]:
            evicted = self._store.apply(changes)
            try:
                self._store.tidy()
            except StorageError as error:
                return evicted, error  # what was committed stays so
            return evicted, None

        return call

    def _applied(
        self, changes: Changes, evicted: Mapping[BlockClass, Evicted], trouble: StorageError | None
    ) -> None:
        self._queue.applied(changes, evicted, self._clock.monotonic_ns())
        self._recovered()
        if isinstance(trouble, (SpoolUncertain, SpoolCorrupt)):
            self._failed(trouble)
        elif trouble is not None:
            self._log.debug("outbox file not tidied", error=str(trouble))

    def _opening(self) -> Callable[[], tuple[Opened, tuple[int, int] | None]]:
        wall_s = self._clock.wall_ns() // 1_000_000_000
        fresh = not self._streams.taken

        def call() -> tuple[Opened, tuple[int, int] | None]:
            opened = self._store.open()
            return opened, self._streams.take(wall_s, opened.last_stream) if fresh else None

        return call

    def _opened(self, result: tuple[Opened, tuple[int, int] | None]) -> None:
        opened, taken = result
        self._open = True
        if taken is not None:
            self._streams.add(taken)
            self._queue.begin_stream(self._streams.next() or self._queue.stream)
        if opened.quarantined is not None or opened.uncounted:
            self._quarantined(
                opened.quarantined or "the state row could not be read", uncounted=opened.uncounted
            )
        if self._adopted:
            self._doubted = True  # what it holds beyond what is wanted is left behind by another
            return
        self._adopted = True
        self._queue.adopt(opened)
        self._recovered()

    def _quarantined(self, text: str, *, uncounted: bool) -> None:
        lost = {name: terms["corrupt"] for name, terms in self.terms().items() if terms["corrupt"]}
        self._log.error("outbox file set aside", error=text, uncounted=uncounted)
        more = "; records of it that are not counted may be lost" if uncounted else ""
        self._health.raise_(QUARANTINED, f"{text}: the rows that could be read are in a new file{more}")
        if lost:
            self._log.error("records lost in the outbox file", **lost)

    def _rebuilding(self) -> Callable[[], tuple[dict[BlockClass, Totals], set[tuple[BlockClass, int]]]]:
        rebuild = self._queue.begin_rebuild()
        return lambda: self._store.rebuild(rebuild.spans, rebuild.losses, rebuild.flying.keys())

    def _rebuilt(self, result: tuple[dict[BlockClass, Totals], set[tuple[BlockClass, int]]]) -> None:
        totals, missing = result
        lost = self._queue.rebuilt(totals, missing, self._clock.monotonic_ns())
        self._doubted = False
        if lost:
            self._quarantined("rows of the file could not be read", uncounted=False)
        self._recovered()

    def _take_streams(self) -> None:
        wall_s = self._clock.wall_ns() // 1_000_000_000
        self._submit(lambda: self._streams.take(wall_s), self._streams.add)

    # ---- trouble

    def _failed(self, error: Exception) -> None:
        now_ns = self._clock.monotonic_ns()
        self._queue.failed(now_ns)
        self._queue.not_rebuilt()
        if isinstance(error, (SpoolUncertain, SpoolCorrupt)) and self._open:
            self._doubted = True
        if not self._store.readable:
            self._open = False
        elif not isinstance(error, StorageError):
            self._doubted = True
        first = self._retry_ns is None
        # A file in doubt is left for another at once, the first time.
        at_once = first and self._doubted
        self._wait_ns = RETRY_FIRST_NS if first else min(2 * self._wait_ns, RETRY_MOST_NS)
        self._retry_ns = 0 if at_once else now_ns + self._wait_ns
        self._queue.degraded = True
        self._queue.squeeze(now_ns)
        text = str(error) if isinstance(error, StorageError) else f"{type(error).__name__}: {error}"
        self._health.raise_(
            DEGRADED,
            f"{text}; blocks for the gateway are not on disk, {self._limits.memory} bytes of them are kept in memory",
            getattr(error, "hint", None) or "",
        )
        if first:
            self._log.error("outbox cannot be written", error=text)

    def _recovered(self) -> None:
        """The store did what was asked of it."""
        if self._retry_ns is None:
            return
        self._retry_ns = None
        self._wait_ns = RETRY_FIRST_NS
        self._queue.degraded = False
        self._health.clear(DEGRADED)
        self._log.info("outbox is written again")


def limits(settings: Settings) -> Limits:
    """The options of the table `outbox`."""
    total = settings.integer("bytes")
    return Limits(
        disk=total,
        memory=settings.integer("memory_bytes"),
        commit_ns=round(settings.number("commit_ms") * 1e6),
        share={cls: total * settings.integer(f"{cls}_percent") // 100 for cls in CLASSES},
    )
