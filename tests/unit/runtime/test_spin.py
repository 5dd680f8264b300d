"""The watch of the loop, driven look by look with a clock of the test's own; then once with a real loop that spins."""

from __future__ import annotations

import asyncio
import gc
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from aegis.runtime.clock import SystemClock
from aegis.runtime.offload import this_thread
from aegis.runtime.spin import (
    BURNT_S,
    KERNEL_PATIENCE_S,
    LOOK_S,
    PATIENCE_S,
    STEP_S,
    TOLD_S,
    Spin,
    SpinWatch,
    culprit,
    frame_of,
)


class Times:
    """Both clocks, moved by the test."""

    def __init__(self) -> None:
        self.now = 0.0
        self.cpu = 0.0
        self.ended = False

    def monotonic_ns(self) -> int:
        return round(self.now * 1e9)

    def thread_cpu_ns(self, thread: int) -> int:
        if self.ended:
            raise ProcessLookupError
        return round(self.cpu * 1e9)


class Loop:
    """Keeps what it is asked to call."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], object]] = []
        self.closed = False

    def call_soon_threadsafe(self, call: Callable[[], object]) -> None:
        if self.closed:
            raise RuntimeError
        self.calls.append(call)


class Watched:
    def __init__(self) -> None:
        self.times = Times()
        self.loop: Any = Loop()
        self.told: list[Spin] = []
        self.ended: list[Spin] = []
        self.watch = SpinWatch(self.loop, self.times, told=self.told.append, ended=self.ended.append)

    def after(self, seconds: float, burnt: float) -> float:
        """Let so much time go by, look, and give the pause it asks for."""
        self.times.now += seconds
        self.times.cpu += burnt
        return self.watch.look()


def test_an_idle_loop_is_left_in_peace() -> None:
    watched = Watched()
    assert [watched.after(LOOK_S, 0.01) for _ in range(100)] == [LOOK_S] * 100
    assert watched.loop.calls == []


def test_a_busy_loop_that_turns_is_no_spin() -> None:
    watched = Watched()
    for _ in range(20):
        assert watched.after(LOOK_S, 0.9) == STEP_S
        watched.loop.calls.pop()()
        assert watched.after(STEP_S, 0.9 * STEP_S) == STEP_S  # busy still: asked again
        watched.loop.calls.pop()()
        assert watched.after(STEP_S, 0.001) == LOOK_S
    assert (watched.told, watched.ended) == ([], [])


def test_a_spin_is_told_then_ended_in_time() -> None:
    watched = Watched()
    assert watched.after(LOOK_S, 0.2) == STEP_S  # it began a moment ago
    spun = 0.2
    while not watched.ended:
        assert watched.after(STEP_S, STEP_S) == STEP_S
        spun += STEP_S
        assert bool(watched.told) is (spun - 0.2 >= TOLD_S - 1e-9)
        assert spun < 4
    assert len(watched.told) == 1
    assert spun - 0.2 == pytest.approx(PATIENCE_S, abs=1.1 * STEP_S)
    assert watched.ended[0].seconds == pytest.approx(PATIENCE_S, abs=1.1 * STEP_S)
    assert len(watched.loop.calls) == 1


def test_a_spin_on_a_contended_host_is_ended_too() -> None:
    watched = Watched()
    watched.after(LOOK_S, 0.2)
    burnt = 0.0
    while not watched.ended:
        watched.after(STEP_S, 0.2 * STEP_S)
        burnt += 0.2 * STEP_S
        assert bool(watched.ended) is (burnt >= BURNT_S - 1e-9)


def test_what_burns_no_processor_is_no_spin() -> None:
    """A debugger stops the loop's thread; a call waits in the kernel."""
    watched = Watched()
    watched.after(LOOK_S, 0.2)
    for _ in range(100):
        watched.after(STEP_S, 0.0)
    assert (watched.told, watched.ended) == ([], [])


def test_a_process_that_was_stopped_is_no_spin() -> None:
    """The looks stop with it: one that comes too late is one look, whatever the loop had been doing before."""
    watched = Watched()
    watched.after(LOOK_S, 0.2)
    for _ in range(5):
        watched.after(STEP_S, STEP_S)
    watched.after(PATIENCE_S, STEP_S)
    assert watched.ended == []
    watched.loop.calls.pop()()
    assert watched.after(STEP_S, 0.0) == LOOK_S


def test_an_end_that_did_not_work_is_tried_again() -> None:
    watched = Watched()
    watched.after(LOOK_S, 0.9)
    for _ in range(round(3.5 * PATIENCE_S / STEP_S)):
        watched.after(STEP_S, STEP_S)
    assert len(watched.ended) == 3
    assert len(watched.told) == 1


def test_a_loop_that_is_gone_ends_nothing() -> None:
    watched = Watched()
    watched.loop.closed = True
    assert watched.after(LOOK_S, 0.9) == LOOK_S
    watched.times.ended = True
    assert watched.after(LOOK_S, 0.9) == LOOK_S


def called_from(path: Path, then: Callable[[], FrameType]) -> FrameType:
    """The frame `then` gives, called by code that was compiled as of that file."""
    made: dict[str, Any] = {}
    exec(compile("def handler(then):\n    return then()\n", str(path), "exec"), made)
    frame: FrameType = made["handler"](then)
    return frame


def here() -> FrameType:
    return sys._getframe()


def test_whose_code_runs(tmp_path: Path) -> None:
    folders = [str(tmp_path / "modules"), str(tmp_path / "more")]
    ours = tmp_path / "modules" / "telemetry" / "module.py"
    other = tmp_path / "more" / "slow" / "module.py"
    name, where, _ = culprit(called_from(ours, here), folders, "")
    assert (name, where) == ("telemetry", "modules/telemetry/module.py:2 handler")
    inner = called_from(ours, lambda: called_from(other, here))
    assert (
        culprit(inner, folders, "module advanced_policy")[0] == "slow"
    )  # the innermost, whoever's task it is
    assert culprit(here(), folders, "module advanced_policy")[0] == "advanced_policy"
    name, where, _ = culprit(here(), folders, "Task-7")
    assert name == ""
    assert "runtime/test_spin.py:" in where
    beside = called_from(tmp_path / "modules_not" / "x" / "module.py", here)
    assert culprit(beside, folders, "")[0] == ""
    assert culprit(None, folders, "module x") == ("x", "", False)


def test_the_kernels_room_at_work_has_more_patience(tmp_path: Path) -> None:
    folders = [str(tmp_path / "modules")]
    room = tmp_path / "aegis" / "kernel" / "object.py"
    module = tmp_path / "modules" / "observability" / "module.py"
    assert culprit(called_from(module, lambda: called_from(room, here)), folders, "")[2] is True
    assert culprit(called_from(room, lambda: called_from(module, here)), folders, "")[2] is False
    assert KERNEL_PATIENCE_S > PATIENCE_S


async def test_a_real_loop_that_spins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    package = f"spun_{tmp_path.name.replace('-', '_')}"
    folder = tmp_path / package / "spinner"
    folder.mkdir(parents=True)
    (tmp_path / package / "__init__.py").touch()
    (folder / "__init__.py").write_text(
        "def spin(until):\n    while not until():\n        pass\n",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    found: list[Spin] = []
    loop = asyncio.get_running_loop()
    watch = SpinWatch(loop, SystemClock(), told=found.append, ended=found.append, package=package)
    watch.open()
    try:
        await asyncio.to_thread(lambda: None)
        importlib.import_module(f"{package}.spinner").spin(lambda: len(found) == 2)
    finally:
        watch.close()
    assert [one.module for one in found] == ["spinner", "spinner"]
    assert "spinner/__init__.py:" in found[0].where
    assert TOLD_S <= found[0].seconds < found[1].seconds
    assert found[1].seconds > PATIENCE_S - STEP_S
    assert watch._lookout is not None
    assert watch._lookout.join(5)
    assert this_thread() == watch._thread


@pytest.mark.parametrize("collects", [True, False])
def test_nothing_is_collected_while_the_frames_are_taken(
    monkeypatch: pytest.MonkeyPatch, *, collects: bool
) -> None:
    taken, before = sys._current_frames, gc.isenabled()
    during = []

    def frames() -> dict[int, FrameType]:
        during.append(gc.isenabled())
        return taken()

    monkeypatch.setattr(sys, "_current_frames", frames)
    (gc.enable if collects else gc.disable)()
    try:
        assert frame_of(this_thread()) is not None
        assert (during, gc.isenabled()) == ([False], collects)
    finally:
        (gc.enable if before else gc.disable)()
