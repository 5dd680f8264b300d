from __future__ import annotations

import struct

from aegis.kernel.filters import _attributes, _filter


def attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def test_a_filter_with_its_program() -> None:
    options = attribute(7, b"tc_egress_flow:[31]\0") + attribute(11, struct.pack("=I", 31))
    found = _filter(0xAE915, 1, attribute(1, b"bpf\0") + attribute(2 | 0x8000, options))
    assert (found.handle, found.priority, found.program_id) == (0xAE915, 1, 31)
    assert found.name == "tc_egress_flow:[31]"


def test_a_filter_that_is_no_program() -> None:
    found = _filter(1, 7, attribute(1, b"u32\0"))
    assert (found.program_id, found.name) == (0, "")


def test_broken_attributes_end_the_walk() -> None:
    good = attribute(1, b"bpf\0")
    assert dict(_attributes(good + b"\x02\0\x05\0")) == {1: b"bpf\0"}
    assert dict(_attributes(good + b"\x08")) == {1: b"bpf\0"}
    assert dict(_attributes(b"")) == {}
