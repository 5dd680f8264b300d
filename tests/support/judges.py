"""A judge for every telemetry number: psutil, or the kernel's files read in another way than Aegis reads them.

A judge gives {label values: number} for one metric, now. `within` says whether a sample lies between a judge's
readings before and after it; `Bracket` says whether these two readings tell anything about what was between them.
"""

from __future__ import annotations

import collections
import functools
import os
import re
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

import psutil

from aegis.host.metrics import Metric

Found = Mapping[tuple[str, ...], float]
Readings = dict[tuple[str, ...], float]
Judge = Callable[[], Found]

JUDGES: dict[str, Judge] = {}


def judge(*names: str) -> Callable[[Callable[[str], Found]], Callable[[str], Found]]:
    """Take the function as the judge of these metrics; it is called with the metric's name."""

    def take(function: Callable[[str], Found]) -> Callable[[str], Found]:
        for name in names:
            JUDGES[name] = functools.partial(function, name)
        return function

    return take


# A number that goes up and down between two readings tells nothing of where it was meanwhile; while its witness stands
# still it goes one way only, and then whatever was read between the two lies between them.
WITNESSES: dict[str, Callable[[], object]] = {}


def witness(*names: str) -> Callable[[Callable[[], object]], Callable[[], object]]:
    """Take the function as the witness of these gauges."""

    def take(function: Callable[[], object]) -> Callable[[], object]:
        for name in names:
            WITNESSES[name] = function
        return function

    return take


def only(value: float) -> Found:
    """The reading of a metric without labels."""
    return {(): value}


def matched(path: str, pattern: str) -> float:
    """The number the pattern's group finds in a file."""
    found = re.search(pattern, Path(path).read_text(), re.MULTILINE)
    assert found is not None, f"{path} has no {pattern}"
    return float(found[1])


@judge("cpu.time")
def cpu_time(_: str) -> Found:
    modes = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
    found: Readings = {("all", mode): getattr(psutil.cpu_times(), mode) for mode in modes}
    for number, times in enumerate(psutil.cpu_times(percpu=True)):
        found |= {(str(number), mode): getattr(times, mode) for mode in modes}
    return found


@judge("cpu.online")
def cpu_online(_: str) -> Found:
    return only(psutil.cpu_count(logical=True) or 0)


@judge("cpu.context_switches")
def context_switches(_: str) -> Found:
    return only(psutil.cpu_stats().ctx_switches)


@judge("process.forks", "process.running", "process.blocked")
def counts_of_stat(name: str) -> Found:
    key = {
        "process.forks": "processes",
        "process.running": "procs_running",
        "process.blocked": "procs_blocked",
    }
    return only(matched("/proc/stat", rf"^{key[name]} (\d+)$"))


@judge("process.count")
def process_count(_: str) -> Found:
    return only(len(psutil.pids()))


@judge("process.threads")
def thread_count(_: str) -> Found:
    """Each process's own count, added up."""
    total = 0
    for pid in psutil.pids():
        try:
            total += int(matched(f"/proc/{pid}/status", r"^Threads:\s+(\d+)$"))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return only(total)


@judge("load.average")
def load_average(_: str) -> Found:
    return {
        (minutes,): round(value, 2) for minutes, value in zip(("1", "5", "15"), os.getloadavg(), strict=True)
    }


@judge("memory.total", "memory.available", "memory.free", "memory.buffers", "memory.shared", "memory.slab")
def memory(name: str) -> Found:
    return only(getattr(psutil.virtual_memory(), name.removeprefix("memory.")))


@judge("memory.cached", "memory.dirty")
def memory_file(name: str) -> Found:
    key = name.removeprefix("memory.").capitalize()
    return only(matched("/proc/meminfo", rf"^{key}:\s+(\d+) kB$") * 1024)


@judge("swap.total", "swap.free", "swap.in", "swap.out")
def swap(name: str) -> Found:
    members = {"swap.total": "total", "swap.free": "free", "swap.in": "sin", "swap.out": "sout"}
    return only(getattr(psutil.swap_memory(), members[name]))


@judge(
    *(f"pressure.{resource}.{what}" for resource in ("cpu", "memory", "io") for what in ("share", "stalled"))
)
def pressure(name: str) -> Found:
    _, resource, what = name.split(".")
    text = Path(f"/proc/pressure/{resource}").read_text()
    if what == "stalled":
        return {
            (tasks,): int(total) / 1e6
            for tasks, total in re.findall(r"^(\w+) .* total=(\d+)$", text, re.MULTILINE)
        }
    return {
        (tasks, window): float(share)
        for tasks, rest in re.findall(r"^(\w+) (.*)$", text, re.MULTILINE)
        for window, share in re.findall(r"avg(\d+)=([\d.]+)", rest)
    }


DISK = {
    "disk.reads": ("read_count", 1),
    "disk.read_bytes": ("read_bytes", 1),
    "disk.read_time": ("read_time", 1000),
    "disk.writes": ("write_count", 1),
    "disk.written_bytes": ("write_bytes", 1),
    "disk.write_time": ("write_time", 1000),
    "disk.busy_time": ("busy_time", 1000),
}


def used_disks() -> list[str]:
    """Whole devices that did anything since they were made."""
    return [
        name
        for name, counters in psutil.disk_io_counters(perdisk=True).items()
        if Path(f"/sys/block/{name}").exists() and any(counters)
    ]


@judge(*DISK)
def disk(name: str) -> Found:
    member, divisor = DISK[name]
    counters = psutil.disk_io_counters(perdisk=True)
    return {(device,): getattr(counters[device], member) / divisor for device in used_disks()}


@judge("disk.in_flight")
def disk_in_flight(_: str) -> Found:
    return {
        (device,): sum(map(int, Path(f"/sys/block/{device}/inflight").read_text().split()))
        for device in used_disks()
    }


@judge(*(f"filesystem.{what}" for what in ("size", "free", "available", "inodes", "inodes_free")))
def filesystem(name: str) -> Found:
    """One entry for each file system: of several mounts of one, the shortest."""
    by_device: dict[int, psutil._ntuples.sdiskpart] = {}
    for part in psutil.disk_partitions(all=False):
        number = os.stat(part.mountpoint).st_dev
        if number not in by_device or len(part.mountpoint) < len(by_device[number].mountpoint):
            by_device[number] = part
    found: Readings = {}
    for part in by_device.values():
        usage, inodes = psutil.disk_usage(part.mountpoint), os.statvfs(part.mountpoint)
        found[part.mountpoint, part.device, part.fstype] = {
            "size": usage.total,
            "free": usage.total - usage.used,
            "available": usage.free,
            "inodes": inodes.f_files,
            "inodes_free": inodes.f_ffree,
        }[name.removeprefix("filesystem.")]
    return found


INTERFACE = {
    "interface.received_packets": "rx_packets",
    "interface.received_bytes": "rx_bytes",
    "interface.receive_errors": "rx_errors",
    "interface.receive_dropped": "rx_dropped",
    "interface.sent_packets": "tx_packets",
    "interface.sent_bytes": "tx_bytes",
    "interface.send_errors": "tx_errors",
    "interface.send_dropped": "tx_dropped",
}


def left_out(base: Path) -> bool:
    """A container's veth without an address: its other end is not here, nothing lies below it, and it has no IP."""
    own, other = ((base / name).read_text() for name in ("ifindex", "iflink"))
    if own == other or list(base.glob("lower_*")):
        return False
    peers = (near for near in base.parent.iterdir() if (near / "ifindex").exists())
    if any(((near / "ifindex").read_text(), (near / "iflink").read_text()) == (other, own) for near in peers):
        return False
    entries = psutil.net_if_addrs().get(base.name, [])
    return not any(
        entry.family in {socket.AF_INET, socket.AF_INET6} and not entry.address.startswith("fe80")
        for entry in entries
    )


@judge("interface.up", *INTERFACE)
def interface(name: str) -> Found:
    found: Readings = {}
    for base in Path("/sys/class/net").iterdir():
        if not (base / "ifindex").exists() or left_out(base):  # the first: a file such as bonding_masters
            continue
        if name == "interface.up":
            value = int((base / "flags").read_text(), 16) & 1
        else:
            value = int((base / "statistics" / INTERFACE[name]).read_text())
        found[base.name, (base / "ifindex").read_text().strip()] = value
    return found


STATES = {
    "ESTABLISHED": "established",
    "SYN_SENT": "syn_sent",
    "SYN_RECV": "syn_received",
    "FIN_WAIT1": "fin_wait_1",
    "FIN_WAIT2": "fin_wait_2",
    "TIME_WAIT": "time_wait",
    "CLOSE": "closed",
    "CLOSE_WAIT": "close_wait",
    "LAST_ACK": "last_ack",
    "LISTEN": "listen",
    "CLOSING": "closing",
}


@judge("tcp.sockets")
def tcp_sockets(_: str) -> Found:
    counted = collections.Counter(STATES[entry.status] for entry in psutil.net_connections("tcp"))
    return {(state,): counted[state] for state in STATES.values()}


@judge("agent.cpu_time")
def agent_cpu_time(_: str) -> Found:
    times = psutil.Process().cpu_times()
    return {("user",): times.user, ("system",): times.system}


@judge("agent.rss")
def agent_rss(_: str) -> Found:
    return only(psutil.Process().memory_info().rss)


@judge("agent.pss")
def agent_pss(_: str) -> Found:
    return only(psutil.Process().memory_full_info().pss)


@judge("agent.threads")
def agent_threads(_: str) -> Found:
    return only(psutil.Process().num_threads())


@judge("agent.descriptors")
def agent_descriptors(_: str) -> Found:
    return only(psutil.Process().num_fds() - 1)  # psutil counts the descriptor it looks with


@witness("process.count", "process.threads")
def forks() -> object:
    """While nothing is made, their number only falls."""
    return matched("/proc/stat", r"^processes (\d+)$")


@witness("process.running", "process.blocked")
def switches() -> object:
    """While no CPU goes from one thread to another, more become ready to run, none less; and none more is blocked."""
    return matched("/proc/stat", r"^ctxt (\d+)$")


@witness("disk.in_flight")
def completions() -> object:
    """While no operation is completed, their number only rises."""
    return [(one.read_count, one.write_count) for one in psutil.disk_io_counters(perdisk=True).values()]


# One unit of what the kernel prints, where that is more than 1 of the metric's own unit.
_UNIT = {"bytes": 1024.0, "seconds": 0.01, "percent": 0.01}


def tolerance(metric: Metric, value: float) -> float:
    """A gauge: 1 % or one unit. A counter: the unit of the judge where that is coarser than ours, else nothing."""
    unit = 0.01 if metric.name == "load.average" else _UNIT.get(metric.unit, 1.0)
    if metric.kind == "gauge":
        return max(unit, abs(value) / 100)
    return unit if metric.name == "agent.cpu_time" else 1e-6


class Bracket:
    """The judge's readings around something that is done in a `with` block."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric
        self._witness = WITNESSES.get(metric.name, lambda: None)
        self._stood: tuple[object, object] = (None, None)
        self.before: Found = {}
        self.after: Found = {}

    def __enter__(self) -> Self:
        self._stood = (self._witness(), None)
        self.before = JUDGES[self._metric.name]()
        return self

    def __exit__(self, *_: object) -> None:
        self.after = JUDGES[self._metric.name]()
        self._stood = (self._stood[0], self._witness())

    @property
    def tells(self) -> bool:
        """Whether what was between the readings is known: a counter only rises; a gauge's witness stood still, or the
        two readings agree. What came or went meanwhile tells nothing."""
        if self.before.keys() != self.after.keys():
            return False
        if self._metric.kind == "counter":
            return all(self.before[labels] <= self.after[labels] for labels in self.before)
        if self._metric.name in WITNESSES:
            return self._stood[0] == self._stood[1]
        return all(
            abs(self.after[labels] - value) <= tolerance(self._metric, value)
            for labels, value in self.before.items()
        )


def within(metric: Metric, before: float, sample: float, after: float) -> bool:
    """The sample lies between the two readings around it, give or take the tolerance."""
    low, high = min(before, after), max(before, after)
    return low - tolerance(metric, low) <= sample <= high + tolerance(metric, high)
