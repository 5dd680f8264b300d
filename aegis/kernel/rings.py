"""The record ring on an event loop: woken on an edge, drained in budgets, quiet in between.

A producer forces a wake-up only when it finds the reader's word armed, and takes the word. So the reader must look
once more after it armed the word, and again whenever the word has been taken since: between taking it and the wake-up
the record may already have been read, and then the ring's descriptor has nothing to report and nobody would ever call.
"""

from __future__ import annotations

import asyncio
import mmap
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from aegis._native.records import RecordBatch
from aegis.kernel.library import open_library
from aegis.kernel.maps import Map

if TYPE_CHECKING:
    from aegis._native.ringbuf import RingReader

BUDGET: Final = 512  # records a turn of the loop; the longest turn stays near 0.1 ms
SWEEP_S: Final = 0.2
QUIET_S: Final = 0.001  # between reading and arming again, below BUSY_RATE records/s; nothing below CALM_RATE
BUSY_S: Final = 0.050  # above that: a turn for a few records costs several times its work in cold caches
FLOOD_S: Final = (
    0.008  # where that would bring an eighth of the ring, or above FLOOD_RATE: the ring must not fill
)
CALM_RATE: Final = 100
BUSY_RATE: Final = 1_800
LEAVE_RATE: Final = 900  # below this many are few again: the rate of a busy host stumbles
FLOOD_RATE: Final = 10_000
WINDOW_S: Final = 0.05
SETTLE_TRIES: Final = 4  # looks after arming before the loop gets its turn


def open_reader(ring: Map, shared: mmap.mmap) -> RingReader:
    """The native reader; it links libbpf, so it is imported where libbpf is known to be there."""
    open_library()
    from aegis._native.ringbuf import RingReader  # noqa: PLC0415 - see above

    return RingReader(ring.fd, shared)


class RingPump:
    """Reads one ring on a loop and hands each batch to `deliver`. Start with `start`, end with `close`.

    After a wake-up it drains at once, then leaves the word unarmed for 1 ms, but where few come arms it right away: what
    follows a fork is an exec, which must not wait. While many come it does not arm it at all and reads every 50 ms, a flood every 8 ms, so that records do not wake it one by one. `swept` counts records that only
    the sweep found.
    """

    def __init__(
        self,
        ring: Map,
        reader: Map,
        deliver: Callable[[RecordBatch], None],
        *,
        budget: int = BUDGET,
        sweep_s: float = SWEEP_S,
    ) -> None:
        self.swept = 0
        self.wakeups = 0
        self._deliver = deliver
        self._budget = budget
        self._sweep_s = sweep_s
        self._shared = reader.mmap(writable=True)
        try:
            self._reader = open_reader(ring, self._shared)
        except BaseException:
            self._shared.close()
            raise
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listening = False
        self._timer: asyncio.Handle | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._window_records = self._window_bytes = 0
        self._window_started = 0.0
        self._rate = 0.0  # records a second
        self._busy = self._flooded = False
        self._much = ring.max_entries / 8 / BUSY_S  # bytes a second
        self._closed = False

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin on `loop`, with whatever is in the ring already."""
        self._loop = loop
        self._window_started = loop.time()
        self._timer = loop.call_soon(self._settle)
        self._sweeper = loop.call_later(self._sweep_s, self._sweep)

    @property
    def asleep(self) -> bool:
        """Waiting for a wake-up."""
        return self._listening

    def read_counts(self) -> tuple[int, ...]:
        """Records read since the ring was made, by kind."""
        return self._reader.read_counts()

    def drain_now(self) -> int:
        """Read until the ring is empty, whatever the budget; returns the records read."""
        read = 0
        while True:
            read += self._drain()
            if not self._reader.more:
                break
        self._arm_again()
        return read

    def _arm_again(self) -> None:
        """Whoever reads while the pump sleeps may have read the record a wake-up was sent for."""
        if self._listening and (self._reader.more or not self._reader.armed()):
            self._listen(on=False)
            self._settle()

    def _drain(self) -> int:
        """One budget of records."""
        batch = self._reader.drain(self._budget)
        count = len(batch) + batch.unknown + batch.malformed
        self._window_records += count
        self._window_bytes += batch.size
        if count:
            self._deliver(batch)
        return count

    def _wake(self) -> None:
        """The descriptor is readable: a producer took the word."""
        self.wakeups += 1
        self._listen(on=False)
        self._read()

    def _read(self) -> None:
        """Drain; then come back for the rest, or let records gather before the word is armed again.

        While many come the word stays unarmed and the timer alone reads: nobody has to be woken for the next one.
        """
        assert self._loop is not None
        more = False
        try:
            self._drain()
            more = self._reader.more
        finally:  # a listener that raises must not end the reading
            if more:
                self._timer = self._loop.call_soon(self._read)
            else:
                pause = self._pause()
                if pause:
                    self._timer = self._loop.call_later(
                        pause, self._settle if pause == QUIET_S else self._read
                    )
                else:
                    self._timer = self._loop.call_soon(self._settle)

    def _pause(self) -> float:
        """How long records may gather, by the rate of the last full window: one burst is no rate."""
        assert self._loop is not None
        now = self._loop.time()
        if now - self._window_started >= WINDOW_S:
            elapsed = now - self._window_started
            self._rate = self._window_records / elapsed
            self._busy = self._rate >= (LEAVE_RATE if self._busy else BUSY_RATE)
            self._flooded = self._rate > FLOOD_RATE or self._window_bytes / elapsed > self._much
            self._window_records, self._window_bytes, self._window_started = 0, 0, now
        if self._busy:
            return FLOOD_S if self._flooded else BUSY_S
        return QUIET_S if self._rate >= CALM_RATE else 0.0

    def _settle(self) -> None:
        """Arm, drain, and again while the word has been taken; then sleep."""
        assert self._loop is not None
        self._timer = None
        try:
            for _ in range(SETTLE_TRIES):
                self._reader.arm()
                self._drain()
                if self._reader.more:
                    break
                if self._reader.armed():
                    self._listen(on=True)
                    return
        finally:
            if not self._listening:
                self._timer = self._loop.call_later(self._pause() or QUIET_S, self._read)

    def _listen(self, *, on: bool) -> None:
        assert self._loop is not None
        if on and not self._listening:
            self._loop.add_reader(self._reader.epoll_fd, self._wake)
        elif not on and self._listening:
            self._loop.remove_reader(self._reader.epoll_fd)
        self._listening = on

    def _sweep(self) -> None:
        """The net under the wake-ups: what it finds while asleep, no wake-up announced."""
        assert self._loop is not None
        self._sweeper = self._loop.call_later(self._sweep_s, self._sweep)
        if self._listening:
            self.swept += self._drain()
            self._arm_again()

    def close(self) -> None:
        """Leave the loop, then free the ring. What is still in it stays there for the next reader."""
        if self._closed:
            return
        self._closed = True
        for handle in (self._timer, self._sweeper):
            if handle is not None:
                handle.cancel()
        if self._loop is not None:
            self._listen(on=False)
        self._reader.disarm()
        self._reader.close()
        self._shared.close()
