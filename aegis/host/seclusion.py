"""Keeping others out of the memory of a process that holds keys."""

from __future__ import annotations

import os

from aegis._native._system import ffi, lib

PR_SET_DUMPABLE = 4  # <linux/prctl.h>


def seclude() -> str | None:
    """Leave no core dump, and let nobody but a tracer with CAP_SYS_PTRACE in. Why not, or None when it is done.

    An execute undoes it, so it is done at each start, before any key is read.
    """
    if lib.prctl(PR_SET_DUMPABLE, ffi.cast("unsigned long", 0)):
        return os.strerror(ffi.errno)
    return None
