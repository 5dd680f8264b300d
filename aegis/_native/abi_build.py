"""Builds `aegis._native._abi`: the shared structs and enums as the C compiler lays them out.

A module of its own, so that names and layouts are there on a machine without libbpf. The text comes from the
headers themselves (bpf/include/aegis), read by the compiler's preprocessor.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

from cffi import FFI

INCLUDE = Path(__file__).resolve().parents[2] / "bpf" / "include"


def shared_declarations() -> str:
    """The shared headers as one text cffi can parse."""
    compiler = shlex.split(os.environ.get("CC", "cc"))
    command = [*compiler, "-E", "-P", "-DAEGIS_CDEF", f"-I{INCLUDE}", str(INCLUDE / "aegis" / "abi.h")]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603 - the compiler


ffibuilder = FFI()
ffibuilder.cdef(shared_declarations())
ffibuilder.set_source("aegis._native._abi", '#include "aegis/abi.h"\n', include_dirs=[str(INCLUDE)])
