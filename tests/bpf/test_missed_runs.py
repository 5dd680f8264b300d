"""What the kernel says of runs it left out: a program whose own doing sets it off again, and real programs."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from aegis.kernel.library import checked, open_library
from aegis.kernel.links import Link
from aegis.kernel.object import program_info

pytestmark = pytest.mark.require("root", "bpf")

TRACE_PRINTK = 6  # enum bpf_func_id


def instruction(code: int, target: int = 0, source: int = 0, offset: int = 0, immediate: int = 0) -> int:
    """One struct bpf_insn as a word."""
    return code | target << 8 | source << 12 | (offset & 0xFFFF) << 16 | (immediate & 0xFFFFFFFF) << 32


PRINTS = (  # bpf_trace_printk("x", 2); return 0
    instruction(0xB7, 1, immediate=ord("x")),
    instruction(0x7B, 10, 1, -8),
    instruction(0xBF, 1, 10),
    instruction(0x07, 1, immediate=-8),
    instruction(0xB7, 2, immediate=2),
    instruction(0x85, immediate=TRACE_PRINTK),
    instruction(0xB7, 0),
    instruction(0x95),
)


def loaded(kind: int) -> int:
    ffi, lib = open_library()
    code = ffi.new("unsigned long long[]", PRINTS)
    fd = lib.aegis_prog_load(kind, 0, b"aegis_prints", code, len(PRINTS), 0, ffi.NULL, 0)
    return checked(fd, "load", "aegis_prints")


@pytest.fixture
def prints() -> Iterator[tuple[int, int]]:
    """A packet program, and one at the tracepoint of what both do."""
    _, lib = open_library()
    sets_off, again = loaded(lib.BPF_PROG_TYPE_SCHED_CLS), loaded(lib.BPF_PROG_TYPE_RAW_TRACEPOINT)
    link = Link(
        checked(lib.bpf_raw_tracepoint_open(b"bpf_trace_printk", again), "attach", "aegis_prints"), "prints"
    )
    yield sets_off, again
    link.close()
    os.close(sets_off)
    os.close(again)


def test_a_run_the_kernel_left_out_is_counted(prints: tuple[int, int]) -> None:
    ffi, lib = open_library()
    sets_off, again = prints
    assert program_info(again).recursion_misses == 0
    options = ffi.new("struct bpf_test_run_opts *")
    options.sz = ffi.sizeof("struct bpf_test_run_opts")
    packet = bytes(64)
    options.data_in, options.data_size_in, options.repeat = ffi.from_buffer(packet), len(packet), 13
    checked(lib.bpf_prog_test_run_opts(sets_off, options), "run", "aegis_prints")
    assert program_info(again).recursion_misses == 13
    assert program_info(sets_off).recursion_misses == 0
