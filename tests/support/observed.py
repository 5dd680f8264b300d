"""Programs of the object `observe` on the live kernel, read without agent, hub or module."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from aegis._native import records
from aegis._native.ringbuf import RingReader
from aegis.kernel import abi, links
from aegis.kernel.constants import Constants
from aegis.kernel.maps import Map
from aegis.kernel.object import BpfObject

Record = tuple[Any, ...]

RING_BYTES = 8 << 20
PATH, CWD = 12, 17  # in the tuple of an exec record


class Observed:
    """Attached programs and their ring. `take` gives what came since it was last called."""

    def __init__(self, opened: BpfObject, ring: RingReader, root: bytes) -> None:
        self.object = opened
        self._ring = ring
        self._root = (
            root  # where this process's root lies for the kernel; `take` gives paths as the process sees them
        )

    def _seen(self, record: Record) -> Record:
        if not self._root or record[0] != records.EXEC:
            return record
        parts = list(record)
        for at in (PATH, CWD):
            if parts[at].startswith(self._root):
                parts[at] = parts[at].removeprefix(self._root) or b"/"
        return tuple(parts)

    def take(self, keep: Callable[[Record], bool] = lambda _record: True) -> list[Record]:
        """Records in the ring now that `keep` holds of, in order. The machine goes on running beside a test."""
        found: list[Record] = []
        while True:
            batch = self._ring.drain(4096)
            assert not batch.malformed
            assert not batch.unknown
            found += filter(keep, map(self._seen, records.decode(batch)))
            if not self._ring.more:
                return found

    def counters(self, kind: int) -> dict[str, int]:
        """Terms of one kind, summed over the CPUs."""
        terms = self.object.map("aegis_record_counters").sum_u64(kind.to_bytes(4, "little"))
        names = ("attempted", "submitted", "ring_full", "filtered", "rate_limited")
        return dict(zip(names, terms, strict=True))


@contextlib.contextmanager
def observed(
    *programs: str,
    agent_tgid: int = 0,
    ring_bytes: int = RING_BYTES,
    reuse: dict[str, Map] | None = None,
    name: str = "observe",
    root: bytes | None = None,
) -> Iterator[Observed]:
    """Load `programs` of object `name` (all, where none is named), attach them, and take them off at the end."""
    constants = Constants(agent_tgid=agent_tgid, ring_bytes=ring_bytes, ring_reserved_bytes=0)
    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(
            BpfObject.open(
                name,
                constants=constants,
                map_sizes={} if reuse and "aegis_ring" in reuse else {"aegis_ring": ring_bytes},
                autoload=programs or None,
                reuse=reuse or {},
            )
        )
        opened.load()
        shared = stack.enter_context(opened.map("aegis_reader").mmap(writable=True))
        ring = stack.enter_context(RingReader(opened.map("aegis_ring").fd, shared))
        for program in opened.programs():
            stack.enter_context(links.attach_tracing(program))
        yield Observed(opened, ring, outer_root() if root is None else root)


@functools.cache
def outer_root() -> bytes:
    """The path of this process's root from the root of the mounts, by which the kernel names files: b"" but in a chroot."""
    mounts = [line.split(" ")[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    if "/" in mounts:
        return b""
    program = os.path.realpath("/bin/true")
    with observed("tp_exec", root=b"") as sensor:
        pid = os.posix_spawn(program, [program], os.environ)
        os.waitpid(pid, 0)
        (record,) = [each for each in sensor.take(by_pid(pid)) if each[0] == records.EXEC]
    path: bytes = record[PATH]
    assert path.endswith(os.fsencode(program))
    return path.removesuffix(os.fsencode(program))


def exec_of(path: str | bytes) -> Callable[[Record], bool]:
    """Execs of the file at `path`."""
    wanted = os.fsencode(path)
    return lambda record: record[0] == records.EXEC and record[12] == wanted


def by_pid(*pids: int) -> Callable[[Record], bool]:
    """Records of these processes."""
    wanted = frozenset(pids)
    return lambda record: record[0] != records.CGROUP and record[3] in wanted


def number(name: str) -> int:
    """A number of the shared headers: a limit, or a flag of an exec record."""
    for enum in ("aegis_limits", "aegis_exec_flags"):
        if (value := abi.enum(enum).get(f"AEGIS_{name}")) is not None:
            return value
    raise LookupError(name)
