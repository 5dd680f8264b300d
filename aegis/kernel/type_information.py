"""Type information of the kernel (BTF), which programs are fitted to it by: its own, or that of a file."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from aegis.errors import FeatureUnsupported
from aegis.kernel.library import messages, open_library

VMLINUX: Final = "/sys/kernel/btf/vmlinux"
HINT: Final = "a kernel with CONFIG_DEBUG_INFO_BTF=y, or --btf FILE (kernel.btf) with the BTF of this kernel"
FILE_HINT: Final = (
    "name a file with the BTF of this kernel by --btf (kernel.btf), or none where the kernel has its own"
)
_MAGIC: Final = 0xEB9F
_ELF: Final = b"\x7fELF"  # a kernel image may hold it in a section


def own_problem() -> str | None:
    """Why the kernel's own cannot be used, beginning with its place; None where it can."""
    return _at_first_sight(VMLINUX)


def problem(path: str | Path) -> str | None:
    """Why a file is no type information, beginning with its path; None where libbpf can read it (some 10 ms)."""
    where = os.fspath(path)
    found = _at_first_sight(where)
    if found is not None:
        return found
    try:
        ffi, lib = open_library()
    except FeatureUnsupported:
        return None  # nothing can be loaded at all, which is told as what it is
    messages.kept.clear()
    parsed = lib.btf__parse(os.fsencode(where), ffi.NULL)
    if parsed:
        lib.btf__free(parsed)
        return None
    number = int(ffi.errno)
    lines = messages.take().strip().splitlines()
    said = lines[-1].removeprefix("libbpf: ") if lines else os.strerror(number)
    return f"{where}: not type information (BTF): {said}"


def lacking(path: Path | None) -> str | None:
    """What is missing to fit programs: every problem where neither the file nor the kernel's own can be used."""
    own = own_problem()
    if path is None or own is None:
        return own
    given = problem(path)
    return None if given is None else f"{given}; {own}"


def _without_waiting(path: str, flags: int) -> int:
    """A pipe that nobody writes to is opened at once."""
    return os.open(path, flags | os.O_NONBLOCK)


def _at_first_sight(where: str) -> str | None:
    try:
        with open(where, "rb", opener=_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return f"{where}: not type information (BTF): no regular file"
            head = file.read(4)
    except OSError as error:
        return f"{where}: {error.strerror}"
    except ValueError as error:  # NUL in the path
        return f"{where!r}: {error}"
    if not head:
        return f"{where}: not type information (BTF): empty"
    if int.from_bytes(head[:2], "little") != _MAGIC and head != _ELF:
        return f"{where}: not type information (BTF)"
    return None
