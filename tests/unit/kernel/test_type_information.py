"""What is no type information is told by its path; nothing waits for it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aegis.kernel import type_information
from aegis.kernel.type_information import lacking, own_problem, problem

VMLINUX = Path("/sys/kernel/btf/vmlinux")


def test_what_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "random").write_bytes(b"\x17" * 5000)
    (tmp_path / "cut").write_bytes(b"\x9f\xeb\x01\x00")
    os.mkfifo(tmp_path / "fifo")
    none = "not type information (BTF)"
    for name, said in {
        "absent": "No such file or directory",
        ".": "Is a directory",
        "empty": f"{none}: empty",
        "random": none,
        "fifo": f"{none}: no regular file",
        "a\0b": "embedded null byte",
    }.items():
        assert (problem(str(tmp_path / name)) or "").endswith(f": {said}"), name
    assert (problem(tmp_path / "cut") or "").startswith(f"{tmp_path}/cut: {none}: ")
    image = problem("/proc/self/exe") or ""
    assert image.startswith(f"/proc/self/exe: {none}: ")
    assert "BTF" in image.removeprefix(f"/proc/self/exe: {none}")


@pytest.mark.require("btf")
def test_a_copy_of_the_kernels_own_is(tmp_path: Path) -> None:
    content = VMLINUX.read_bytes()
    (tmp_path / "good").write_bytes(content)
    assert problem(tmp_path / "good") is None
    (tmp_path / "half").write_bytes(content[: len(content) // 2])
    assert (problem(tmp_path / "half") or "").startswith(f"{tmp_path}/half: not type information (BTF)")


def test_one_of_two_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "own"
    monkeypatch.setattr(type_information, "VMLINUX", str(own))
    told = f"{own}: No such file or directory"
    assert own_problem() == told
    assert lacking(None) == told
    assert lacking(tmp_path / "given") == f"{tmp_path}/given: No such file or directory; {told}"
    own.write_bytes(b"\x9f\xeb\x01\x00")
    assert own_problem() is None
    assert lacking(tmp_path / "given") is None
