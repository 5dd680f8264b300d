from __future__ import annotations

import time

from aegis.runtime.clock import SystemClock, stamp


def test_instants_lie_between_two_readings() -> None:
    clock = SystemClock()
    for read, reference in (
        (clock.monotonic_ns, time.monotonic_ns),
        (clock.boottime_ns, lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME)),
        (clock.wall_ns, time.time_ns),
        (clock.cpu_ns, time.process_time_ns),
        (lambda: clock.wall_of(clock.boottime_ns()), lambda: time.time_ns() + 0),
        (lambda: stamp()["time_ns"], time.time_ns),
    ):
        before = reference()
        found = read()
        assert before - 1_000_000 <= found <= reference() + 1_000_000
