"""Our programs with a balance in them: `python -m tests.support.weighed SOCKET MODULE ARGUMENT...`.

Whoever connects to SOCKET is told what the program's memory holds: bytes in blocks that somebody asked for and has not
given back. Pages say more and less than that: an allocator keeps pages for a single block, and touches others of its free
ones from one time to the next. Before it is weighed, garbage is collected and free memory given back.
"""

from __future__ import annotations

import ctypes
import gc
import os
import re
import socket
import sys
import threading
from pathlib import Path

_IN_BLOCKS = re.compile(rb"^# bytes in allocated blocks\s+=\s+([\d,]+)$", re.MULTILINE)
_FIELDS = [
    "arena",
    "ordblks",
    "smblks",
    "hblks",
    "hblkhd",
    "usmblks",
    "fsmblks",
    "uordblks",
    "fordblks",
    "keepcost",
]


class _Info(ctypes.Structure):
    """struct mallinfo2."""

    _fields_ = [(name, ctypes.c_size_t) for name in _FIELDS]


def weighed(path: Path, command: list[str]) -> list[str]:
    """The command `PYTHON -m MODULE ...` with a balance that answers at `path`.

    Without the free blocks that malloc keeps for each thread: it counts them as in use.
    """
    return [
        "env",
        "GLIBC_TUNABLES=glibc.malloc.tcache_count=0",
        command[0],
        "-m",
        "tests.support.weighed",
        str(path),
        *command[2:],
    ]


def weight(path: Path) -> int:
    """Bytes that the program holds, now."""
    with socket.socket(socket.AF_UNIX) as balance:
        balance.settimeout(20)
        balance.connect(str(path))
        return sum(map(int, balance.makefile().read().split()))


def own_weight() -> tuple[int, int]:
    """Of this process: what is in use of malloc's heaps and mappings, and of Python's pools."""
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = _Info
    gc.collect()
    libc.malloc_trim(0)
    info = libc.mallinfo2()
    return int(info.uordblks + info.hblkhd), _in_pools(libc)


def _in_pools(libc: ctypes.CDLL) -> int:
    """As Python's own statistics have it, which are printed to a FILE."""
    libc.fdopen.restype = ctypes.c_void_p
    number = os.memfd_create("statistics")
    with os.fdopen(os.dup(number), "rb") as said:
        file = ctypes.c_void_p(libc.fdopen(number, b"w"))
        ctypes.pythonapi._PyObject_DebugMallocStats(file)
        libc.fclose(file)
        said.seek(0)
        found = _IN_BLOCKS.search(said.read())
    assert found is not None, "Python has no pools: is PYTHONMALLOC set?"
    return int(found[1].replace(b",", b""))


def _answer(listener: socket.socket) -> None:
    while True:
        asked, _ = listener.accept()
        with asked:
            asked.sendall("{} {}".format(*own_weight()).encode())


def main() -> None:
    import runpy

    _, path, module, *arguments = sys.argv
    Path(path).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    threading.Thread(target=_answer, args=(listener,), name="balance", daemon=True).start()
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
