"""Telemetry: reads the host's numbers at a steady pace, publishes them as samples, and reports them now and then."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Protocol

from aegis.model.sample import Sample
from aegis.modules.telemetry import latest
from aegis.modules.telemetry.report import Report, encoded
from aegis.runtime.module import Context, Settings

REPORTS = "sample_record"
_NS = 1_000_000_000


class Host(Protocol):
    """The part of the host that is read here."""

    def samples(self, *, slow: bool = True) -> tuple[Sample, ...]:
        """All numbers now, each with its instant or absent with a reason; costly ones only with `slow`."""


class Telemetry:
    """Publishes on the topic `sample` every `interval_s` seconds, the first time before it is ready.

    On `sample_record` goes the reading that is the first in `report_interval_s`, as far as it is news.
    """

    name = "telemetry"
    requires: tuple[str, ...] = ()

    def __init__(self, context: Context) -> None:
        self._context = context
        self._host: Host = context.host
        self._changed = asyncio.Event()
        self._settings = context.config
        self._report = Report()

    def reload(self, config: Settings) -> None:
        """Take new intervals; the reading that is due by them is made and reported at once."""
        self._settings = config
        self._changed.set()

    async def run(self, ready: Callable[[], None]) -> None:
        """Read and publish until cancelled. Readings keep to a grid: a late one does not push the next."""
        clock = self._context.clock
        kept: tuple[Sample, ...] = ()
        due_ns = slow_due_ns = report_due_ns = clock.monotonic_ns()
        said_ready = False
        while True:
            now_ns = clock.monotonic_ns()
            slow = now_ns >= slow_due_ns
            kept = latest.merge(self._host.samples(slow=slow), kept)
            self._context.samples.publish(kept)
            self._judge(kept)
            if now_ns >= report_due_ns and self._reported(kept):
                interval_ns = round(self._settings.number("report_interval_s") * _NS)
                report_due_ns += interval_ns  # on the grid of the readings, not some milliseconds behind one
                if report_due_ns <= now_ns:
                    report_due_ns = now_ns + interval_ns
            if not said_ready:
                said_ready = True
                ready()
            if slow:
                slow_due_ns = now_ns + round(self._settings.number("slow_interval_s") * _NS)
            interval_ns = round(self._settings.number("interval_s") * _NS)
            due_ns = max(due_ns + interval_ns, clock.monotonic_ns())
            await self._pause((due_ns - clock.monotonic_ns()) / _NS)
            if self._changed.is_set():
                self._changed.clear()
                due_ns = slow_due_ns = report_due_ns = clock.monotonic_ns()

    async def _pause(self, seconds: float) -> None:
        """Until `seconds` have passed or the intervals have changed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    def _reported(self, samples: tuple[Sample, ...]) -> bool:
        """Report what is news; False while nobody listens, and then the first listener is told everything."""
        bus = self._context.bus
        if not bus.listeners(REPORTS):
            self._report.forget()
            return False
        if news := self._report.changed(samples):
            bus.publish(REPORTS, encoded(news, self._context.clock.wall_ns()))
        return True

    def _judge(self, samples: tuple[Sample, ...]) -> None:
        missing = latest.unreadable(samples)
        if missing:
            text = "; ".join(f"{name}: {reason}" for name, reason in missing)
            self._context.health.raise_("telemetry_unreadable", text, "is /proc mounted and legible?")
        else:
            self._context.health.clear("telemetry_unreadable")
