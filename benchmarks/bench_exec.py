"""What it costs the machine to have each exec reported: the agent against execsnoop of Debian's libbpf-tools."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from aegis.cli.demo.stage import Stage, open_stage
from benchmarks.rows import Row, median

EXECSNOOP = "/usr/sbin/execsnoop"
# It finds its tracepoints in tracefs, which not every host has mounted: it gets a mount of its own.
WITH_TRACEFS = ("unshare", "-m", "sh", "-c", 'mount -t tracefs none /sys/kernel/tracing && exec "$0"')
PER_SECOND = 1_000
SECONDS = 4
ROUNDS = 7
SETTLE_S = 1.5
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def run() -> list[Row]:
    """Rounds of the same workload with nothing, the agent and execsnoop beside it, in turn; medians of differences."""
    if not Path(EXECSNOOP).exists():
        raise RuntimeError(f"{EXECSNOOP} is missing: apt-get install libbpf-tools")
    ours: list[float] = []
    theirs: list[float] = []
    idle: list[float] = []
    with tempfile.TemporaryDirectory() as directory, open_stage() as stage:
        workload = _compile(Path(directory))
        output = Path(directory) / "execsnoop.txt"
        for _ in range(ROUNDS):
            idle.append(nothing := _cost(workload))
            with _agent(stage) as execs:
                before = execs()
                ours.append(_cost(workload) - nothing)
                _expect("the agent", execs() - before)
            with _execsnoop(output):
                theirs.append(_cost(workload) - nothing)
            _expect("execsnoop", output.read_bytes().count(b"\nnothing "))
    value, peer = median(ours), median(theirs)
    noise = median([abs(each - median(idle)) for each in idle])
    if value <= 0 or peer <= 2 * noise:
        raise RuntimeError(
            f"the machine is not quiet: with nothing beside it the workload costs {median(idle):.0f} us an exec, "
            f"give or take {noise:.0f}; agent {value:.0f} and execsnoop {peer:.0f} above that say nothing"
        )
    return [
        Row(
            name="exec_cpu",
            value=value,
            unit="us",
            peer=peer,
            ratio=value / peer,
            samples=[*ours, *theirs, *idle],
            note=f"{ROUNDS} rounds of {SECONDS} s at {PER_SECOND:,}/s; samples: the agent's, execsnoop's, and with nothing",
        )
    ]


def _compile(directory: Path) -> list[str]:
    """The workload: a spawner, and the shortest of programs for it to run."""
    native = Path(__file__).parent / "native"
    programs = {"spawner": ("-O2",), "nothing": ("-O2", "-static", "-nostdlib")}
    for name, options in programs.items():
        command: list[str | Path] = [
            "gcc",
            *options,
            "-Wall",
            "-Werror",
            "-o",
            directory / name,
            native / f"{name}.c",
        ]
        subprocess.run(command, check=True)
    return [
        str(directory / "spawner"),
        str(PER_SECOND * SECONDS),
        str(PER_SECOND),
        str(directory / "nothing"),
    ]


def _expect(who: str, reported: int) -> None:
    if reported < PER_SECOND * SECONDS:
        raise RuntimeError(f"{who} reported {reported} of {PER_SECOND * SECONDS} execs")


def _cost(workload: list[str]) -> float:
    """Processor time of the whole machine over the workload, microseconds an exec."""
    before = _busy_s()
    subprocess.run(workload, check=True)
    return 1e6 * (_busy_s() - before) / (PER_SECOND * SECONDS)


def _busy_s() -> float:
    """Time all processors were not idle since boot. Idle time is measured, not sampled by ticks; busy is the rest."""
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("cpu "):
            words = [int(word) for word in line.split()[1:]]
            idle = (words[3] + words[4]) * TICK_S
            return time.monotonic() * (os.cpu_count() or 1) - idle
    raise RuntimeError("/proc/stat has no line for all processors")


@contextmanager
def _agent(stage: Stage) -> Iterator[Callable[[], int]]:
    """The agent with all its modules; gives the execs it has read so far."""
    stage.start_agent()
    try:
        time.sleep(SETTLE_S)
        yield lambda: sum(row["read"] for row in stage.ask("counters") if row["stage"] == "records.exec")
    finally:
        stage.stop_agent()


@contextmanager
def _execsnoop(output: Path) -> Iterator[None]:
    """execsnoop writing to a file."""
    with output.open("wb") as lines, subprocess.Popen([*WITH_TRACEFS, EXECSNOOP], stdout=lines) as snoop:
        try:
            time.sleep(SETTLE_S)
            yield
            time.sleep(0.5)
        finally:
            snoop.send_signal(signal.SIGINT)  # which makes it write out what it has
