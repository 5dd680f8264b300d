"""The only reader of clocks in the process."""

from __future__ import annotations

import asyncio
import time

from aegis.model.stamp import rfc3339


class SystemClock:
    """Fulfils `runtime.module.Clock` with the host's clocks. All instants are nanoseconds."""

    __slots__ = ()

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()

    def boottime_ns(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def wall_ns(self) -> int:
        return time.time_ns()

    def wall_of(self, boottime_ns: int) -> int:
        """By today's difference of the two clocks: a later step of the wall clock moves past instants with it."""
        return boottime_ns + time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def cpu_ns(self) -> int:
        return time.process_time_ns()

    def thread_cpu_ns(self, thread: int) -> int:
        """Processor time of a thread of this process, by its `threading.get_ident()`. Raises OSError once it ended."""
        return time.clock_gettime_ns(time.pthread_getcpuclockid(thread))

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def stamp() -> dict[str, object]:
    """`time` and `time_ns` of now, as every JSON object has them."""
    now = time.time_ns()
    return {"time": rfc3339(now), "time_ns": now}
