"""Notices that the loop has stopped turning because something on it burns the processor, and says whose code that is.

A thread of its own looks once a second at the processor time of the loop's thread, which costs one system call and
does not wake the loop. Only where the loop was busy is it asked for a sign of life; what it does not answer is a stall.
A stall that burns processor time is a spin; one that does not is a debugger, a SIGSTOP or a host that sleeps, and none
of our business. A call into C that keeps the interpreter's lock cannot be seen from inside.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Final, Protocol

import msgspec

from aegis.runtime import modules_found, offload

LOOK_S: Final = 1.0  # between two looks at a loop that turns
STEP_S: Final = 0.2  # between two looks at one that was asked and has not answered
BUSY: Final = 0.15  # the share of a processor from which the loop is asked
TOLD_S: Final = 0.5  # without a turn: is said
PATIENCE_S: Final = 2.0  # without a turn: is ended
KERNEL_PATIENCE_S: Final = 20.0  # inside the kernel's room: loading programs takes that long on a small host
# And so much of it on a processor: others want it as well, and no turn of ours takes as long by itself.
TOLD_BURNT_S: Final = 0.25
BURNT_S: Final = 1.0
TASK: Final = "module "  # the supervisor's names of tasks


class Spin(msgspec.Struct, frozen=True, kw_only=True):
    """A stall that burns the processor. `module` is empty where it is no module's; `where` is FILE:LINE FUNCTION."""

    module: str
    where: str
    seconds: float


class Times(Protocol):
    """What is needed of the clock."""

    def monotonic_ns(self) -> int: ...

    def thread_cpu_ns(self, thread: int) -> int: ...


class SpinWatch:
    """Made on the loop's thread; `open` begins, `close` ends. `told` and `ended` are called on the watching thread:

    the first once a stall, as soon as it is one, the second when patience is over, and again in each further period.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Times,
        *,
        told: Callable[[Spin], None],
        ended: Callable[[Spin], None],
        package: str = modules_found.PACKAGE,
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._told = told
        self._ended = ended
        self._folders = [os.path.realpath(each) for each in importlib.import_module(package).__path__]
        self._thread = offload.this_thread()
        self._lookout: offload.Lookout | None = None
        self._looked_ns = clock.monotonic_ns()
        self._cpu_ns = clock.thread_cpu_ns(self._thread)
        self._stall: _Stall | None = None

    def open(self) -> None:
        self._lookout = offload.Lookout(self.look, "spin watch")

    def close(self) -> None:
        """Does not wait. Twice is harmless."""
        if self._lookout is not None:
            self._lookout.close()

    def look(self) -> float:
        """One look; the seconds until the next."""
        try:
            now_ns, cpu_ns = self._clock.monotonic_ns(), self._clock.thread_cpu_ns(self._thread)
        except OSError:  # the thread ended: so does the process
            return LOOK_S
        spent_ns, burnt_ns = now_ns - self._looked_ns, cpu_ns - self._cpu_ns
        self._looked_ns, self._cpu_ns = now_ns, cpu_ns
        if self._stall is None or self._stall.answered:
            self._stall = None
            if burnt_ns < BUSY * spent_ns:
                return LOOK_S
            self._stall = _Stall()
            try:
                self._loop.call_soon_threadsafe(self._stall.answer)
            except RuntimeError:  # the loop is closed
                self._stall = None
                return LOOK_S
            return STEP_S
        self._judge(self._stall, spent_ns, burnt_ns)
        return STEP_S

    def _judge(self, stall: _Stall, spent_ns: int, burnt_ns: int) -> None:
        # A look that came much too late was not let run either: the whole process stood still, and that is no spin.
        stall.seconds += min(spent_ns / 1e9, 2 * STEP_S)
        stall.burnt_s += burnt_ns / 1e9
        frame = frame_of(self._thread)
        module, where, in_kernel = culprit(frame, self._folders, task_name(self._loop))
        stall.seen[module, where] += 1
        if stall.answered:
            return
        if stall.seconds >= TOLD_S and stall.burnt_s >= TOLD_BURNT_S and not stall.told:
            stall.told = True
            self._told(stall.spin())
        patience_s = KERNEL_PATIENCE_S if in_kernel else PATIENCE_S
        if stall.seconds - stall.ended_s >= patience_s and stall.burnt_s - stall.ended_burnt_s >= BURNT_S:
            stall.ended_s, stall.ended_burnt_s = stall.seconds, stall.burnt_s
            self._ended(stall.spin())


class _Stall:
    """From the question to the answer."""

    def __init__(self) -> None:
        self.answered = False
        self.told = False
        self.seconds = 0.0
        self.burnt_s = 0.0
        self.ended_s = 0.0
        self.ended_burnt_s = 0.0
        self.seen: Counter[tuple[str, str]] = Counter()

    def answer(self) -> None:
        """On the loop."""
        self.answered = True

    def spin(self) -> Spin:
        """By what was seen most often; a module before none."""
        modules = Counter[str]()
        for (module, _), count in self.seen.items():
            modules[module] += count
        named = {module: count for module, count in modules.items() if module} or modules
        module = max(named, key=lambda name: named[name])
        places = {where: count for (one, where), count in self.seen.items() if one == module}
        return Spin(
            module=module, where=max(places, key=lambda place: places[place]), seconds=round(self.seconds, 1)
        )


def frame_of(thread: int) -> FrameType | None:
    """Where a thread is. A collection in between could deadlock (CPython 3.11: a lock is held that threads begin with)."""
    collects = gc.isenabled()  # the loop's thread only ever enables it: what is off stays so
    if collects:
        gc.disable()
    try:
        return sys._current_frames().get(thread)  # noqa: SLF001  what the interpreter has for just this
    finally:
        if collects:
            gc.enable()


def task_name(loop: asyncio.AbstractEventLoop) -> str:
    """The name of the task that has the loop's turn; empty in a callback."""
    task = asyncio.current_task(loop)
    return task.get_name() if task is not None else ""


def culprit(frame: FrameType | None, folders: Sequence[str], task: str) -> tuple[str, str, bool]:
    """Whose code runs: the innermost frame in a module's folder, else the module whose task it is, else nobody's.

    Returns the module or "", FILE:LINE FUNCTION of its frame or of the innermost one, and whether the kernel's room
    is at work above it.
    """
    innermost, in_kernel = "", False
    while frame is not None:
        file = os.path.realpath(frame.f_code.co_filename)
        short = "/".join(file.split(os.sep)[-3:])
        where = f"{short}:{frame.f_lineno} {frame.f_code.co_name}"
        innermost = innermost or where
        for folder in folders:
            name, _, rest = file.removeprefix(folder + os.sep).partition(os.sep)
            if rest and file.startswith(folder + os.sep):
                return name, where, in_kernel
        in_kernel = in_kernel or f"{os.sep}aegis{os.sep}kernel{os.sep}" in file
        frame = frame.f_back
    return task.removeprefix(TASK) if task.startswith(TASK) else "", innermost, in_kernel
