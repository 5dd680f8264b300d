"""Planted bugs: the core object compiled from sources with one change, put in the place of the real one."""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from aegis.kernel import object as objects

ROOT = Path(__file__).resolve().parents[2]
_ARCH = {"x86_64": "x86", "aarch64": "arm64"}


@dataclass(frozen=True)
class Mutant:
    """`old` stands once in `file` (below bpf/) and becomes `new`."""

    file: str
    old: str
    new: str


def compiled(mutant: Mutant, directory: Path) -> bytes:
    """The core object with the bug."""
    sources = directory / "bpf"
    shutil.copytree(ROOT / "bpf", sources)
    path = sources / mutant.file
    text = path.read_text()
    assert text.count(mutant.old) == 1, f"{mutant.file}: {mutant.old!r}"
    path.write_text(text.replace(mutant.old, mutant.new))
    built = directory / "core.bpf.o"
    machine = platform.machine()
    command = [
        shutil.which("clang-19") or "clang",
        *("-target", "bpf", "-mcpu=v3", "-g", "-O2", f"-D__TARGET_ARCH_{_ARCH[machine]}"),
        *(f"-I{sources}/include", "-idirafter", f"/usr/include/{machine}-linux-gnu"),
        *("-c", str(sources / "src/core.bpf.c"), "-o", str(built)),
    ]
    subprocess.run(command, check=True, capture_output=True)
    return built.read_bytes()


def plant(mutant: Mutant, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the core object is the one with the bug."""
    real, data = objects.read_object, compiled(mutant, directory)
    assert hashlib.sha256(data).digest() != hashlib.sha256(real("core")).digest()
    monkeypatch.setattr(objects, "read_object", lambda name: data if name == "core" else real(name))
