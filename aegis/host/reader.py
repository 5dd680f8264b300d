"""The host as modules see it: samples, processes, cgroups, interfaces. One object, made by the agent's wiring."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from aegis.errors import HostError
from aegis.host import cgroups, disks, interfaces, own, procfs, usage
from aegis.host.cgroups import Cgroups
from aegis.host.metrics import GROUPS, METRICS, Metric
from aegis.host.netlink import Netlink
from aegis.host.processes import Processes, same_start
from aegis.host.rtnetlink import Link, RouteSocket
from aegis.host.sockdiag import SocketCounts
from aegis.host.usage import Reading
from aegis.model.absent import Absent
from aegis.model.process import Cgroup, Process
from aegis.model.sample import Labels, Sample

_Socket = TypeVar("_Socket", RouteSocket, SocketCounts)

SLOW_GROUPS = frozenset({"agent.pss"})
_SOCKETS_LISTED = 50_000
_WRAP_SECONDS = (1 << 32) / 1000  # the milliseconds of /proc/diskstats are printed as 32-bit numbers

_BY_GROUP: dict[str, tuple[Metric, ...]] = {
    group: tuple(metric for metric in METRICS if metric.group == group) for group in GROUPS
}
_METRIC: dict[str, Metric] = {metric.name: metric for metric in METRICS}
_WRAPPING = frozenset({"disk.read_time", "disk.write_time", "disk.busy_time"})
# The kernel says itself that these may step back (proc(5), iowait); so does idle where a CPU sleeps without ticks.
_STEPPING_BACK = frozenset({"cpu.time"})


class Host:
    """Reads the machine under `proc` and `sys`; `wall_ns` and `monotonic_ns` are its clocks.

    `cgroup_root` is a directory of the cgroup v2 hierarchy, whose mount is found by itself when None. Construction does no I/O;
    `close` lets go of the sockets that were opened. Everything raises HostError and nothing else, except `samples`,
    which never raises: what cannot be read is in it as absent, with the reason.
    """

    def __init__(
        self,
        *,
        wall_ns: Callable[[], int],
        monotonic_ns: Callable[[], int],
        cgroup_root: str | None = None,
        proc: str = "/proc",
        sys: str = "/sys",
    ) -> None:
        self._wall_ns = wall_ns
        self._monotonic_ns = monotonic_ns
        self._cgroup_root = cgroup_root
        self._proc = proc
        self._cgroups: Cgroups | None = None
        self._opened: dict[type[Netlink], Netlink] = {}
        self._highest: dict[tuple[str, Labels], float] = {}
        self._turns: dict[tuple[str, Labels], tuple[float, int]] = {}
        self._processes = Processes(self._cgroup_at, proc)
        self._readers: dict[str, Callable[[], Iterable[Reading]]] = {
            "cpu": lambda: usage.cpu(proc),
            "processes": lambda: usage.processes(proc),
            "load": lambda: usage.load(proc),
            "memory": lambda: usage.memory(proc),
            "swap": lambda: usage.swap(proc),
            "pressure.cpu": lambda: usage.pressure(proc, "cpu"),
            "pressure.memory": lambda: usage.pressure(proc, "memory"),
            "pressure.io": lambda: usage.pressure(proc, "io"),
            "disks": lambda: disks.disks(proc, sys),
            "filesystems": lambda: disks.filesystems(proc),
            "interfaces": self._interfaces,
            "tcp": self._tcp,
            "agent": lambda: own.agent(proc),
            "agent.pss": lambda: own.agent_pss(proc),
        }

    # Samples

    def samples(self, *, slow: bool = True) -> tuple[Sample, ...]:
        """Every number of aegis.host.metrics, read now; those that cost more only with `slow`."""
        found: list[Sample] = []
        for group in GROUPS:
            if slow or group not in SLOW_GROUPS:
                found += self._group(group)
        return tuple(found)

    def _group(self, group: str) -> Iterator[Sample]:
        """One group's samples. A group that cannot be read is one absent sample for each of its metrics."""
        try:
            readings = list(self._readers[group]())
        except HostError as error:
            reason = Absent(str(error))
            readings = [(metric.name, (), reason) for metric in _BY_GROUP[group]]
        time_ns = self._wall_ns()
        for name, labels, reading in readings:
            metric = _METRIC[name]
            yield Sample(
                name=name,
                labels=labels,
                value=None if isinstance(reading, Absent) else self._rising(name, labels, reading),
                reason=reading.reason if isinstance(reading, Absent) else None,
                unit=metric.unit,
                kind=metric.kind,
                source=metric.source,
                time_ns=time_ns,
            )

    def _rising(self, name: str, labels: Labels, value: float) -> float:
        """The value, made to rise where the kernel's own number may step back or starts over at 32 bits."""
        if name in _STEPPING_BACK:
            highest = max(value, self._highest.get((name, labels), value))
            self._highest[name, labels] = highest
            return highest
        if name in _WRAPPING:
            key = (name, labels)
            before, turns = self._turns.get(key, (value, 0))
            if before - value > _WRAP_SECONDS / 2:
                turns += 1
            self._turns[key] = (value, turns)
            return value + turns * _WRAP_SECONDS
        return value

    def _interfaces(self) -> Iterable[Reading]:
        with self._on(RouteSocket) as netlink:
            return list(interfaces.interfaces(netlink.links(), netlink.addresses()))

    def _tcp(self) -> Iterable[Reading]:
        """Listing costs a quarter of a microsecond a socket; a host with very many is not slowed down for a number."""
        there = usage.tcp_sockets(self._proc)
        if there > _SOCKETS_LISTED:
            raise HostError(
                f"{there} TCP sockets; more than {_SOCKETS_LISTED} are not listed at each reading"
            )
        with self._on(SocketCounts) as netlink:
            return [("tcp.sockets", (("state", state),), count) for state, count in netlink.tcp().items()]

    @contextlib.contextmanager
    def _on(self, kind: type[_Socket]) -> Iterator[_Socket]:
        """The open socket of a kind; after an error it is closed, and the next turn opens another."""
        opened = self._opened.get(kind)
        if not isinstance(opened, kind):
            opened = kind()
            self._opened[kind] = opened
        try:
            yield opened
        except HostError:
            del self._opened[kind]
            opened.close()
            raise

    # Cgroups and processes

    @property
    def cgroups(self) -> Cgroups:
        """Resolves ids and paths of cgroups. HostError while there is no cgroup v2 hierarchy."""
        if self._cgroups is None:
            mountinfo = f"{self._proc}/self/mountinfo"
            if self._cgroup_root is not None:
                cgroups.expect_hierarchy(self._cgroup_root)
            root = self._cgroup_root or cgroups.mounted_at(mountinfo)
            self._cgroups = Cgroups(*cgroups.mount_of(root, mountinfo), now=self._monotonic_ns)
        return self._cgroups

    def _cgroup_at(self, path: str) -> Cgroup:
        return self.cgroups.at(path)

    def cgroup(self, identity: int) -> Cgroup | None:
        """The cgroup of an id, or None where nothing has it."""
        return self.cgroups.find(identity)

    def cgroup_made(self, identity: int, path: str) -> Cgroup:
        """Take over what a record of the kernel says of a new cgroup."""
        return self.cgroups.learn(identity, path)

    def processes(self) -> tuple[Process, ...]:
        """All processes that run now. Starts are known to the clock tick: compare by `same_start`."""
        return self._processes.all()

    def pids(self) -> list[int]:
        """Ids of all processes that run now, at a tenth of the cost of `processes`."""
        return self._processes.pids()

    def process(self, pid: int) -> Process | None:
        """One process, or None where it is gone."""
        return self._processes.find(pid)

    @staticmethod
    def same_start(one_ns: int, other_ns: int) -> bool:
        """Whether a start from /proc and one from the kernel can be the same process."""
        return same_start(one_ns, other_ns)

    # Interfaces and size

    def links(self) -> tuple[Link, ...]:
        """All interfaces of the agent's network namespace."""
        with self._on(RouteSocket) as netlink:
            return netlink.links()

    def default_interfaces(self) -> tuple[Link, ...]:
        """The interfaces watched where `--interface` names none (aegis.host.interfaces.defaults)."""
        with self._on(RouteSocket) as netlink:
            return interfaces.defaults(netlink.links(), netlink.addresses(), netlink.routes())

    def memory_bytes(self) -> int:
        """Memory of the machine, for sizing tables."""
        return usage.memory_total(self._proc)

    def boot_id(self) -> bytes:
        """16 bytes that are others after each boot."""
        where = f"{self._proc}/sys/kernel/random/boot_id"
        text = procfs.read(where).strip().replace(b"-", b"")
        if not re.fullmatch(b"[0-9a-f]{32}", text):
            raise HostError(f"{where}: no UUID in it")
        return bytes.fromhex(text.decode())

    def close(self) -> None:
        """Close what was opened; twice is harmless."""
        for opened in self._opened.values():
            opened.close()
        self._opened.clear()
