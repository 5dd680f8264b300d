from __future__ import annotations

import threading
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


def test_the_processor_time_of_a_thread() -> None:
    clock, own = SystemClock(), threading.get_ident()
    before = time.thread_time_ns()
    found = clock.thread_cpu_ns(own)
    assert before <= found <= time.thread_time_ns()
    gate = threading.Event()
    other = threading.Thread(target=gate.wait)
    other.start()
    assert other.ident is not None
    assert clock.thread_cpu_ns(other.ident) < 1_000_000_000
    gate.set()
    other.join()
