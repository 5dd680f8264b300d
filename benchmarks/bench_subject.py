"""What classification adds to exec, control group and socket, and a decision to connect: the kernel's own run times.

The programs run as they are installed, under a policy with selectors of every kind, none of which the measured ones
match but that of a denied unit. The kernel's figure holds its own two readings of the clock, some tens of nanoseconds.
A reading is the mean of one round; the value is the median of the readings.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from aegis.kernel.library import checked, open_library
from benchmarks.rows import Row, median
from tests.support import testers
from tests.support.subjects import Judged, Restarts, compiled_programs, deny, judged
from tests.support.world import open_world

PROGRAMS = {
    "subject_exec": "tp_subject_exec",
    "subject_cgroup": "tp_subject_mkdir",
    "subject_socket": "cgroup_sock_create_owner",
    "subject_connect": "cgroup_connect4_subject",
    "subject_sendmsg": "cgroup_sendmsg4_subject",
}
RUNS = 300
ROUNDS = 21


def run() -> list[Row]:
    readings: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    with (
        open_world() as world,
        judged(world) as host,
        testers.tcp_server(world.b, world.b.v4) as port,
        compiled_programs() as programs,
        _statistics(),
    ):
        units = world.make_cgroup("system.slice"), world.make_cgroup("system.slice/denied.service")
        host.apply(
            deny(unit="denied.service"),
            *(deny(unit=f"a{number}*b.service") for number in range(8)),
            deny(exe="/usr/bin/curl"),
            deny(exe="/opt/*/bin/tool"),
            deny(user="4242"),
        )
        restarts = Restarts(world, *programs, port)
        for number in range(ROUNDS):
            before = _times(host)
            restarts("plain", RUNS, units[0])
            _cgroups(units[0])
            world.a.run(_connects, world.b.v4, cgroup=units[number % 2])
            for name, (ns, count) in _times(host).items():
                assert count - before[name][1] >= RUNS, f"{name} ran {count - before[name][1]} times"
                readings[name].append((ns - before[name][0]) / (count - before[name][1]))
    return [
        Row(name=name, value=median(found), unit="ns", samples=found, note=f"{PROGRAMS[name]}, 12 selectors")
        for name, found in readings.items()
    ]


@contextlib.contextmanager
def _statistics() -> Iterator[None]:
    """The kernel measures programs until the block ends."""
    _, lib = open_library()
    fd = checked(lib.bpf_enable_stats(0), "measure", "programs")
    try:
        yield
    finally:
        os.close(fd)


def _times(host: Judged) -> dict[str, tuple[int, int]]:
    found = {name: host.path.object.program(program).info() for name, program in PROGRAMS.items()}
    return {name: (info.run_time_ns, info.run_count) for name, info in found.items()}


def _cgroups(place: Path) -> None:
    for _ in range(RUNS):
        (place / "other.service").mkdir()
        (place / "other.service").rmdir()


def _connects(address: str) -> None:
    for _ in range(RUNS):
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as each,
            contextlib.suppress(PermissionError),
        ):
            each.connect((address, 9))
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as each,
            contextlib.suppress(PermissionError),
        ):
            each.sendto(b"?", (address, 9))
