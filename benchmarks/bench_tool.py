"""`aegis --help`: what a person waits for."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from benchmarks.rows import Row, median

RUNS = 31


def run() -> list[Row]:
    """Whole processes, one after the other, warm; the interpreter alone beside it."""
    tool = str(Path(sys.executable).with_name("aegis"))
    ours, bare = [], []
    for _ in range(RUNS):
        ours.append(_milliseconds([tool, "--help"]))
        bare.append(_milliseconds([sys.executable, "-c", "pass"]))
    return [
        Row(
            name="tool_help",
            value=median(ours),
            unit="ms",
            samples=ours,
            note=f"the interpreter alone takes {median(bare):.0f} ms",
        )
    ]


def _milliseconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - started) * 1000
