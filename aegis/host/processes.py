"""Processes as /proc shows them: one, or all that run now.

The start of a process is known here in clock ticks, 10 ms; the kernel's records carry nanoseconds. `same_start`
compares the two.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import msgspec

from aegis.errors import HostError
from aegis.host import procfs
from aegis.host.cgroups import path_of
from aegis.model.absent import Absent
from aegis.model.process import Ancestor, Cgroup, Process

TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
ARGS_BYTES = 16_384
_ANCESTORS = 8
_DELETED = b" (deleted)"
_KERNEL_THREAD = 0x00200000  # PF_KTHREAD
_GONE = (errno.ENOENT, errno.ESRCH)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stat:
    """The part of /proc/PID/stat that is read. Times in clock ticks, `rss_pages` in pages."""

    pid: int
    comm: bytes
    state: str
    ppid: int
    flags: int
    user_ticks: int
    system_ticks: int
    threads: int
    start_ticks: int
    rss_pages: int

    @property
    def start_ns(self) -> int:
        """Start on the boot clock, to the tick."""
        return self.start_ticks * TICK_NS

    @property
    def kernel_thread(self) -> bool:
        """A thread of the kernel: it has no executable, arguments or working directory."""
        return bool(self.flags & _KERNEL_THREAD)


def same_start(one_ns: int, other_ns: int) -> bool:
    """Two starts of which one may be known to the clock tick only are the same instant as far as can be told."""
    return one_ns // TICK_NS == other_ns // TICK_NS


def parse_stat(text: bytes, where: str = "stat") -> Stat:
    """The fields of a stat file. The name may hold anything, parentheses and newlines too. HostError otherwise."""
    opening, closing = text.find(b"("), text.rfind(b")")
    if not 0 < opening < closing:
        raise HostError(f"{where}: no name in parentheses: {procfs.shown(text)}")
    words = procfs.columns(text[closing + 1 :], 22, where)
    return Stat(
        pid=procfs.number(text[:opening].strip(), where),
        comm=text[opening + 1 : closing],
        state=words[0].decode("ascii", "backslashreplace"),
        ppid=procfs.number(words[1], where),
        flags=procfs.number(words[6], where),
        user_ticks=procfs.number(words[11], where),
        system_ticks=procfs.number(words[12], where),
        threads=procfs.number(words[17], where),
        start_ticks=procfs.number(words[19], where),
        rss_pages=procfs.number(words[21], where),
    )


def parse_identity(text: bytes, where: str = "status") -> tuple[int, int]:
    """Real uid and gid of a status file. HostError where they are not there."""
    found: dict[bytes, int] = {}
    for line in text.split(b"\n"):
        if line.startswith((b"Uid:", b"Gid:")):
            found[line[:4]] = procfs.number(procfs.columns(line[4:], 4, where)[0], where)
    if len(found) != 2:
        raise HostError(f"{where}: no Uid and Gid")
    return found[b"Uid:"], found[b"Gid:"]


class Processes:
    """Reads processes under `root`. `cgroup_at` resolves a cgroup path, raising HostError where it cannot."""

    def __init__(self, cgroup_at: Callable[[str], Cgroup], root: str = "/proc") -> None:
        self._cgroup_at = cgroup_at
        self._root = root
        self.illegible = 0  # processes the last `all` had to leave out

    def pids(self) -> list[int]:
        """Process ids that exist now."""
        return [int(name) for name in procfs.listing(self._root) if name.isdecimal()]

    def find(self, pid: int) -> Process | None:
        """One process with its ancestors; None where it is gone. HostError where its files make no sense."""
        process = self._read(pid)
        return None if process is None else self._with_ancestors(process, self._read)

    def all(self) -> tuple[Process, ...]:
        """All processes with their ancestors, in the order of /proc; `illegible` counts those left out."""
        found: dict[int, Process] = {}
        self.illegible = 0
        for pid in self.pids():
            try:
                process = self._read(pid)
            except HostError:
                self.illegible += 1
                continue
            if process is not None:
                found[pid] = process
        return tuple(self._with_ancestors(process, found.get) for process in found.values())

    def _read(self, pid: int) -> Process | None:
        """A process without ancestors; None where it went away meanwhile."""
        base = f"{self._root}/{pid}"
        try:
            stat = parse_stat(procfs.read(f"{base}/stat"), f"{base}/stat")
            uid, gid = parse_identity(procfs.read(f"{base}/status"), f"{base}/status")
        except HostError as error:
            if error.errno in _GONE:
                return None
            raise
        exe, deleted = self._executable(base, stat)
        args, args_total = self._arguments(base, stat)
        return Process(
            pid=pid,
            start_ns=stat.start_ns,
            ppid=stat.ppid,
            uid=uid,
            gid=gid,
            comm=stat.comm,
            exe=exe,
            exe_deleted=deleted,
            args=args,
            args_total=args_total,
            cwd=self._link(f"{base}/cwd", stat),
            cgroup=self._cgroup(base),
            ancestors=(),
        )

    def _link(self, path: str, stat: Stat) -> bytes | Absent:
        if stat.kernel_thread:
            return Absent("a thread of the kernel")
        try:
            return os.fsencode(procfs.link(path))
        except HostError as error:
            return Absent("the process has ended" if error.errno in _GONE else str(error))

    def _executable(self, base: str, stat: Stat) -> tuple[bytes | Absent, bool]:
        path = self._link(f"{base}/exe", stat)
        if isinstance(path, Absent) or not path.endswith(_DELETED):
            return path, False
        return path.removesuffix(_DELETED), True

    def _arguments(self, base: str, stat: Stat) -> tuple[bytes | Absent, int]:
        if stat.kernel_thread:
            return Absent("a thread of the kernel"), 0
        try:
            text = procfs.read(f"{base}/cmdline")
        except HostError as error:
            return Absent("the process has ended" if error.errno in _GONE else str(error)), 0
        return text[:ARGS_BYTES], len(text)

    def _cgroup(self, base: str) -> Cgroup | Absent:
        try:
            return self._cgroup_at(path_of(procfs.read(f"{base}/cgroup"), f"{base}/cgroup"))
        except HostError as error:
            return Absent("the process has ended" if error.errno == errno.ESRCH else str(error))

    def _with_ancestors(self, process: Process, find: Callable[[int], Process | None]) -> Process:
        return msgspec.structs.replace(process, ancestors=tuple(self._ancestors(process, find)))

    def _ancestors(self, process: Process, find: Callable[[int], Process | None]) -> Iterable[Ancestor]:
        seen = {process.pid}
        for _ in range(_ANCESTORS):
            ppid = process.ppid
            parent = None if isinstance(ppid, Absent) or not ppid or ppid in seen else find(ppid)
            # A parent that started after its child is another process that got the number meanwhile.
            if parent is None or parent.start_ns > process.start_ns:
                return
            seen.add(parent.pid)
            yield parent.as_ancestor()
            process = parent
