"""The process table in Python: what `aegis._native.processes` must answer, and the events it must make.

Exec, fork and exit records keep the table; what was there before them comes from /proc. A process that has ended stays
among the last `keep_ended`, so that what is told later about its sockets and flows still finds it. Nothing here grows
without end: cgroups have a cap, what is made up ends at once, and `reconcile` finds those whose exit was lost.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec

from aegis._native.records import (
    ACCEPT,
    CGROUP,
    CONNECT,
    CWD_TRUNCATED,
    EXE_DELETED,
    EXEC,
    EXIT,
    FORK,
    LISTEN,
    PATH_TRUNCATED,
    RecordBatch,
    decode,
)
from aegis.model.absent import Absent
from aegis.model.event import (
    AcceptEvent,
    ConnectEvent,
    Event,
    ExecEvent,
    ExitEvent,
    ListenEvent,
    SocketEvent,
)
from aegis.model.process import (
    OWNER_MASK,
    OWNER_PID_BITS,
    Ancestor,
    Cgroup,
    Owner,
    OwnerLabel,
    Process,
    owner_key,
)

Record = tuple[Any, ...]

TICK_NS = 10_000_000  # /proc gives a start in USER_HZ, which is 100 on every architecture with BPF
PID_MASK = (1 << OWNER_PID_BITS) - 1
ANCESTORS = 8
CGROUPS = 4096  # names kept here; those beyond are asked for again
KINDS = (EXEC, EXIT, FORK, CONNECT, ACCEPT, LISTEN, CGROUP)
SOCKETS: dict[int, type[SocketEvent]] = {CONNECT: ConnectEvent, ACCEPT: AcceptEvent, LISTEN: ListenEvent}
LABELS = (OwnerLabel.UNKNOWN, OwnerLabel.KERNEL, OwnerLabel.REQUEST, OwnerLabel.FORWARDED)

NO_EXE = Absent("the kernel names no file for it")
NO_ARGS = Absent("the argument block could not be read")
NO_CWD = Absent("the kernel names no directory for it, or one longer than a record holds")
NO_CGROUP = Absent("no directory below the cgroup root has its id: removed, or outside")
UNSEEN = Absent("its exec was not seen and it ended before /proc could be read")
NOT_KEPT = Absent("it has ended, and its exec was not seen or is not kept any more")


class ProcessTable:
    """Processes by owner id. `cgroup_of` names a cgroup id; `read` finds a running process in /proc by pid."""

    def __init__(
        self,
        cgroup_of: Callable[[int], Cgroup | None],
        read: Callable[[int], Process | None],
        *,
        keep_ended: int,
    ) -> None:
        self._cgroup_of = cgroup_of
        self._read = read
        self._keep_ended = keep_ended
        self._cgroups: OrderedDict[int, Cgroup] = OrderedDict()
        # A forked process that has not run anything of its own is its record and its parent until someone asks.
        self._processes: dict[int, Process | tuple[Record, Process]] = {}
        self._ancestors: dict[int, Ancestor] = {}
        self._last_chain: tuple[tuple[int, int, int], ...] | None = None
        self._last_line: tuple[Ancestor, ...] = ()
        self._older: dict[int, Process] = {}
        self._ended: deque[int] = deque()
        self._unknown = (
            UNSEEN  # why nothing is known of a process: from the first one forgotten on, another reason
        )
        # What did not run at the last reconciling: its exit may just be on its way.
        self._missing: set[int] = set()
        self._missing_older: set[int] = set()
        self.unseen = 0  # processes that had to be made up from one record

    def __len__(self) -> int:
        return len(self._processes) + len(self._older)

    @property
    def running(self) -> int:
        """Processes whose end is not known, about: those that a lost exit leaves behind are among them."""
        return max(len(self._processes) - len(self._ended), 0)

    def snapshot(self, processes: Iterable[Process]) -> None:
        """Take processes that /proc showed. Their starts are known to the tick, until a record names one exactly."""
        for process in processes:
            self._older[process.pid] = process

    def exec(self, record: Record) -> Process:
        """Take an exec record; the process as it is from now on."""
        (
            _, _, _, pid, start_ns, uid, gid, ppid, cgroup_id, _, _, comm, path, flags, args, args_total, chain, cwd,
        ) = record  # fmt: skip
        if chain is not self._last_chain:  # children of one parent in a row come with one and the same tuple
            self._last_line = self._line(chain)
            self._last_chain = chain
        process = Process(
            pid=pid,
            start_ns=start_ns,
            ppid=ppid,
            uid=uid,
            gid=gid,
            comm=comm,
            exe=path or NO_EXE,
            exe_deleted=flags & EXE_DELETED != 0,
            exe_truncated=flags & PATH_TRUNCATED != 0,
            args=args if args or not args_total else NO_ARGS,
            args_total=args_total,
            cwd=NO_CWD if flags & CWD_TRUNCATED or not cwd else cwd,
            cgroup=self._cgroups.get(cgroup_id) or self.cgroup(cgroup_id),
            ancestors=self._last_line,
        )
        key = (start_ns >> 10 << OWNER_PID_BITS | pid) & OWNER_MASK
        self._processes[key] = process
        if key in self._ancestors:
            self._forget_ancestor(key)
        return process

    def fork(self, record: Record) -> None:
        """Take a fork record: the child is what its parent was."""
        _, _, _, pid, start_ns, _, parent_pid, parent_start_ns, _, _ = record
        parent = self._processes.get((parent_start_ns >> 10 << OWNER_PID_BITS | parent_pid) & OWNER_MASK)
        if type(parent) is not Process:
            parent = self.find(parent_pid, parent_start_ns)
        if parent is not None:
            key = (start_ns >> 10 << OWNER_PID_BITS | pid) & OWNER_MASK
            self._processes[key] = (record, parent)
            if key in self._ancestors:
                self._forget_ancestor(key)

    def exit(self, record: Record) -> Process:
        """Take an exit record; the process that ended."""
        _, _, _, pid, start_ns, uid, cgroup_id, ppid, _, _, comm = record
        key = (start_ns >> 10 << OWNER_PID_BITS | pid) & OWNER_MASK
        process = self._processes.get(key)
        if type(process) is not Process:
            process = self._settle(key, pid, start_ns, runs=False) or self._make_up(
                key, pid, start_ns, uid=uid, comm=comm, ppid=ppid, cgroup_id=cgroup_id
            )
        ended = self._ended
        ended.append(key)
        if len(ended) > self._keep_ended:
            self._forget_oldest()
        return process

    def _forget_oldest(self) -> None:
        key = self._ended.popleft()
        self._processes.pop(key, None)
        self._missing.discard(key)
        self._unknown = NOT_KEPT
        if key in self._ancestors:
            self._forget_ancestor(key)

    def owner(self, pid: int, start_ns: int, *, uid: int, cgroup_id: int, comm: bytes) -> Process:
        """The process a socket's record names; made up from the record where nothing else is known of it."""
        key = (start_ns >> 10 << OWNER_PID_BITS | pid) & OWNER_MASK
        process = self._processes.get(key)
        if type(process) is not Process:
            process = self._settle(key, pid, start_ns)
            if process is None:
                process = self._make_up(key, pid, start_ns, uid=uid, comm=comm, cgroup_id=cgroup_id)
                self._ended.append(key)  # it does not run: no exit may follow
                if len(self._ended) > self._keep_ended:
                    self._forget_oldest()
                return process
        before = process.cgroup
        if isinstance(before, Absent) or before.id != cgroup_id:
            now = self.cgroup(cgroup_id)
            if isinstance(now, Cgroup) or isinstance(
                before, Cgroup
            ):  # it moved, or is told for the first time
                process = self._processes[key] = msgspec.structs.replace(process, cgroup=now)
        return process

    def remembered(self, pid: int, start_ns: int, *, uid: int, cgroup_id: int, comm: bytes) -> Process:
        """As `owner`, for what only the kernel remembers: it is not kept, however often it is asked for."""
        return self.find(pid, start_ns) or self._made_up(
            pid, start_ns, uid=uid, comm=comm, ppid=UNSEEN, cgroup_id=cgroup_id
        )

    def find(self, pid: int, start_ns: int) -> Process | None:
        """The process, if it is known or still runs."""
        return self._settle(owner_key(pid, start_ns), pid, start_ns)

    def find_owner(self, owner: int) -> Owner | None:
        """What an owner id of the flow table stands for; None when it is not known any more.

        The id has the start in units of 1,024 ns and without its upper bits: of a process older than the agent it can
        only tell that the start is near.
        """
        pid = owner & PID_MASK
        if not pid:
            number = owner >> OWNER_PID_BITS
            return LABELS[number] if number < len(LABELS) else None
        known = self._processes.get(owner)
        if known is not None:
            return known if type(known) is Process else self._settle(owner, pid, 0)
        for process in (self._older.get(pid), self._read(pid)):
            if process is not None and self._near(process.start_ns, owner):
                return process
        return None

    def noted_owner(self, owner: int, note: tuple[int, int, int, int, bytes]) -> Owner:
        """As `find_owner`, in the cgroup that the kernel noted at the socket: (pid, start_ns, uid, cgroup_id, comm)."""
        pid, start_ns, uid, cgroup_id, comm = note
        known = self.find_owner(owner)
        if known is None:
            return self.remembered(pid, start_ns, uid=uid, cgroup_id=cgroup_id, comm=comm)
        if isinstance(known, OwnerLabel):
            return known
        if isinstance(known.cgroup, Absent) or known.cgroup.id != cgroup_id:
            return msgspec.structs.replace(known, cgroup=self.cgroup(cgroup_id))
        return known

    @staticmethod
    def _near(start_ns: int, owner: int) -> bool:
        """Whether a start known to the tick can be the start in an owner id."""
        later = ((owner >> OWNER_PID_BITS) - (start_ns >> 10)) & (OWNER_MASK >> OWNER_PID_BITS)
        return later <= TICK_NS >> 10

    def learn_cgroup(self, cgroup: Cgroup) -> None:
        """Take the name of a cgroup as its record gives it."""
        self._keep_cgroup(cgroup.id, cgroup)

    def cgroup(self, cgroup_id: int) -> Cgroup | Absent:
        """The cgroup of an id, looked up once."""
        found = self._cgroups.get(cgroup_id) or self._cgroup_of(cgroup_id)
        if found is None:
            return NO_CGROUP
        self._keep_cgroup(cgroup_id, found)
        return found

    def _keep_cgroup(self, cgroup_id: int, cgroup: Cgroup) -> None:
        self._cgroups[cgroup_id] = cgroup
        if len(self._cgroups) > CGROUPS:
            self._cgroups.popitem(last=False)

    def reconcile(self, running: Iterable[int]) -> int:
        """Forget processes whose exit never arrived: neither running nor ended, now and the last time. How many.

        An exit that is only late, in the ring or a queue, finds its process still.
        """
        alive = set(running)
        ended = set(self._ended)
        missing: set[int] = set()
        newest: dict[int, tuple[int, int]] = {}
        for key, known in self._processes.items():
            if key in ended:
                continue
            pid = key & PID_MASK
            if pid not in alive:
                missing.add(key)
                continue
            start_ns = known[0][4] if isinstance(known, tuple) else known.start_ns
            other = newest.get(pid)
            if other is None or start_ns > other[0]:
                newest[pid] = (start_ns, key)
                if other is not None:
                    missing.add(other[1])
            else:  # the number is another process's by now
                missing.add(key)
        lost = missing & self._missing
        for key in lost:
            del self._processes[key]
            self._forget_ancestor(key)
        self._missing = missing - lost
        missing = self._older.keys() - alive
        for pid in missing & self._missing_older:
            del self._older[pid]
        self._missing_older = missing
        return len(lost)

    def _settle(self, key: int, pid: int, start_ns: int, *, runs: bool = True) -> Process | None:
        """A known process in full: a fork becomes a process, one older than the agent gets its exact start."""
        process = self._processes.get(key)
        if process is None:
            process = self._older.get(pid)
            if process is None or process.start_ns // TICK_NS != start_ns // TICK_NS:
                process = self._read(pid) if runs else None
                if process is None or process.start_ns // TICK_NS != start_ns // TICK_NS:
                    return None
            self._older.pop(pid, None)
            process = msgspec.structs.replace(process, start_ns=start_ns)
            self._processes[key] = process
        elif isinstance(process, tuple):
            process = self._processes[key] = self._child(*process)
        return process

    def _child(self, record: Record, parent: Process) -> Process:
        _, _, _, pid, start_ns, uid, parent_pid, _, cgroup_id, comm = record
        return msgspec.structs.replace(
            parent,
            pid=pid,
            start_ns=start_ns,
            ppid=parent_pid,
            uid=uid,
            comm=comm,
            cgroup=self.cgroup(cgroup_id),
            ancestors=(parent.as_ancestor(), *parent.ancestors[: ANCESTORS - 1]),
        )

    def _line(self, chain: tuple[tuple[int, int, int], ...]) -> tuple[Ancestor, ...]:
        known = self._ancestors
        line: list[Ancestor] = []
        for pid, start_ns, uid in chain:
            ancestor = known.get((start_ns >> 10 << OWNER_PID_BITS | pid) & OWNER_MASK)
            line.append(self._ancestor(pid, start_ns, uid) if ancestor is None else ancestor)
        return tuple(line)

    def _forget_ancestor(self, key: int) -> None:
        self._ancestors.pop(key, None)
        self._last_chain = None

    def _ancestor(self, pid: int, start_ns: int, uid: int) -> Ancestor:
        key = owner_key(pid, start_ns)
        process = self._settle(key, pid, start_ns) or self._make_up(key, pid, start_ns, uid=uid)
        ancestor = self._ancestors[key] = process.as_ancestor()
        return ancestor

    def _make_up(
        self,
        key: int,
        pid: int,
        start_ns: int,
        *,
        uid: int,
        comm: bytes | Absent = UNSEEN,
        ppid: int | Absent = UNSEEN,
        cgroup_id: int | None = None,
    ) -> Process:
        self.unseen += 1
        process = self._processes[key] = self._made_up(
            pid, start_ns, uid=uid, comm=comm, ppid=ppid, cgroup_id=cgroup_id
        )
        return process

    def _made_up(
        self,
        pid: int,
        start_ns: int,
        *,
        uid: int,
        comm: bytes | Absent,
        ppid: int | Absent,
        cgroup_id: int | None,
    ) -> Process:
        unknown = self._unknown
        return Process(
            pid=pid,
            start_ns=start_ns,
            ppid=unknown if ppid is UNSEEN else ppid,
            uid=uid,
            gid=unknown,
            comm=unknown if comm is UNSEEN else comm,
            exe=unknown,
            args=unknown,
            args_total=0,
            cwd=unknown,
            cgroup=unknown if cgroup_id is None else self.cgroup(cgroup_id),
            ancestors=(),
        )


def in_order(batches: Iterable[RecordBatch], kinds: tuple[int, ...]) -> list[Record]:
    """Records of `kinds` by time. A batch that came by several topics counts once.

    One drain of the ring is one batch, whichever topics its records belong to; drains come in order. Within a batch
    records of two processors can stand the wrong way round by the time it took to write one.
    """
    seen: set[int] = set()
    records: list[Record] = []
    for batch in batches:
        if id(batch) not in seen:
            seen.add(id(batch))
            records += decode(batch, kinds)
    records.sort(key=itemgetter(1))
    return records


class Translation(NamedTuple):
    """Events, and how many records changed what is known without being one: len(records) is their sum."""

    events: list[Event]
    forks: int
    cgroups: int


def translate(
    records: Iterable[Record],
    table: ProcessTable,
    learn_cgroup: Callable[[int, bytes], Cgroup],
    wall_offset_ns: int,
) -> Translation:
    """Keep `table` by the records, which are of `KINDS`, and make events of them.

    `wall_offset_ns` is the wall clock minus CLOCK_BOOTTIME. `learn_cgroup` takes the id and path of a new cgroup.
    """
    events: list[Event] = []
    forks = cgroups = 0
    add, take_exec, take_exit, take_fork = events.append, table.exec, table.exit, table.fork
    for record in records:
        kind = record[0]
        if kind == EXEC:
            add(ExecEvent(time_ns=record[1] + wall_offset_ns, owner=take_exec(record)))
        elif kind == FORK:
            take_fork(record)
            forks += 1
        elif kind == EXIT:
            add(
                ExitEvent(
                    time_ns=record[1] + wall_offset_ns,
                    owner=take_exit(record),
                    code=record[8],
                    signal=record[9],
                    duration_ns=record[1] - record[4],
                )
            )
        elif kind == CGROUP:
            table.learn_cgroup(learn_cgroup(record[3], record[4]))
            cgroups += 1
        else:
            add(_socket(record, table, wall_offset_ns))
    return Translation(events, forks, cgroups)


def _socket(record: Record, table: ProcessTable, wall_offset_ns: int) -> SocketEvent:
    (
        kind, ktime_ns, _, pid, start_ns, uid, cgroup_id, cookie, source, destination, source_port, destination_port,
        protocol, label, comm, error,
    ) = record  # fmt: skip
    owner: Owner = (
        table.owner(pid, start_ns, uid=uid, cgroup_id=cgroup_id, comm=comm)
        if pid
        else LABELS[label if label < len(LABELS) else 0]
    )
    return SOCKETS[kind](
        time_ns=ktime_ns + wall_offset_ns,
        owner=owner,
        protocol=protocol,
        source=source,
        source_port=source_port,
        destination=destination,
        destination_port=destination_port,
        cookie=cookie,
        error=error,
    )
