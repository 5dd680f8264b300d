from __future__ import annotations

from pathlib import Path

from aegis.agent.resources import LONGEST_WINDOW_NS, Resources
from aegis.model.absent import Absent
from aegis.runtime.clock import SystemClock


class Clock(SystemClock):
    """The host's clock with monotonic and CPU time set by hand."""

    def __init__(self) -> None:
        self.now = 10**9
        self.cpu = 5 * 10**9

    def monotonic_ns(self) -> int:
        return self.now

    def cpu_ns(self) -> int:
        return self.cpu


def test_cpu_is_of_the_window_and_absent_before_there_is_one() -> None:
    clock = Clock()
    resources = Resources(clock, lambda: 4096)
    clock.now += 999_999_999
    assert resources.read().cpu_percent is None
    assert "less than a second" in str(resources.read().cpu_percent_reason)
    clock.now += 1
    clock.cpu += 25 * 10**7
    found = resources.read()
    assert (found.cpu_percent, found.cpu_window_s) == (25.0, 1.0)
    clock.now += LONGEST_WINDOW_NS
    resources.tick()
    clock.now += 2 * 10**9
    found = resources.read()
    assert (found.cpu_percent, found.cpu_window_s) == (0.0, 2.0)


def test_memory_is_what_the_kernel_says() -> None:
    found = Resources(SystemClock(), lambda: Absent("no tables")).read()
    status = Path("/proc/self/status").read_text()
    rss = int(status.split("VmRSS:")[1].split()[0]) * 1024
    assert found.rss_bytes is not None
    assert abs(found.rss_bytes - rss) < 0.05 * rss
    assert found.pss_bytes is not None
    assert 0 < found.pss_bytes <= rss * 1.05
    assert (found.map_bytes, found.map_bytes_reason) == (None, "no tables")


def test_memory_that_cannot_be_read_is_absent(tmp_path: Path) -> None:
    found = Resources(SystemClock(), lambda: 1, proc=str(tmp_path)).read()
    assert (found.rss_bytes, found.pss_bytes) == (None, None)
    assert str(tmp_path) in str(found.rss_bytes_reason)
