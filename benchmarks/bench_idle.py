"""The agent at rest: memory and processor time, read from outside."""

from __future__ import annotations

import re
import time
from pathlib import Path

from aegis.cli.demo.stage import Stage, open_stage
from benchmarks.rows import Row, median

SETTLE_S = 12.0
WINDOW_S = 10.0
WINDOWS = 5


def run() -> list[Row]:
    """A veth interface without traffic, the machine's own processes as they are: alone, and with a live session."""
    return [*_idle("idle", link=False), *_idle("link_idle", link=True)]


def _idle(name: str, *, link: bool) -> list[Row]:
    with open_stage() as stage:
        if link:
            stage.start_gateway()
        stage.start_agent()
        time.sleep(SETTLE_S)
        cpu, rss, memory, kernel = [], [], [], 0.0
        for _ in range(WINDOWS):  # memory is read at each window's end: one reading may meet a moment's work
            cpu.append(_cpu_percent(stage))
            rss.append(_status_bytes(stage, "VmRSS") / 1e6)
            kernel = _kernel_bytes(stage) / 1e6
            memory.append(rss[-1] + kernel)
        modules = [row["name"] for row in stage.ask("modules.list") if row["state"] == "running"]
        state = stage.ask("status")[0]["gateway"]["state"]
    note = f"modules {', '.join(sorted(modules))}; gateway {state}"
    return [
        Row(name=f"{name}_rss", value=median(rss), unit="MB", samples=rss, note=note),
        Row(
            name=f"{name}_memory",
            value=median(memory),
            unit="MB",
            samples=memory,
            note=f"of it {kernel:.1f} MB maps and programs, by the memlock lines of fdinfo",
        ),
        Row(
            name=f"{name}_cpu", value=median(cpu), unit="%", samples=cpu, note=f"windows of {WINDOW_S:.0f} s"
        ),
    ]


def _pid(stage: Stage) -> int:
    assert stage.agent is not None
    return stage.agent.pid


def _cpu_percent(stage: Stage) -> float:
    before, started = _cpu_ns(stage), time.monotonic_ns()
    time.sleep(WINDOW_S)
    return 100 * (_cpu_ns(stage) - before) / (time.monotonic_ns() - started)


def _cpu_ns(stage: Stage) -> int:
    """Processor time of all threads, to the nanosecond (the ticks of /proc/PID/stat are too coarse)."""
    tasks = Path(f"/proc/{_pid(stage)}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)


def _status_bytes(stage: Stage, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path(f"/proc/{_pid(stage)}/status").read_text(), re.MULTILINE)
    assert found is not None, name
    return int(found[1]) * 1024


def _kernel_bytes(stage: Stage) -> int:
    """Memory of the maps and programs the agent holds, each counted once."""
    total, seen = 0, set()
    for info in Path(f"/proc/{_pid(stage)}/fdinfo").iterdir():
        text = info.read_text()
        number = re.search(r"^(map|prog)_id:\s+(\d+)$", text, re.MULTILINE)
        locked = re.search(r"^memlock:\s+(\d+)$", text, re.MULTILINE)
        if number and locked and number.groups() not in seen:
            seen.add(number.groups())
            total += int(locked[1])
    return total
