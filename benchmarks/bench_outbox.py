"""The outbox on the disk of the checkout: durable appends, draining a backlog, and bytes written for what was taken.

Bytes written are what the kernel charges to this process or to the store's thread (write_bytes of /proc io): whole pages,
log and file.
The written ratio is of the worst load there is: nobody acknowledges before the commit, then all is sent and deleted.
The idle minute is a host at rest with a gateway that acknowledges 50 ms behind the block; beside it, without a budget,
the same minute without a gateway.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import tempfile
import time
from collections.abc import AsyncIterator

from aegis.agent.outbox.config import OPTIONS
from aegis.agent.outbox.outbox import Outbox
from aegis.model.block import BlockClass, Encoded, base_of
from aegis.runtime import log
from aegis.runtime.clock import SystemClock
from aegis.runtime.health import Conditions
from aegis.runtime.settings import Settings
from benchmarks.check import ROOT
from benchmarks.rows import Row, median

EVENT_BYTES = 150  # an exec with arguments and two ancestors
RUN = 25  # events of one drain of the ring
APPENDED = 100_000
DRAIN_BYTES = 40_000_000
LOAD_S = 8.0
LOAD_RATE = 5000
MINUTE_S = 60.0
ACKNOWLEDGED_S = 0.05
REPETITIONS = 3
DAY_S = 86_400
MB = 1e6


def run() -> list[Row]:
    log.set_level("error")
    appends = [asyncio.run(_append()) for _ in range(REPETITIONS)]
    drains = [asyncio.run(_drain()) for _ in range(REPETITIONS)]
    ratios = [asyncio.run(_loaded()) for _ in range(2)]
    idle, idle_alone = asyncio.run(_idle(gateway=True)), asyncio.run(_idle(gateway=False))
    return [
        Row(
            name="outbox_append",
            value=median(appends),
            unit="events/s",
            samples=appends,
            note=f"{APPENDED:,} events of {EVENT_BYTES} bytes in runs of {RUN}, committed and flushed",
        ),
        Row(
            name="outbox_drain",
            value=median(drains),
            unit="MB/s",
            samples=drains,
            note="read back, handed out, acknowledged and deleted, by a fresh process state",
        ),
        Row(
            name="outbox_written_loaded",
            value=median(ratios),
            unit="x payload",
            samples=ratios,
            note=f"{LOAD_RATE} events/s for {LOAD_S:.0f} s and nobody acknowledges, then drained",
        ),
        Row(name="outbox_written_idle", value=idle, unit="MB/day", samples=[idle], note="a minute, scaled"),
        Row(
            name="outbox_written_idle_alone",
            value=idle_alone,
            unit="MB/day",
            samples=[idle_alone],
            note="the same without a gateway",
        ),
    ]


def _run_of(cls: BlockClass, count: int, size: int = EVENT_BYTES) -> Encoded:
    """Byte strings stand for the records: the outbox does not look into them."""
    one = bytes((0x59,)) + (size - 3).to_bytes(2, "big")
    records = b"".join(one + random.randbytes(size - 3) for _ in range(count))
    return Encoded(cls, base_of(time.time_ns()), count, records)


@contextlib.asynccontextmanager
async def _opened(directory: str) -> AsyncIterator[Outbox]:
    clock = SystemClock()
    settings = Settings("outbox", {option.name.removeprefix("outbox."): option.default for option in OPTIONS})
    outbox = Outbox(
        directory,
        settings,
        boot_id=bytes(16),
        clock=clock,
        health=Conditions(clock).scoped("outbox"),
        log=log.logger(),
    )
    await outbox.open()
    try:
        yield outbox
    finally:
        await outbox.close(10)


def _directory() -> tempfile.TemporaryDirectory[str]:
    (ROOT / "build").mkdir(exist_ok=True)
    return tempfile.TemporaryDirectory(dir=ROOT / "build", prefix="bench-outbox-")


def _written(outbox: Outbox) -> int:
    found = outbox.written_bytes()
    if found is None:
        raise OSError("the kernel does not say what a thread wrote (CONFIG_TASK_IO_ACCOUNTING)")
    return found


async def _append() -> float:
    with _directory() as directory:
        async with _opened(directory) as outbox:
            runs = [_run_of(BlockClass.EVENT, RUN) for _ in range(40)]
            started = time.perf_counter()
            for number in range(APPENDED // RUN):
                outbox.take(runs[number % len(runs)])
                if number % 8 == 7:
                    await asyncio.sleep(0)
            assert await outbox.flush()
            spent = time.perf_counter() - started
            assert outbox.losses() == {}
            return APPENDED / spent


async def _fill(outbox: Outbox, size: int) -> int:
    taken = 0
    runs = [_run_of(BlockClass.EVENT, RUN) for _ in range(40)]
    while taken < size:
        for one in runs:
            outbox.take(one)
            taken += len(one.records)
        assert await outbox.flush()
    return taken


async def _drain() -> float:
    with _directory() as directory:
        async with _opened(directory) as outbox:
            size = await _fill(outbox, DRAIN_BYTES)
        async with _opened(directory) as outbox:
            started = time.perf_counter()
            await _take_all(outbox)
            assert await outbox.flush()
            spent = time.perf_counter() - started
            terms = outbox.terms()["outbox.event"]
            assert terms["acknowledged"] == terms["recovered"] == size // EVENT_BYTES
            return size / MB / spent


async def _take_all(outbox: Outbox) -> None:
    while sum(outbox.pending().values()):
        blocks = outbox.sendable(1 << 20)
        for block in blocks:
            outbox.acknowledged(block.stream, block.cls, block.next)
        if not blocks:
            await outbox.wait()


async def _loaded() -> float:
    with _directory() as directory:
        before, payload = _process_written(), 0
        async with _opened(directory) as outbox:
            started = time.perf_counter()
            number = 0
            while time.perf_counter() - started < LOAD_S:
                one = _run_of(BlockClass.EVENT, RUN)
                outbox.take(one)
                payload += len(one.records)
                number += 1
                await asyncio.sleep(max(0.0, started + number * RUN / LOAD_RATE - time.perf_counter()))
            assert await outbox.flush()
            await _take_all(outbox)
            assert await outbox.flush()
        written = _process_written() - before  # behind the end, when the rest of the log is in the file
        if not written:
            raise OSError(f"{directory} is on no disk that the kernel accounts for")
        return written / payload


def _process_written() -> int:
    with open("/proc/self/io", encoding="ascii") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes:"))


async def _idle(*, gateway: bool) -> float:
    """Samples every 10 s, an exec and an exit every 5, flows every 3: megabytes a day."""
    with _directory() as directory:
        async with _opened(directory) as outbox:
            loop = asyncio.get_running_loop()

            def send() -> None:
                for block in outbox.sendable(1 << 20):
                    loop.call_later(ACKNOWLEDGED_S, outbox.acknowledged, block.stream, block.cls, block.next)

            def ready() -> None:
                loop.call_soon(send)

            if gateway:
                outbox.on_ready = ready
                send()
            before = _written(outbox)
            started = time.perf_counter()
            for second in range(int(MINUTE_S)):
                if second % 10 == 0:
                    outbox.take(_run_of(BlockClass.SAMPLE, 120, 60))
                if second % 5 == 0:
                    outbox.take(_run_of(BlockClass.EVENT, 2))
                if second % 3 == 0:
                    outbox.take(_run_of(BlockClass.FLOW, 3, 120))
                await asyncio.sleep(max(0.0, started + second + 1 - time.perf_counter()))
            if gateway:
                assert sum(outbox.pending().values()) == 0
            return (_written(outbox) - before) / MB * DAY_S / MINUTE_S
