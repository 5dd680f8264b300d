from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path

import msgspec
import pytest

from aegis.errors import AbiMismatch, FeatureUnsupported, LoadRejected
from aegis.kernel import object as bpf_object
from aegis.kernel.constants import Constants
from aegis.kernel.maps import Map
from aegis.kernel.object import OBJECTS, BpfObject, read_object
from aegis.kernel.type_information import VMLINUX

pytestmark = pytest.mark.require("root", "bpf")

CONSTANTS = Constants(agent_tgid=101, cgroup_hierarchy_v2=3, ring_bytes=1009, ring_reserved_bytes=211)


def test_constants_reach_the_programs() -> None:
    with BpfObject.open("probe_loader", constants=CONSTANTS, autoload={"probe_constants"}) as opened:
        opened.load()
        result = opened.program("probe_constants").run(ctx=bytes(8))
    assert result.retval == 7
    assert struct.unpack("Q", result.ctx_out) == (101 + 3 + 1009 + 211,)


def test_without_constants_they_are_zero() -> None:
    with BpfObject.open("probe_loader", autoload={"probe_constants"}) as opened:
        opened.load()
        assert opened.program("probe_constants").run(ctx=bytes(8)).ctx_out == bytes(8)


def test_only_the_named_programs_are_loaded() -> None:
    with BpfObject.open("probe_loader", autoload={"probe_tc_count", "probe_tc_drop"}) as opened:
        opened.load()
        assert {program.name for program in opened.programs()} == {"probe_tc_count", "probe_tc_drop"}
        assert "probe_constants" in opened.program_names()
        with pytest.raises(FeatureUnsupported, match="probe_constants"):
            opened.program("probe_constants")


def test_an_unknown_program_is_refused_before_loading() -> None:
    with pytest.raises(FeatureUnsupported, match="probe_of_nothing"):
        BpfObject.open("probe_loader", autoload={"probe_tc_drop", "probe_of_nothing"})


def test_maps_take_the_size_they_are_given() -> None:
    sizes = {"probe_table": 997, "probe_ring": 1 << 16}
    with BpfObject.open("probe_loader", map_sizes=sizes, autoload=()) as opened:
        opened.load()
        assert opened.map("probe_table").max_entries == 997
        assert opened.map("probe_ring").max_entries == 1 << 16


def test_an_unknown_map_is_refused() -> None:
    with pytest.raises(FeatureUnsupported, match="no_such_map"):
        BpfObject.open("probe_loader", map_sizes={"no_such_map": 1})


def test_a_program_runs_and_leaves_the_packet() -> None:
    packet = bytes(range(97))
    with BpfObject.open("probe_loader", autoload={"probe_tc_count"}) as opened:
        opened.load()
        result = opened.program("probe_tc_count").run(packet, repeat=1009)
        assert result.retval == 0xFFFFFFFF  # TC_ACT_UNSPEC
        assert result.data_out == packet
        assert opened.map("probe_counts").sum_u64(struct.pack("I", 0)) == (1009,)
        assert opened.map("probe_counts").sum_u64(struct.pack("I", 1)) == (1009 * 97,)


def test_a_refused_program_brings_the_verifiers_words() -> None:
    with BpfObject.open("probe_refused") as opened, pytest.raises(LoadRejected) as raised:
        opened.load()
    assert raised.value.subject == "probe_refused: refused_null"
    assert "invalid mem access 'map_value_or_null'" in str(raised.value)
    assert "processed" in raised.value.log
    assert "r0 = *(u64 *)(r0 +0)" in raised.value.log
    assert "\n" not in str(raised.value)


def test_another_refusal_does_not_inherit_the_words() -> None:
    """The log belongs to one attempt."""
    with BpfObject.open("probe_refused") as opened, pytest.raises(LoadRejected):
        opened.load()
    with pytest.raises(LoadRejected) as raised:
        BpfObject.open("garbage", data=b"not an object at all" * 100)
    assert "map_value_or_null" not in str(raised.value)


def test_two_objects_share_a_table() -> None:
    with BpfObject.open("probe_loader", autoload={"probe_tc_count"}) as first:
        first.load()
        reuse = {"probe_counts": first.map("probe_counts"), "of_another_object": first.map("probe_words")}
        with BpfObject.open("probe_loader", autoload={"probe_tc_count"}, reuse=reuse) as second:
            second.load()
            assert second.map("probe_counts").id == first.map("probe_counts").id
            assert second.map("probe_table").id != first.map("probe_table").id
            for each in (first, second):
                each.program("probe_tc_count").run(bytes(61), repeat=7)
        assert first.map("probe_counts").sum_u64(bytes(4)) == (14,)


def test_a_shared_table_keeps_its_own_size() -> None:
    table = Map.create("HASH", "elsewhere", key_size=8, value_size=8, max_entries=31)
    try:
        with BpfObject.open("probe_loader", autoload=(), reuse={"probe_table": table}) as opened:
            opened.load()
            assert opened.map("probe_table").max_entries == 31
    finally:
        table.close()


@pytest.mark.parametrize(
    ("kind", "key_size", "value_size", "flags", "named"),
    [
        ("HASH", 4, 8, 0, "key_size 4 instead of 8"),
        ("HASH", 8, 16, 0, "value_size 16 instead of 8"),
        ("HASH", 8, 8, 1, "flags 1 instead of 0"),
        ("PERCPU_HASH", 8, 8, 0, "type 5 instead of 1"),
    ],
)
def test_a_table_of_another_layout_is_refused(
    kind: str, key_size: int, value_size: int, flags: int, named: str
) -> None:
    table = Map.create(kind, "other", key_size=key_size, value_size=value_size, max_entries=7, flags=flags)
    try:
        with pytest.raises(AbiMismatch, match=named):
            BpfObject.open("probe_loader", reuse={"probe_table": table})
    finally:
        table.close()


def test_an_object_that_differs_from_the_build_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bytearray((OBJECTS / "probe_loader.bpf.o").read_bytes())
    hashes = {"probe_loader.bpf.o": hashlib.sha256(data).hexdigest()}
    (tmp_path / "objects.json").write_bytes(msgspec.json.encode(hashes))
    (tmp_path / "probe_loader.bpf.o").write_bytes(data)
    monkeypatch.setattr(bpf_object, "OBJECTS", tmp_path)
    bpf_object.manifest.cache_clear()
    try:
        assert read_object("probe_loader") == bytes(data)
        data[len(data) // 2] ^= 1
        (tmp_path / "probe_loader.bpf.o").write_bytes(data)
        with pytest.raises(AbiMismatch, match="differs"):
            read_object("probe_loader")
        with pytest.raises(FeatureUnsupported, match="not among"):
            read_object("unheard_of")
    finally:
        bpf_object.manifest.cache_clear()


@pytest.mark.require("btf")
def test_type_information_from_a_file(tmp_path: Path) -> None:
    """`--btf FILE`: relocations come from the file alone, so a copy works and an empty file is an error."""
    copy = tmp_path / "vmlinux"
    copy.write_bytes(Path(VMLINUX).read_bytes())
    with BpfObject.open("probe_loader", autoload={"probe_iter_table"}, btf=copy) as opened:
        opened.load()
    empty = tmp_path / "empty"
    empty.touch()
    with (
        BpfObject.open("probe_loader", autoload={"probe_iter_table"}, btf=empty) as opened,
        pytest.raises(LoadRejected),
    ):
        opened.load()


def test_close_is_final_and_harmless_twice() -> None:
    opened = BpfObject.open("probe_loader", autoload=())
    opened.load()
    fd = opened.map("probe_words").fd
    opened.close()
    opened.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
