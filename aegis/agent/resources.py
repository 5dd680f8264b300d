"""What the agent itself uses: memory now, CPU over a window up to now."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from aegis.errors import HostError
from aegis.host import own
from aegis.model.absent import Absent
from aegis.model.status import ResourcesPart
from aegis.runtime.module import Clock

SHORTEST_WINDOW_NS = 1_000_000_000
LONGEST_WINDOW_NS = 60_000_000_000


class Resources:
    """`tick` now and then (once a second), `read` when asked. `map_bytes` tells what kernel tables take."""

    def __init__(self, clock: Clock, map_bytes: Callable[[], int | Absent], proc: str = "/proc") -> None:
        self._clock = clock
        self._map_bytes = map_bytes
        self._proc = proc
        self._points: deque[tuple[int, int]] = deque()
        self.tick()

    def tick(self) -> None:
        """Remember a point of the CPU clock; points older than the longest window are forgotten."""
        now = self._clock.monotonic_ns()
        self._points.append((now, self._clock.cpu_ns()))
        while len(self._points) > 1 and now - self._points[0][0] > LONGEST_WINDOW_NS:
            self._points.popleft()

    def read(self) -> ResourcesPart:
        rss, pss = self._memory("agent.rss"), self._memory("agent.pss")
        maps = self._map_bytes()
        begun, cpu_then = self._points[0]
        window_ns = self._clock.monotonic_ns() - begun
        short = window_ns < SHORTEST_WINDOW_NS
        reason = "measured over less than a second so far"
        percent = 100 * (self._clock.cpu_ns() - cpu_then) / max(window_ns, 1)
        absent: dict[str, str] = {
            f"{name}_reason": value.reason
            for name, value in (("rss_bytes", rss), ("pss_bytes", pss), ("map_bytes", maps))
            if isinstance(value, Absent)
        }
        if short:
            absent |= {"cpu_percent_reason": reason, "cpu_window_s_reason": reason}
        return ResourcesPart(
            rss_bytes=None if isinstance(rss, Absent) else rss,
            pss_bytes=None if isinstance(pss, Absent) else pss,
            map_bytes=None if isinstance(maps, Absent) else maps,
            cpu_percent=None if short else round(percent, 4),
            cpu_window_s=None if short else round(window_ns / 1e9, 3),
            **absent,
        )

    def _memory(self, name: str) -> int | Absent:
        read = own.agent_pss if name == "agent.pss" else own.agent
        try:
            for found, _, value in read(self._proc):
                if found == name and isinstance(value, int):
                    return value
        except HostError as error:
            return Absent(str(error))
        return Absent(f"{name} is not among the agent's readings")
