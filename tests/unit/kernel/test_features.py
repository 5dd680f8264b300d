from __future__ import annotations

from pathlib import Path

import pytest

from aegis.errors import FeatureUnsupported
from aegis.kernel import features, type_information
from aegis.kernel.features import (
    TABLE,
    Scope,
    describe_others,
    probe_all,
    probe_btf,
    probe_cgroup,
    probe_cgroup2,
)
from aegis.kernel.tc import Direction, OtherProgram


def test_the_table_names_each_feature_once_with_effect_and_hint() -> None:
    names = [row.name for row in TABLE]
    assert len(set(names)) == len(names)
    for row in TABLE:
        assert row.source, row.name
        assert row.effect, row.name
        assert row.hint, row.name
        assert (row.probe is None) != (row.typed is None), row.name


def test_only_the_names_asked_for_are_tried() -> None:
    assert [each.name for each in probe_all(names=frozenset({"CAP_BPF", "btf"}))] == ["btf", "CAP_BPF"]


def test_an_error_of_a_probe_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise FeatureUnsupported("load", "libbpf", detail="libbpf.so.1: cannot open shared object file")

    monkeypatch.setattr(features, "open_library", absent)
    (found,) = probe_all(names=frozenset({"tcx"}))
    assert found.state == "missing"
    assert "libbpf.so.1: cannot open" in found.reason


def test_paths_that_are_not_what_they_should_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type_information, "VMLINUX", str(tmp_path / "absent"))
    scope = Scope(btf=None, pin_dir=tmp_path, cgroup_root=tmp_path)
    assert probe_btf(scope).state == "missing"
    assert "No such file" in probe_btf(scope).reason
    assert probe_cgroup2(scope).reason == f"{tmp_path} is not a cgroup v2 hierarchy"
    assert "--cgroup-root" in probe_cgroup2(scope).hint
    assert probe_cgroup(scope).reason == probe_cgroup2(scope).reason


def test_programs_of_others_are_one_line() -> None:
    assert describe_others(()).state == "ok"
    found = describe_others(
        [OtherProgram(ifindex=3, direction=Direction.INGRESS, program_id=31, name="cil_from_netdev")]
    )
    assert found.state == "degraded"
    assert found.reason == "ingress of interface 3: cil_from_netdev (id 31)"
    assert found.effect
    assert found.hint


def test_a_btf_file_that_is_none_is_named_though_the_kernel_has_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own"
    own.write_bytes(b"\x9f\xeb\x01\x00")
    monkeypatch.setattr(type_information, "VMLINUX", str(own))
    names = frozenset({"btf"})
    (found,) = probe_all(tmp_path / "given", names=names)
    assert (found.state, found.source) == ("degraded", f"{tmp_path}/given")
    assert found.reason == f"{tmp_path}/given: No such file or directory"
    assert str(own) in found.effect
    assert "--btf" in found.hint
    own.unlink()
    (found,) = probe_all(tmp_path / "given", names=names)
    assert found.state == "missing"
    assert f"{tmp_path}/given" in found.reason
    assert str(own) in found.reason


def test_what_forbids_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "effective_capabilities", lambda: 1 << 39)
    assert features.lacking_capabilities() == ("CAP_PERFMON", "CAP_NET_ADMIN")
    assert features.why_not_permitted() == "without CAP_PERFMON, CAP_NET_ADMIN"
    monkeypatch.setattr(features, "effective_capabilities", lambda: 1 << 21 | 1 << 12)
    assert features.lacking_capabilities() == ()
    assert "no capability is missing" in features.why_not_permitted()
