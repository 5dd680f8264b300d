"""The module on the real bus, with the real host."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from aegis.host.reader import Host
from aegis.model import records
from aegis.model.block import Encoded
from aegis.modules.telemetry.config import OPTIONS
from aegis.modules.telemetry.module import Telemetry
from aegis.runtime.bus import Bus
from aegis.runtime.clock import SystemClock
from aegis.runtime.health import Conditions
from aegis.runtime.history import LatestSamples
from aegis.runtime.settings import Settings
from tests.support import hosttree


def settings(
    interval_s: float, slow_interval_s: float = 3600.0, report_interval_s: float = 3600.0
) -> Settings:
    return Settings(
        "modules.telemetry",
        {
            "interval_s": interval_s,
            "slow_interval_s": slow_interval_s,
            "report_interval_s": report_interval_s,
        },
    )


class Bench:
    """A module, what it is lent, and its topic."""

    def __init__(self, root: Path, config: Settings) -> None:
        clock = SystemClock()
        self.conditions = Conditions(clock)
        self.bus = Bus()
        self.samples = LatestSamples(self.bus)
        self.host = Host(
            wall_ns=clock.wall_ns,
            monotonic_ns=clock.monotonic_ns,
            proc=str(root / "proc"),
            sys=str(root / "sys"),
        )
        context: Any = SimpleNamespace(
            config=config,
            bus=self.bus,
            host=self.host,
            clock=clock,
            health=self.conditions.scoped("telemetry"),
            samples=self.samples,
        )
        self.module = Telemetry(context)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Any]:
        ready = asyncio.Event()
        with self.bus.subscribe("sample", capacity=10_007) as published:
            task = asyncio.create_task(self.module.run(ready.set))
            try:
                waiting = asyncio.create_task(ready.wait())
                await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                yield published
            finally:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
                self.host.close()

    def codes(self) -> list[str]:
        return [condition.code for condition in self.conditions.of("telemetry")]


async def take(published: Any) -> Any:
    return await asyncio.wait_for(anext(aiter(published)), 30)


def value(samples: Any, name: str) -> tuple[float | None, int]:
    found = next(sample for sample in samples if sample.name == name)
    return found.value, found.time_ns


async def test_it_is_ready_with_its_first_samples() -> None:
    bench = Bench(Path("/"), settings(3600))
    async with bench.running() as published:
        first = await take(published)
        assert first == bench.samples.latest()
        total, _ = value(first, "memory.total")
        assert total is not None
        assert total > 0
        assert bench.codes() == []


async def test_it_goes_on_and_slow_numbers_keep_their_instant() -> None:
    bench = Bench(Path("/"), settings(0.01))
    async with bench.running() as published:
        readings = [await take(published) for _ in range(5)]
    assert len({value(reading, "memory.total")[1] for reading in readings}) == 5
    assert len({value(reading, "agent.pss") for reading in readings}) == 1
    for one in range(4):
        before = {sample.key: sample.value for sample in readings[one] if sample.kind == "counter"}
        after = {sample.key: sample.value for sample in readings[one + 1] if sample.kind == "counter"}
        assert all(after[key] >= count for key, count in before.items() if key in after)


async def test_new_intervals_are_taken_at_once() -> None:
    bench = Bench(Path("/"), settings(3600))
    async with bench.running() as published:
        first = await take(published)
        bench.module.reload(settings(3600, 1))
        second = await take(published)
        assert value(second, "agent.pss")[1] > value(first, "agent.pss")[1]


async def test_an_essential_number_that_is_gone_is_a_condition_until_it_is_back(tmp_path: Path) -> None:
    root = hosttree.make(tmp_path)
    loadavg = (root / "proc/loadavg").read_text()
    (root / "proc/loadavg").write_text("forged")
    bench = Bench(root, settings(3600))
    async with bench.running() as published:
        await take(published)
        assert bench.codes() == ["telemetry_unreadable"]
        (condition,) = bench.conditions.of("telemetry")
        assert "loadavg" in condition.text
        (root / "proc/loadavg").write_text(loadavg)
        bench.module.reload(settings(3600))
        await take(published)
        assert bench.codes() == []


def test_options_are_bounded_and_live() -> None:
    by_name = {option.name: option for option in OPTIONS}
    assert by_name["interval_s"].default == 10.0
    for option in OPTIONS:
        assert option.reload == "live"
        assert option.problem(0.5) is not None
        assert option.problem(option.default) is None


async def test_readings_are_reported_at_their_own_interval() -> None:
    bench = Bench(Path("/"), settings(0.02, 3600, 0.5))
    with bench.bus.subscribe("sample_record", capacity=100_000) as reports:
        async with bench.running() as published:
            first = await take(reports)
            assert isinstance(first, Encoded)
            complete = await take(published)
            assert [records.decode(one, first.base_ns) for one in records.loads(first)] == list(complete)
            for _ in range(10):
                later = await take(published)
            assert reports.get_nowait() is None
            second = await take(reports)
            told = {records.decode(one, second.base_ns).key for one in records.loads(second)}  # type: ignore[union-attr]
            assert told < {sample.key for sample in later}
            assert ("memory.total", ()) not in told, "it is as it was"


async def test_whoever_listens_late_is_told_everything() -> None:
    bench = Bench(Path("/"), settings(0.02, 3600, 0.05))
    async with bench.running() as published:
        for _ in range(3):
            await take(published)
        with bench.bus.subscribe("sample_record", capacity=100_000) as reports:
            first = await take(reports)
        assert len(first) == len(bench.samples.latest())


async def test_a_new_report_interval_reports_at_once() -> None:
    bench = Bench(Path("/"), settings(0.02))
    with bench.bus.subscribe("sample_record", capacity=100_000) as reports:
        async with bench.running() as published:
            await take(reports)
            for _ in range(5):
                await take(published)
            assert reports.get_nowait() is None
            bench.module.reload(settings(0.02, 3600, 1800))
            assert len(await take(reports)) > 0
