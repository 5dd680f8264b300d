"""The system calls Python does not offer, against what /proc and Python's own calls say."""

from __future__ import annotations

import errno
import re
from pathlib import Path

from aegis._native._system import ffi, lib


def test_capabilities_are_those_of_proc() -> None:
    sets = ffi.new("unsigned long long[3]")
    assert lib.aegis_capget(sets) == 0
    status = Path("/proc/thread-self/status").read_text()
    found = dict(re.findall(r"^(Cap\w+):\s+([0-9a-f]+)$", status, flags=re.MULTILINE))
    assert [int(found[name], 16) for name in ("CapEff", "CapPrm", "CapInh")] == list(sets)


def test_setting_what_is_held_changes_nothing() -> None:
    sets, again = ffi.new("unsigned long long[3]"), ffi.new("unsigned long long[3]")
    lib.aegis_capget(sets)
    assert lib.aegis_capset(sets) == 0
    lib.aegis_capget(again)
    assert list(again) == list(sets)


def test_file_systems() -> None:
    assert lib.aegis_filesystem(b"/proc") == 0x9FA0
    assert lib.aegis_filesystem(b"/nowhere/at/all") == -1
    assert ffi.errno == errno.ENOENT


def test_membarrier() -> None:
    known = lib.aegis_membarrier(lib.MEMBARRIER_CMD_QUERY, 0)
    assert known & lib.MEMBARRIER_CMD_GLOBAL
    assert lib.aegis_membarrier(lib.MEMBARRIER_CMD_GLOBAL, 0) == 0


def test_words_are_stored_and_loaded_whole() -> None:
    memory = bytearray(24)
    address = ffi.from_buffer(memory)
    lib.aegis_store64(address + 8, 0x0123456789ABCDEF)
    assert lib.aegis_load64(address + 8) == 0x0123456789ABCDEF
    lib.aegis_store32(address + 20, 0xFEDCBA98)
    assert lib.aegis_load32(address + 20) == 0xFEDCBA98
    assert memory == bytes(8) + (0x0123456789ABCDEF).to_bytes(8, "little") + bytes(4) + bytes.fromhex(
        "98badcfe"
    )


def test_a_bad_descriptor_is_an_errno() -> None:
    assert lib.setns(-1, 0) == -1
    assert ffi.errno == errno.EBADF


def test_prctl_names_the_thread() -> None:
    before = Path("/proc/thread-self/comm").read_bytes().strip()
    try:
        assert lib.prctl(lib.PR_SET_NAME, ffi.from_buffer(b"aegis-test\0")) == 0
        assert Path("/proc/thread-self/comm").read_text() == "aegis-test\n"
    finally:
        lib.prctl(lib.PR_SET_NAME, ffi.from_buffer(before + b"\0"))
