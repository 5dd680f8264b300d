from collections.abc import Callable, Iterable
from typing import TypeAlias

from aegis._native.records import RecordBatch
from aegis.model.process import Cgroup, Process

Chunk: TypeAlias = tuple[int, int, bytes]  # base_ns on the wall clock, events, their records
Note: TypeAlias = tuple[int, int, int, int, bytes]  # pid, start_ns, uid, cgroup_id, comm

class ProcessTable:
    @property
    def running(self) -> int: ...  # about: those that a lost exit leaves behind are among them
    @property
    def cgroups(self) -> int: ...  # names of cgroups kept
    @property
    def unseen(self) -> int: ...  # processes that had to be made up from one record
    def __init__(
        self,
        cgroup_of: Callable[[int], Cgroup | None],
        cgroup_made: Callable[[int, bytes], Cgroup],
        read: Callable[[int], Process | None],
        *,
        keep_ended: int,
    ) -> None: ...
    def __len__(self) -> int: ...
    def snapshot(self, processes: Iterable[Process]) -> None: ...
    def take(
        self, batches: Iterable[RecordBatch], wall_offset_ns: int
    ) -> tuple[list[Chunk], int, int, int, int]: ...  # chunks; decoded = events + forks + cgroups
    def owner(self, owner: int, note: Note | None = None) -> bytes | None: ...
    def reconcile(self, running: Iterable[int]) -> int: ...
