"""Features are found by trying: with everything, with nothing, and with one thing taken away."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from aegis.kernel.features import TABLE, Feature, probe_all
from aegis.kernel.object import read_object
from tests.support.world import World, cgroup2_mount

pytestmark = pytest.mark.require("root", "bpf")

SCRIPT = """
import sys
from pathlib import Path
import msgspec
from aegis._native import _system

keep = int(sys.argv[1])
sets = _system.ffi.new("unsigned long long[3]", [keep, keep, 0])
assert _system.lib.aegis_capset(sets) == 0
from aegis.kernel.features import probe_all
sys.stdout.buffer.write(msgspec.json.encode(probe_all(pin_dir=Path(sys.argv[2]))))
"""
NET_ADMIN, SYS_ADMIN, PERFMON, BPF = 1 << 12, 1 << 21, 1 << 38, 1 << 39


def probe_with(capabilities: int, pin_dir: Path) -> dict[str, Feature]:
    """What a process with only these capabilities finds."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(capabilities), str(pin_dir)],
        capture_output=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    return {each.name: each for each in msgspec.json.decode(done.stdout, type=list[Feature])}


def test_all_is_well_here_and_leaves_nothing(world: World) -> None:
    before = sorted(os.listdir(world.bpffs))
    found = probe_all(pin_dir=world.bpffs / "aegis", cgroup_root=world.cgroup)
    assert [each.name for each in found] == [row.name for row in TABLE]
    absent = {each.name: each.reason for each in found if each.state != "ok"}
    assert absent == {}
    assert all(each.source and not each.reason and not each.hint for each in found)
    assert sorted(os.listdir(world.bpffs)) == before


def test_without_capabilities_each_is_named_with_effect_and_hint(world: World) -> None:
    found = probe_with(0, world.bpffs)
    lost = (
        "bpf",
        "tcx",
        "cgroup",
        "tracing",
        "ringbuf",
        "iterators",
        "senders",
        "CAP_BPF",
        "CAP_PERFMON",
        "CAP_NET_ADMIN",
    )
    for name in lost:
        assert found[name].state == "missing", name
        assert found[name].reason, name
        assert found[name].effect, name
        assert found[name].hint, name
    assert found["clsact"].state == "degraded"
    assert found["btf"].state == found["libbpf"].state == "ok"


@pytest.mark.parametrize(
    ("left_out", "expected"),
    [
        (
            BPF,
            {"CAP_BPF", "bpf", "tcx", "cgroup", "tracing", "ringbuf", "iterators", "sk_storage", "senders"},
        ),
        (PERFMON, {"CAP_PERFMON", "tracing", "iterators", "senders"}),
        (NET_ADMIN, {"CAP_NET_ADMIN", "tcx", "cgroup", "senders"}),
    ],
)
def test_one_capability_taken_away(world: World, left_out: int, expected: set[str]) -> None:
    found = probe_with((BPF | PERFMON | NET_ADMIN) & ~left_out, world.bpffs)
    assert {name for name, each in found.items() if each.state == "missing"} == expected


def test_the_three_capabilities_are_enough(world: World) -> None:
    found = probe_with(BPF | PERFMON | NET_ADMIN, world.bpffs)
    assert {name for name, each in found.items() if each.state == "missing"} == set()


def test_sys_admin_stands_in_for_two(world: World) -> None:
    found = probe_with(SYS_ADMIN | NET_ADMIN, world.bpffs)
    assert found["CAP_BPF"].state == found["CAP_PERFMON"].state == "ok"
    assert found["CAP_BPF"].source == "CAP_SYS_ADMIN"


def test_a_directory_that_holds_no_pins(tmp_path: Path) -> None:
    (found,) = probe_all(pin_dir=tmp_path / "aegis", names=frozenset({"bpffs"}))
    assert found.state == "missing"
    assert found.reason == f"{tmp_path} is not on a BPF file system"
    assert "mount -t bpf" in found.hint


def test_a_cgroup_root_that_is_none(tmp_path: Path) -> None:
    (found,) = probe_all(cgroup_root=tmp_path, names=frozenset({"cgroup2"}))
    assert (found.state, found.source) == ("missing", str(tmp_path))
    (found,) = probe_all(names=frozenset({"cgroup2"}))
    assert (found.state, found.source) == ("ok", str(cgroup2_mount()))


def test_type_information_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel gives none: a file helps with field offsets, garbage does not."""
    from aegis.kernel import type_information

    monkeypatch.setattr(type_information, "VMLINUX", str(tmp_path / "absent"))
    names = frozenset({"btf", "tracing"})
    found, tracing = probe_all(names=names)
    assert (found.state, tracing.state) == ("missing", "missing")
    real = tmp_path / "real"
    real.write_bytes(Path("/sys/kernel/btf/vmlinux").read_bytes())
    found, _ = probe_all(real, names=names)
    assert (found.state, found.source) == ("degraded", str(real))
    garbage = tmp_path / "garbage"
    garbage.write_bytes(read_object("probe_loader")[:64])
    found, _ = probe_all(garbage, names=names)
    assert found.state == "missing"
    assert "not type information" in found.reason
