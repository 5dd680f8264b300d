"""Programs of the object `observe` on the live kernel, read without agent, hub or module."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

from aegis._native import records
from aegis._native.ringbuf import RingReader
from aegis.kernel import abi, links
from aegis.kernel.constants import Constants
from aegis.kernel.maps import Map
from aegis.kernel.object import BpfObject

Record = tuple[Any, ...]

RING_BYTES = 8 << 20


class Observed:
    """Attached programs and their ring. `take` gives what came since it was last called."""

    def __init__(self, opened: BpfObject, ring: RingReader) -> None:
        self.object = opened
        self._ring = ring

    def take(self, keep: Callable[[Record], bool] = lambda _record: True) -> list[Record]:
        """Records in the ring now that `keep` holds of, in order. The machine goes on running beside a test."""
        found: list[Record] = []
        while True:
            batch = self._ring.drain(4096)
            assert not batch.malformed
            assert not batch.unknown
            found += filter(keep, records.decode(batch))
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
        yield Observed(opened, ring)


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
