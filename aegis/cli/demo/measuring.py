"""What the demo measures of the agent, from outside: memory and processor time by /proc, latency by listening."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from aegis.cli.client import request
from aegis.errors import HostError
from aegis.host import children


class Meter:
    """Memory and processor time of a process, from when the meter was made."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._started_ns = time.monotonic_ns()
        self._before_s = self._cpu_seconds()

    def read(self) -> dict[str, float]:
        """`rss_mb`, `cpu_percent_of_a_core` and `over_s`, the seconds that is the mean of."""
        seconds = (time.monotonic_ns() - self._started_ns) / 1e9
        return {
            "rss_mb": round(self._rss_bytes() / 1e6, 1),
            "cpu_percent_of_a_core": round(100 * (self._cpu_seconds() - self._before_s) / seconds, 2),
            "over_s": round(seconds, 1),
        }

    def _cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _rss_bytes(self) -> int:
        for line in Path(f"/proc/{self._pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise HostError(f"the status of process {self._pid} has no VmRSS")


def delays_ms(socket_path: str, unit: str, count: int, run: Callable[[], object]) -> list[float]:
    """How long each of `count` programs of the unit that `run` runs took from the kernel to here, sorted."""
    reading, writing = os.pipe()
    with (
        children.call(_listen, socket_path, unit, count, writing) as listener,
        os.fdopen(reading, "rb") as ready,
    ):
        os.close(writing)
        ready.read(1)
        run()
        arrivals: list[tuple[int, int]] = listener.result(20)
    return sorted((arrived - happened) / 1e6 for happened, arrived in arrivals)


def _listen(socket_path: str, unit: str, count: int, ready: int) -> list[tuple[int, int]]:
    """When each of the next `count` programs of the unit began, by the kernel, and when its event was here."""
    arrivals: list[tuple[int, int]] = []
    live = False
    try:
        for row in request(
            socket_path, "events", {"follow": True, "types": ["exec"], "last": 1}, timeout_s=8
        ):
            now = time.time_ns()
            if not live:
                os.write(ready, b"1")  # the one of the history: from here on the stream is live
                live = True
            elif row["unit"] == unit:
                arrivals.append((row["time_ns"], now))
                if len(arrivals) == count:
                    break
    except TimeoutError:
        return arrivals
    return arrivals
