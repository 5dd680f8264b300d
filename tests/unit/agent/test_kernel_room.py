"""What is decided before anything is loaded; loading is the e2e tests'."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aegis.agent.kernel_room import KernelRoom
from aegis.errors import HostError
from aegis.kernel.features import Feature
from aegis.runtime import log
from aegis.runtime.clock import SystemClock
from aegis.runtime.health import Conditions
from aegis.runtime.settings import Settings


def room(
    tmp_path: Path, conditions: Conditions | None = None, host: Any = None, **changed: Any
) -> KernelRoom:
    values = {
        "interfaces": None,
        "ring_bytes": 1 << 20,
        "flow_entries": None,
        "cgroup_root": None,
        "pin_dir": str(tmp_path / "pins"),
        "btf": None,
    }
    health = (conditions or Conditions(SystemClock())).scoped("agent")
    return KernelRoom(Settings("kernel", {**values, **changed}), tmp_path, host, health, log.logger())


def links(*names: str) -> tuple[SimpleNamespace, ...]:
    return tuple(SimpleNamespace(name=name, index=number) for number, name in enumerate(names, 1))


def test_sizes_come_from_options_or_from_the_hosts_memory(tmp_path: Path) -> None:
    def unreadable() -> int:
        raise HostError("no")

    for memory, entries in ((lambda: (1 << 30) - 1, 16_384), (lambda: 1 << 30, 65_536), (unreadable, 16_384)):
        assert room(tmp_path, host=SimpleNamespace(memory_bytes=memory)).flow_entries == entries
    assert room(tmp_path, flow_entries=5000).flow_entries == 5000
    found = room(tmp_path, ring_bytes=70_000)
    assert found.ring_bytes == 131_072
    assert found.constants.ring_reserved_bytes == 131_072 // 8


@pytest.mark.parametrize(
    ("wanted", "found"),
    [(None, ["d"]), (("a", "c"), ["a", "c"]), (("none",), []), (("a", "absent"), ["a"])],
)
def test_interfaces_are_the_named_ones_or_the_default(
    tmp_path: Path, wanted: tuple[str, ...] | None, found: list[str]
) -> None:
    host = SimpleNamespace(links=lambda: links("a", "b", "c"), default_interfaces=lambda: links("d"))
    kernel = room(tmp_path, host=host, interfaces=wanted)
    assert [link.name for link in kernel.wanted_interfaces()] == found


def test_a_missing_feature_is_put_down_to_a_missing_capability(tmp_path: Path) -> None:
    def feature(name: str, state: Any) -> Feature:
        return Feature(name=name, state=state, source="", reason="why", effect="", hint="")

    kernel = room(tmp_path)
    kernel.__dict__["features"] = (
        feature("tracing", "missing"),
        feature("CAP_BPF", "ok"),
        feature("CAP_PERFMON", "missing"),
        feature("btf", "missing"),
        feature("bpf", "ok"),
    )
    assert kernel.missing(()) is None
    assert kernel.missing(("bpf",)) is None
    assert kernel.missing(("bpf", "tracing")) == "missing_capability(CAP_PERFMON): tracing: why"
    assert kernel.missing(("btf",)) == "feature_unsupported(btf): why"


def test_a_cgroup_root_that_is_not_there_is_a_condition(tmp_path: Path) -> None:
    conditions = Conditions(SystemClock())
    assert room(tmp_path, conditions, cgroup_root=str(tmp_path / "none")).cgroup_root is None
    assert [one.code for one in conditions.all()] == ["owner_unavailable"]
    assert room(tmp_path, cgroup_root=str(tmp_path)).cgroup_root == tmp_path


def test_before_anything_is_loaded_nothing_is_enforced_and_nothing_is_left(tmp_path: Path) -> None:
    kernel = room(tmp_path)
    assert kernel.enforcer.state().state == "unavailable"
    assert not kernel.committed
    kernel.close(keep=True)
    kernel.close(keep=False)
    assert list(tmp_path.iterdir()) == []
