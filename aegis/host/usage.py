"""CPU, processes, load, memory, swap and pressure out of /proc. A reader yields (metric, labels, value).

A reader that cannot read its file raises HostError; a single number that is not there is Absent.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from aegis.errors import HostError
from aegis.host import procfs
from aegis.model.absent import Absent
from aegis.model.sample import Labels

Reading = tuple[str, Labels, int | float | Absent]

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# Columns of a cpu line, in order (proc(5)); the last two are part of user and nice and not repeated here.
MODES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
_LEAST_MODES = 4

_MEMORY = {
    b"MemTotal": "memory.total",
    b"MemAvailable": "memory.available",
    b"MemFree": "memory.free",
    b"Buffers": "memory.buffers",
    b"Cached": "memory.cached",
    b"Shmem": "memory.shared",
    b"Slab": "memory.slab",
    b"Dirty": "memory.dirty",
    b"SwapTotal": "swap.total",
    b"SwapFree": "swap.free",
}
_STAT = {
    b"ctxt": "cpu.context_switches",
    b"processes": "process.forks",
    b"procs_running": "process.running",
    b"procs_blocked": "process.blocked",
}
_SWAP = {b"pswpin": "swap.in", b"pswpout": "swap.out"}


def cpu(proc: str) -> Iterator[Reading]:
    """Times by CPU and mode, and the counts of /proc/stat."""
    where = f"{proc}/stat"
    online = 0
    found: dict[bytes, int] = {}
    for line in procfs.read(where).split(b"\n"):
        if line.startswith(b"cpu"):
            words = procfs.columns(line, 1 + _LEAST_MODES, where)
            name = words[0][3:].decode("ascii", "backslashreplace") or "all"
            online += name != "all"
            for mode, word in zip(MODES, words[1:], strict=False):
                ticks = procfs.number(word, where)
                yield "cpu.time", (("cpu", name), ("mode", mode)), ticks / TICKS_PER_SECOND
            continue
        key, _, rest = line.partition(b" ")
        if key in _STAT:
            found[key] = procfs.number(rest.strip(), where)
    if not online:
        raise HostError(f"{where}: no CPU in it")
    yield "cpu.online", (), online
    for key, metric in _STAT.items():
        yield metric, (), found.get(key, Absent(f"no {key.decode()} in {where}"))


def processes(proc: str) -> Iterator[Reading]:
    """How many processes there are."""
    yield "process.count", (), sum(name.isdecimal() for name in procfs.listing(proc))


def load(proc: str) -> Iterator[Reading]:
    """Load averages, and the number of threads."""
    where = f"{proc}/loadavg"
    words = procfs.columns(procfs.read(where), 4, where)
    for minutes, word in zip(("1", "5", "15"), words, strict=False):
        yield "load.average", (("minutes", minutes),), procfs.decimal(word, where)
    _, _, threads = words[3].partition(b"/")
    yield "process.threads", (), procfs.number(threads, where)


def _pairs(text: bytes, separator: bytes) -> Iterator[tuple[bytes, bytes]]:
    for line in text.split(b"\n"):
        key, found, rest = line.partition(separator)
        if found:
            yield key, rest


def memory(proc: str) -> Iterator[Reading]:
    """Memory and swap space in bytes."""
    where = f"{proc}/meminfo"
    found: dict[bytes, int] = {}
    for key, rest in _pairs(procfs.read(where), b":"):
        if key in _MEMORY:
            amount, _, unit = rest.strip().partition(b" ")
            if unit != b"kB":
                raise HostError(f"{where}: {key.decode()} in {procfs.shown(unit)}, not in kB")
            found[key] = procfs.number(amount, where) * 1024
    if b"MemTotal" not in found:
        raise HostError(f"{where}: no MemTotal in it")
    for key, metric in _MEMORY.items():
        yield metric, (), found.get(key, Absent(f"no {key.decode()} in {where}"))


def swap(proc: str) -> Iterator[Reading]:
    """Bytes that went in and out of swap."""
    where = f"{proc}/vmstat"
    found: dict[bytes, int] = {}
    for key, rest in _pairs(procfs.read(where), b" "):
        if key in _SWAP:
            found[key] = procfs.number(rest, where) * PAGE_BYTES
    for key, metric in _SWAP.items():
        yield metric, (), found.get(key, Absent(f"no {key.decode()} in {where}: a kernel without swap"))


def pressure(proc: str, resource: str) -> Iterator[Reading]:
    """Stall times and shares of one resource. HostError says so where the kernel does not account them."""
    where = f"{proc}/pressure/{resource}"
    try:
        text = procfs.read(where)
    except HostError as error:
        if error.errno in (errno.ENOENT, errno.EOPNOTSUPP):
            raise HostError("the kernel does not account pressure (boot option psi=1)") from error
        raise
    tasks_seen = set()
    for line in text.splitlines():
        tasks, *fields = procfs.columns(line, 5, where)
        label = ("tasks", tasks.decode("ascii", "backslashreplace"))
        values = dict(field.partition(b"=")[::2] for field in fields)
        for window in ("10", "60", "300"):
            share = procfs.decimal(values.get(b"avg" + window.encode(), b""), where)
            yield f"pressure.{resource}.share", (label, ("window_s", window)), share
        stalled = procfs.number(values.get(b"total", b""), where) / 1_000_000
        yield f"pressure.{resource}.stalled", (label,), stalled
        tasks_seen.add(tasks)
    if b"some" not in tasks_seen:
        raise HostError(f"{where}: no line `some` in it")


def memory_total(proc: str = "/proc") -> int:
    """Bytes of memory the kernel can use, for sizing tables. HostError where it cannot be read."""
    where = f"{proc}/meminfo"
    for line in procfs.read(where).split(b"\n"):
        if line.startswith(b"MemTotal:"):
            return procfs.number(procfs.columns(line, 3, where)[1], where) * 1024
    raise HostError(f"{where}: no MemTotal in it")


def tcp_sockets(proc: str) -> int:
    """TCP sockets that exist, those in TIME_WAIT included, without listing them."""
    where = f"{proc}/net/sockstat"
    for line in procfs.read(where).split(b"\n"):
        if line.startswith(b"TCP:"):
            words = procfs.columns(line, 9, where)
            counts = dict(zip(words[1::2], words[2::2], strict=False))
            return sum(procfs.number(counts.get(name, b""), where) for name in (b"alloc", b"tw"))
    raise HostError(f"{where}: no TCP in it")
