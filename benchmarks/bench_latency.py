"""Kernel event to Python: from the record's own time stamp to the batch in a callback on the loop."""

from __future__ import annotations

import asyncio
import os
import time

import uvloop

from aegis._native import records
from aegis._native.records import RecordBatch
from aegis.host import children
from aegis.kernel import abi
from aegis.kernel.constants import Constants
from aegis.kernel.hub import Hub
from benchmarks.rows import Row, median, quantile

RUNS = 5
EXECS_PER_SECOND = 500  # each gives an exec and an exit: 1,000 events a second
EXECS = 1500
RING_BYTES = 1 << 20


def run() -> list[Row]:
    """The process sensor on the whole machine, programs started at a steady rate from beside."""
    runs = [uvloop.run(_once()) for _ in range(RUNS)]
    middle = [median(delays) for delays in runs]
    tail = [quantile(delays, 0.99) for delays in runs]
    note = f"{min(len(delays) for delays in runs)} events a run, {EXECS_PER_SECOND} programs a second"
    return [
        Row(name="event_p50", value=median(middle), unit="ms", samples=middle, note=note),
        Row(name="event_p99", value=median(tail), unit="ms", samples=tail, note=note),
    ]


async def _once() -> list[float]:
    delays: list[float] = []
    wanted = (abi.KIND_EXEC, abi.KIND_EXIT)

    def publish(_topic: str, batch: RecordBatch) -> None:
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        delays.extend((now - record[1]) / 1e6 for record in records.decode(batch) if record[0] in wanted)

    constants = Constants(agent_tgid=os.getpid(), ring_bytes=RING_BYTES, ring_reserved_bytes=RING_BYTES // 8)
    hub = Hub(publish=publish, constants=constants, map_sizes={"aegis_ring": RING_BYTES})
    try:
        hub.start(asyncio.get_running_loop())
        hub.wanted("process")
        await asyncio.sleep(0.3)
        delays.clear()
        with children.call(_start_programs) as other:
            await asyncio.to_thread(other.wait)
        await asyncio.sleep(0.3)
    finally:
        hub.close()
    if len(delays) < 2 * EXECS:
        raise RuntimeError(f"{len(delays)} events of {EXECS} programs")
    return delays


def _start_programs() -> None:
    started = time.monotonic()
    for number in range(EXECS):
        time.sleep(max(0.0, started + number / EXECS_PER_SECOND - time.monotonic()))
        os.waitpid(os.posix_spawn("/bin/true", ["/bin/true"], {}), 0)
