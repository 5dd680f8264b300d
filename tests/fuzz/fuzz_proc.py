"""Any bytes as a file of /proc: numbers, or HostError and nothing else. The first byte chooses the file."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

PARSERS = (
    "aegis/host/usage.py",
    "aegis/host/disks.py:disks",
    "aegis/host/disks.py:mounts",
    "aegis/host/cgroups.py:mounts",
    "aegis/host/cgroups.py:path_of",
    "aegis/host/cgroups.py:unit_of",
    "aegis/host/processes.py:parse_stat",
    "aegis/host/processes.py:parse_identity",
    "aegis/host/procfs.py:number",
    "aegis/host/procfs.py:decimal",
    "aegis/host/procfs.py:shown",
    "aegis/host/procfs.py:columns",
    "aegis/host/procfs.py:path",
    "aegis/host/procfs.py:unescape",
)


def readers(data: bytes) -> dict[str, Callable[[], object]]:
    """Each reader of one file, by the letter that chooses it."""
    from aegis.host import cgroups, disks, processes, usage

    return {
        "c": lambda: list(usage.cpu("P")),
        "l": lambda: list(usage.load("P")),
        "m": lambda: list(usage.memory("P")),
        "M": lambda: usage.memory_total("P"),
        "s": lambda: list(usage.swap("P")),
        "p": lambda: list(usage.pressure("P", "io")),
        "t": lambda: usage.tcp_sockets("P"),
        "n": lambda: list(usage.processes("P")),
        "d": lambda: list(disks.disks("P", "S")),
        "f": lambda: list(disks.mounts("P")),
        "g": lambda: list(cgroups.mounts("P/self/mountinfo")),
        "u": lambda: cgroups.unit_of(cgroups.path_of(data, "cgroup")),
        "S": lambda: processes.parse_stat(data),
        "I": lambda: processes.parse_identity(data),
    }


def one(data: bytes) -> None:
    from aegis.errors import HostError
    from aegis.host import procfs
    from aegis.model.absent import Absent

    chosen, data = data[:1].decode("latin-1"), data[1:]

    def read(path: str, limit: int = 0) -> bytes:
        if data.startswith(b"\0"):  # a kernel that has no such file, or does not answer
            raise HostError(path, errno=data[1] if len(data) > 1 else 0)
        return data

    names = data.decode("utf-8", "surrogateescape").split("\n")
    with (
        mock.patch.object(procfs, "read", read),
        mock.patch.object(procfs, "listing", return_value=["vda", "cciss!c0d0", *names]),
    ):
        reader = readers(data).get(chosen)
        try:
            found = reader() if reader is not None else None
        except HostError as error:
            assert "\n" not in str(error)  # noqa: PT017  nothing else may be raised
            return
    for reading in found if isinstance(found, list) and chosen not in "fg" else ():
        assert isinstance(reading[2], Absent) or 0 <= reading[2] < float("inf"), reading


if __name__ == "__main__":
    from tests.fuzz.entry import main

    main("proc")
