"""C loops to be measured against: compiled when a benchmark starts, loaded into its process."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Any

from cffi import FFI

HERE = Path(__file__).resolve().parent


def load(name: str, declarations: str, *libraries: str) -> tuple[FFI, Any]:
    """Compile benchmarks/native/NAME.c with -O2 and load it; cffi's handle and the library."""
    ffi = FFI()
    ffi.cdef(declarations)
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory) / f"{name}.so"
        subprocess.run(
            [
                *("gcc", "-std=gnu11", "-O2", "-Wall", "-Werror", "-shared", "-fPIC"),
                f"-I{HERE.parent / 'bpf/include'}",
                *("-o", str(output), str(HERE / "native" / f"{name}.c")),
                *(f"-l{library}" for library in libraries),
            ],
            check=True,
        )
        return ffi, ffi.dlopen(str(output))
