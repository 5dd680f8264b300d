"""How many processes were made, programs started and processes ended: counted by the kernel, without Aegis.

Counting perf events at the kernel's own tracepoints, one a CPU, for the whole machine as the sensors are. `threads`
counts what /proc/stat calls `processes`: processes and threads; `fork` leaves the threads out by a filter, as the
kernel's `processes` does not.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from aegis.host.namespaces import unmount

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_PERF_EVENT_OPEN: Final = {"x86_64": 298, "aarch64": 241}
_TYPE_TRACEPOINT: Final = 2
_ATTRIBUTE_BYTES: Final = 128
_CLOSE_ON_EXEC: Final = 8
_SET_FILTER: Final = 0x40082406  # PERF_EVENT_IOC_SET_FILTER
_CLONE_THREAD: Final = 0x10000

# kind -> tracepoint and what of it is counted
COUNTED: Final = {
    "exec": ("sched/sched_process_exec", ""),
    "exit": ("sched/sched_process_exit", "group_dead == 1"),
    "fork": ("task/task_newtask", f"!(clone_flags & {_CLONE_THREAD})"),
    "threads": ("task/task_newtask", ""),
}


@contextlib.contextmanager
def tracefs() -> Iterator[Path]:
    """The tracing file system: where it is mounted, else mounted for as long as the block lasts."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.startswith("tracefs "):
            yield Path(before.split(" ")[4])
            return
    with tempfile.TemporaryDirectory() as directory:
        _checked(_LIBC.mount(b"none", directory.encode(), b"tracefs", 0, None), "mount tracefs")
        try:
            yield Path(directory)
        finally:
            unmount(directory)


def _checked(result: int, what: str) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def _opened(identity: int, cpu: int, condition: str) -> int:
    """The descriptor of one event's count on one CPU, of what meets the condition."""
    attribute = ctypes.create_string_buffer(_ATTRIBUTE_BYTES)
    struct.pack_into("=IIQ", attribute, 0, _TYPE_TRACEPOINT, _ATTRIBUTE_BYTES, identity)
    number = _PERF_EVENT_OPEN[platform.machine()]
    flags = ctypes.c_ulong(_CLOSE_ON_EXEC)
    opened: int = _LIBC.syscall(number, attribute, -1, cpu, -1, flags)
    _checked(opened, "perf_event_open")
    if condition:
        try:
            text = ctypes.create_string_buffer(condition.encode())
            _checked(_LIBC.ioctl(opened, ctypes.c_ulong(_SET_FILTER), text), f"filter {condition}")
        except OSError:
            os.close(opened)
            raise
    return opened


def _online() -> list[int]:
    found: list[int] = []
    for part in Path("/sys/devices/system/cpu/online").read_text().strip().split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


class KernelCounts:
    """The counts, from the moment `counting` opened them."""

    def __init__(self, descriptors: dict[str, list[int]]) -> None:
        self._descriptors = descriptors

    def read(self) -> dict[str, int]:
        """Events so far by kind, and `processes` as /proc/stat has it."""
        found = {
            kind: sum(int.from_bytes(os.read(one, 8), "little") for one in ones)
            for kind, ones in self._descriptors.items()
        }
        stat = Path("/proc/stat").read_text().splitlines()
        found["processes"] = next(int(line.split()[1]) for line in stat if line.startswith("processes "))
        return found


@contextlib.contextmanager
def counting() -> Iterator[KernelCounts]:
    """Count until the block ends. `exit` is left out where the kernel's event does not say whether the process ends."""
    with contextlib.ExitStack() as stack:
        descriptors: dict[str, list[int]] = {}
        with tracefs() as mounted:
            for kind, (event, condition) in COUNTED.items():
                place = mounted / "events" / event
                if kind == "exit" and "group_dead" not in (place / "format").read_text():
                    continue
                identity = int((place / "id").read_text())
                descriptors[kind] = []
                for cpu in _online():
                    opened = _opened(identity, cpu, condition)
                    stack.callback(os.close, opened)
                    descriptors[kind].append(opened)
        yield KernelCounts(descriptors)
