"""CPU, load, memory, swap and pressure from a known tree, and from trees with one file spoilt."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from aegis.errors import HostError
from aegis.host import usage
from aegis.host.usage import PAGE_BYTES, TICKS_PER_SECOND, Reading
from aegis.model.absent import Absent
from tests.support import hosttree


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    return hosttree.make(tmp_path) / "proc"


def known(readings: Iterable[Reading]) -> dict[tuple[str, ...], object]:
    """Readings by metric and label values."""
    return {(name, *(value for _, value in labels)): value for name, labels, value in readings}


def spoil(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_cpu(proc: Path) -> None:
    found = known(usage.cpu(str(proc)))
    assert found["cpu.time", "all", "user"] == 300 / TICKS_PER_SECOND
    assert found["cpu.time", "1", "steal"] == 2 / TICKS_PER_SECOND
    assert found["cpu.online",] == 2
    assert found["cpu.context_switches",] == 12345
    assert (found["process.forks",], found["process.running",], found["process.blocked",]) == (777, 3, 1)
    assert len(found) == 3 * 8 + 5


def test_an_old_kernel_has_fewer_columns_and_lines(proc: Path) -> None:
    (proc / "stat").write_text("cpu 1 2 3 4\ncpu0 1 2 3 4\nprocesses 5\n")
    found = known(usage.cpu(str(proc)))
    assert ("cpu.time", "0", "idle") in found
    assert ("cpu.time", "0", "iowait") not in found
    assert isinstance(found["process.running",], Absent)


def test_load_and_threads(proc: Path) -> None:
    assert known(usage.load(str(proc))) == {
        ("load.average", "1"): 0.31,
        ("load.average", "5"): 1.5,
        ("load.average", "15"): 2.0,
        ("process.threads",): 113,
    }


def test_memory_and_swap(proc: Path) -> None:
    found = known(usage.memory(str(proc)))
    assert found["memory.total",] == 1_000_000 * 1024
    assert found["memory.dirty",] == 64 * 1024
    assert found["swap.free",] == 499_000 * 1024
    assert known(usage.swap(str(proc))) == {("swap.in",): 11 * PAGE_BYTES, ("swap.out",): 23 * PAGE_BYTES}
    spoil(proc / "meminfo", "MemAvailable", "Something")
    assert isinstance(known(usage.memory(str(proc)))["memory.available",], Absent)
    (proc / "vmstat").write_text("nr_free_pages 3\n")
    assert all(isinstance(value, Absent) for value in known(usage.swap(str(proc))).values())


def test_pressure(proc: Path) -> None:
    found = known(usage.pressure(str(proc), "cpu"))
    assert found["pressure.cpu.share", "some", "10"] == 0.5
    assert found["pressure.cpu.stalled", "some"] == 1.5
    assert found["pressure.cpu.stalled", "full"] == 0
    assert ("pressure.memory.stalled", "full") not in known(usage.pressure(str(proc), "memory"))


def test_a_kernel_without_pressure_is_named(proc: Path) -> None:
    (proc / "pressure/io").unlink()
    with pytest.raises(HostError, match="does not account pressure"):
        list(usage.pressure(str(proc), "io"))


def test_sizes_for_tables(proc: Path) -> None:
    assert usage.memory_total(str(proc)) == 1_000_000 * 1024
    assert usage.tcp_sockets(str(proc)) == 3


READERS: list[tuple[Callable[[str], Iterable[Reading]], str]] = [
    (usage.cpu, "stat"),
    (usage.load, "loadavg"),
    (usage.memory, "meminfo"),
    (lambda proc: usage.pressure(proc, "cpu"), "pressure/cpu"),
]


@pytest.mark.parametrize(("reader", "name"), READERS)
@pytest.mark.parametrize(
    "text", [b"", b"\0" * 97, b"garbage\n", b"cpu0 -1 -2 -3 -4\n", b"\xff\xfe" * 31, b"cpu0 1\n"]
)
def test_a_spoilt_file_is_an_error_that_names_it(
    proc: Path, reader: Callable[[str], Iterable[Reading]], name: str, text: bytes
) -> None:
    (proc / name).write_bytes(text)
    with pytest.raises(HostError, match=name):
        list(reader(str(proc)))


@pytest.mark.parametrize(
    ("name", "old", "new", "reader"),
    [
        ("stat", "4000", "4000000000000000000000000", usage.cpu),
        ("stat", "ctxt 12345", "ctxt x", usage.cpu),
        ("loadavg", "1.50", "1,50", usage.load),
        ("loadavg", "2/113", "2", usage.load),
        ("meminfo", "400000 kB", "400000 MB", usage.memory),
        ("meminfo", "1000000 kB", "1e9 kB", usage.memory),
        ("pressure/cpu", "total=1500000", "total=", READERS[3][0]),
        ("pressure/cpu", "avg60=0.40", "avg60=nan", READERS[3][0]),
        ("vmstat", "pswpin 11", "pswpin x", usage.swap),
    ],
)
def test_one_spoilt_number(
    proc: Path, name: str, old: str, new: str, reader: Callable[[str], Iterable[Reading]]
) -> None:
    spoil(proc / name, old, new)
    with pytest.raises(HostError, match=name):
        list(reader(str(proc)))
