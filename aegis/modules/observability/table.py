"""The native process table as this module has it: batches of the sensors in, encoded events out, owners by their ids."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from aegis._native.processes import ProcessTable
from aegis._native.records import RecordBatch
from aegis.model.block import BlockClass, Encoded
from aegis.model.process import Cgroup, Owner, Process
from aegis.model.records import EncodedEvents, read_owner
from aegis.runtime.module import SocketOwner


class Taken(NamedTuple):
    """Runs of events, and how many records became what: decoded = events + forks + cgroups."""

    runs: list[EncodedEvents]
    decoded: int
    events: int
    forks: int
    cgroups: int


class Table:
    """Processes by owner id. For the three callables see `ProcessTable`; native code takes `native` itself."""

    def __init__(
        self,
        cgroup_of: Callable[[int], Cgroup | None],
        cgroup_made: Callable[[int, bytes], Cgroup],
        read: Callable[[int], Process | None],
        *,
        keep_ended: int,
    ) -> None:
        self.native = ProcessTable(cgroup_of, cgroup_made, read, keep_ended=keep_ended)

    def __len__(self) -> int:
        return len(self.native)

    @property
    def running(self) -> int:
        """Processes whose end is not known, about: those that a lost exit leaves behind are among them."""
        return self.native.running

    def snapshot(self, processes: Iterable[Process]) -> None:
        """Take processes that /proc showed."""
        self.native.snapshot(processes)

    def take(self, batch: RecordBatch, wall_offset_ns: int) -> Taken:
        """Keep the table by the records and make events of them. `wall_offset_ns`: wall clock minus CLOCK_BOOTTIME."""
        chunks, decoded, events, forks, cgroups = self.native.take((batch,), wall_offset_ns)
        runs = [EncodedEvents(Encoded(BlockClass.EVENT, *chunk)) for chunk in chunks]
        return Taken(runs, decoded, events, forks, cgroups)

    def find_owner(self, owner: int, told: SocketOwner | None = None) -> Owner | None:
        """What an owner id of the flow table stands for; None when it is not known any more.

        `told` is what the kernel noted at the socket: with it the cgroup is the one of that time, and a process that is
        not kept any more is still told of.
        """
        fragment = self.owner_record(owner, told)
        return None if fragment is None else read_owner(fragment)

    def owner_record(self, owner: int, told: SocketOwner | None = None) -> bytes | None:
        """As `find_owner`, in the form records carry."""
        note = None
        if told and told.pid is not None and told.start_ns is not None and told.cgroup_id is not None:
            note = (told.pid, told.start_ns, told.uid or 0, told.cgroup_id, told.comm or b"")
        return self.native.owner(owner, note)

    def reconcile(self, running: Iterable[int]) -> int:
        """Forget processes whose exit never arrived: neither running nor ended, now and the last time. How many."""
        return self.native.reconcile(running)
