"""What the demo measures of a process is what the process knows of itself."""

from __future__ import annotations

import os
import resource
import time

import pytest

from aegis.cli.demo import measuring
from aegis.cli.demo.measuring import Meter


def test_memory_and_processor_time_are_the_processs_own() -> None:
    meter = Meter(os.getpid())
    until = time.process_time() + 0.2
    while time.process_time() < until:
        pass
    read = meter.read()
    most_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    assert most_mb / 4 < read["rss_mb"] < 1.1 * most_mb  # the kernel sums it up now and then
    assert 0.1 < read["cpu_percent_of_a_core"] * read["over_s"] / 100 < 1
    assert read["over_s"] >= 0.2


def test_delays_are_sorted_and_of_the_unit_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time_ns()
    rows = [
        {"unit": "ours.service", "time_ns": 1},  # of the history: nobody waits for it
        {"unit": "others.service", "time_ns": now},
        {"unit": "ours.service", "time_ns": now - 10**9},
        {"unit": "ours.service", "time_ns": now},
        {"unit": "ours.service", "time_ns": now},
    ]
    monkeypatch.setattr(measuring, "request", lambda *_, **__: iter(rows))
    delays = measuring.delays_ms("socket", "ours.service", 2, lambda: None)
    assert len(delays) == 2
    assert 0 <= delays[0] < 1000 <= delays[1] < 60_000
