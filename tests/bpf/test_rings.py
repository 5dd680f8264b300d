"""The pump on both loops: every record read, wake-ups on an edge, and the race that would let it sleep for ever."""

from __future__ import annotations

import asyncio
import contextlib
import random
import select
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from aegis._native.records import RecordBatch, decode
from aegis.kernel import rings
from aegis.kernel.rings import RingPump
from tests.support.ring import ProbeRing
from tests.support.scale import scaled, seed

pytestmark = pytest.mark.require("root", "bpf", "ringbuf")

NEVER = 3600.0  # a sweep that does not come within the test
PATIENCE_S = 30.0  # a lost wake-up is a failure, a busy machine is not


class Collector:
    """Keeps what a pump delivers, and lets a test wait for a number of records."""

    def __init__(self) -> None:
        self.values: list[int] = []
        self.batches = 0
        self._arrived = asyncio.Event()

    def take(self, batch: RecordBatch) -> None:
        self.batches += 1
        self.values += [record[4] for record in decode(batch)]
        self._arrived.set()

    async def wait_for(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while len(self.values) < count:
                self._arrived.clear()
                await self._arrived.wait()


def make_pump(
    ring: ProbeRing, deliver: Callable[[RecordBatch], None], kind: type[RingPump] = RingPump, **options: float
) -> RingPump:
    maps = ring._object
    return kind(maps.map("aegis_ring"), maps.map("aegis_reader"), deliver, **options)  # type: ignore[arg-type]


@pytest.fixture
def ring() -> Iterator[ProbeRing]:
    with ProbeRing() as made:
        yield made


@contextlib.contextmanager
def timed_by(pump: RingPump, time_s: Callable[[], float]) -> Iterator[None]:
    """A pump that was not started, on a clock of ours."""
    pump._loop = cast(Any, SimpleNamespace(time=time_s))
    try:
        yield
    finally:
        pump._loop = None


async def until_asleep(pump: RingPump) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not pump.asleep:  # noqa: ASYNC110 - the pump has no event for it
            await asyncio.sleep(0)


async def test_records_older_than_the_pump_are_read(ring: ProbeRing) -> None:
    ring.flood(1009)
    seen = Collector()
    pump = make_pump(ring, seen.take, sweep_s=NEVER)
    try:
        pump.start(asyncio.get_running_loop())
        await seen.wait_for(1009)
        assert seen.values == list(range(1009))
        assert pump.wakeups == 0
    finally:
        pump.close()


async def test_a_sleeping_pump_is_woken_by_one_record(ring: ProbeRing) -> None:
    seen = Collector()
    pump = make_pump(ring, seen.take, sweep_s=NEVER)
    try:
        pump.start(asyncio.get_running_loop())
        for number in range(1, 8):
            await until_asleep(pump)
            ring.flood(1)
            await seen.wait_for(number)
            assert pump.wakeups == number
        assert pump.swept == 0
    finally:
        pump.close()


async def test_a_flood_is_read_in_budgets_with_the_loop_in_between(ring: ProbeRing) -> None:
    seen = Collector()
    pump = make_pump(ring, seen.take, budget=101, sweep_s=NEVER)
    try:
        pump.start(asyncio.get_running_loop())
        await until_asleep(pump)
        ring.flood(9973)
        await seen.wait_for(9973)
        assert seen.values == list(range(9973))
        assert seen.batches >= 9973 // 101
        assert pump.wakeups == 1
    finally:
        pump.close()


class ProducerInBetween(RingPump):
    """A producer runs between the reader's arming of the word and its look into the ring: once."""

    def plant(self, produce: Callable[[], None]) -> None:
        self._produce: Callable[[], None] | None = produce

    def _drain(self) -> int:
        produce, self._produce = getattr(self, "_produce", None), None
        if produce is not None and self._reader.armed():
            produce()
        elif produce is not None:
            self._produce = produce
        return super()._drain()


class SleepsAtOnce(ProducerInBetween):
    """The planted bug: arm, drain, sleep, without another look at the word."""

    def _settle(self) -> None:
        self._timer = None
        self._reader.arm()
        self._drain()
        self._listen(on=True)


@pytest.mark.parametrize("kind", [ProducerInBetween, SleepsAtOnce])
async def test_a_word_taken_while_reading_is_armed_again(
    ring: ProbeRing, kind: type[ProducerInBetween]
) -> None:
    """The race held still: the producer takes the word, and its record is read before the wake-up is looked for.

    The right pump arms again and gets the next record. The planted one sleeps: the word reads 0, so no producer will
    ever wake it, and its descriptor reports nothing though records wait.
    """
    seen = Collector()
    pump = make_pump(ring, seen.take, kind, sweep_s=NEVER)
    assert isinstance(pump, ProducerInBetween)
    try:
        pump.plant(lambda: ring.flood(1))
        pump.start(asyncio.get_running_loop())
        await seen.wait_for(1)
        await until_asleep(pump)
        if kind is ProducerInBetween:
            assert pump._reader.armed()
            ring.flood(7)
            await seen.wait_for(8)
            assert pump.wakeups > 0
        else:
            ring.flood(7)
            assert not pump._reader.armed()
            with select.epoll() as poll:
                poll.register(pump._reader.epoll_fd, select.EPOLLIN)
                assert poll.poll(0) == []
            assert seen.values == [0]
            assert pump.wakeups == 0
    finally:
        pump.close()


async def test_the_sweep_finds_what_no_wakeup_announced(ring: ProbeRing) -> None:
    """Even the planted bug loses nothing where the net is up, and the net says what it caught."""
    seen = Collector()
    pump = make_pump(ring, seen.take, SleepsAtOnce, sweep_s=0.1)
    assert isinstance(pump, SleepsAtOnce)
    try:
        pump.plant(lambda: ring.flood(1))
        pump.start(asyncio.get_running_loop())
        await until_asleep(pump)
        ring.flood(7)
        await seen.wait_for(8)
        assert pump.swept == 7
    finally:
        pump.close()


async def test_reading_out_of_turn_leaves_the_pump_awake(ring: ProbeRing) -> None:
    """Counters drain the ring themselves: the record a wake-up was sent for may be gone when the loop looks."""
    seen = Collector()
    pump = make_pump(ring, seen.take, sweep_s=NEVER)
    try:
        pump.start(asyncio.get_running_loop())
        await until_asleep(pump)
        for number in range(7):
            ring.flood(1)
            assert pump.drain_now() == 1
            assert pump.asleep
            assert pump._reader.armed()
            assert len(seen.values) == number + 1
        ring.flood(1)
        await seen.wait_for(8)
    finally:
        pump.close()


@pytest.mark.parametrize("sleeping", [True, False])
async def test_a_listener_that_raises_does_not_end_the_reading(ring: ProbeRing, sleeping: bool) -> None:
    seen = Collector()
    raised: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: raised.append(str(context["exception"])))
    pump = make_pump(ring, seen.take, sweep_s=NEVER)

    def fail(batch: RecordBatch) -> None:
        pump._deliver = seen.take
        raise RuntimeError("a listener failed")

    try:
        if sleeping:
            pump.start(loop)
            await until_asleep(pump)
        pump._deliver = fail
        ring.flood(1)
        if not sleeping:
            pump.start(loop)
        async with asyncio.timeout(PATIENCE_S):
            while not raised:  # noqa: ASYNC110 - the loop's handler has no event
                await asyncio.sleep(0)
        assert raised == ["a listener failed"]
        ring.flood(7)
        await seen.wait_for(7)
        assert seen.values == list(range(1, 8))
    finally:
        pump.close()


async def test_two_producers_and_no_sweep_lose_nothing(
    ring: ProbeRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The race left to chance: threads emit in bursts while the pump sleeps and wakes."""
    monkeypatch.setattr(rings, "BUSY_RATE", 1 << 40)  # no rate is high: it sleeps whenever it can
    chance = random.Random(seed())
    total = scaled(20_011, 1_000_003)
    pauses = [chance.uniform(0, 0.003) for _ in range(60)]
    seen = Collector()
    pump = make_pump(ring, seen.take, sweep_s=NEVER)
    room = threading.Semaphore(ring.room // 2)

    def take(batch: RecordBatch) -> None:
        seen.take(batch)
        room.release(len(batch))

    pump._deliver = take

    def produce(bursts: list[int]) -> None:
        for burst in bursts:
            for _ in range(burst):
                assert room.acquire(timeout=PATIENCE_S)
            ring.flood(burst)
            time.sleep(pauses[burst])  # part of the workload: long enough for the pump to fall asleep, or not

    plans: list[list[int]] = [[], []]
    left = total
    while left:
        burst = min(left, chance.randrange(1, 60))
        plans[left % 2].append(burst)
        left -= burst
    threads = [threading.Thread(target=produce, args=(plan,)) for plan in plans]
    try:
        pump.start(asyncio.get_running_loop())
        for thread in threads:
            thread.start()
        await seen.wait_for(total)
        for thread in threads:
            await asyncio.to_thread(thread.join)
        counted = ring.counters()
        assert counted["attempted"] == counted["submitted"] == total == len(seen.values)
        assert pump.swept == 0
        assert pump.wakeups > 1
    finally:
        pump.close()


async def test_a_busy_host_that_stumbles_is_read_as_before(ring: ProbeRing) -> None:
    """How long records gather, by those of the last second: few at a time begin again only well below many."""
    pump = make_pump(ring, lambda _batch: None)
    now_s = 0.0

    def pause(records: int) -> float:
        nonlocal now_s
        now_s += 1
        pump._window_records = records
        return pump._pause()

    quiet, busy, flood = rings.QUIET_S, rings.BUSY_S, rings.FLOOD_S
    with timed_by(pump, lambda: now_s):
        rates = (50, 500, 1_700, 1_900, 1_000, 899, 1_700, 20_000, 1_000, 0)
        pauses = [0.0, quiet, quiet, busy, busy, quiet, quiet, flood, busy, 0.0]
        found = [pause(records) for records in rates]
    pump.close()
    assert found == pauses


async def test_closing_leaves_the_loop_and_keeps_the_records(ring: ProbeRing) -> None:
    seen = Collector()
    pump = make_pump(ring, seen.take)
    pump.start(asyncio.get_running_loop())
    await until_asleep(pump)
    pump.close()
    pump.close()
    ring.flood(7)
    later = Collector()
    again = make_pump(ring, later.take)
    try:
        again.start(asyncio.get_running_loop())
        await later.wait_for(7)
        assert seen.values == []
    finally:
        again.close()
