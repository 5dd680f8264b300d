"""What is decided before anything is loaded; loading is the e2e tests'."""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aegis.agent.kernel_room import LOOKS_REMEMBERED, KernelRoom
from aegis.errors import AttachFailed, HostError
from aegis.kernel.datapath import Mended, Missing
from aegis.kernel.features import Feature
from aegis.kernel.tc import OtherProgram
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
    wanted_now = kernel.wanted_interfaces()
    assert wanted_now is not None
    assert [link.name for link in wanted_now] == found


class FakeDatapath:
    """Attached interfaces by number; `refuses` are those that cannot be attached."""

    def __init__(self, *attached: int) -> None:
        self.attached = set(attached)
        self.refuses: set[int] = set()
        self.mends: list[tuple[Mended, ...]] = []

    def interfaces(self) -> frozenset[int]:
        return frozenset(self.attached)

    touched = interfaces

    def in_place(self) -> bool:
        return not self.mends

    def before(self, _index: int) -> tuple[OtherProgram, ...]:
        return ()

    def mend(self) -> tuple[Mended, ...]:
        return self.mends.pop() if self.mends else ()

    def add_interface(self, index: int) -> None:
        if index in self.refuses:
            raise AttachFailed("attach", f"{index}", errno.EBUSY)
        self.attached.add(index)

    def remove_interface(self, index: int) -> None:
        self.attached.discard(index)


def test_interfaces_that_cannot_be_read_keep_what_is_attached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable() -> Any:
        raise HostError("netlink: no buffer space")

    conditions = Conditions(SystemClock())
    host = SimpleNamespace(default_interfaces=unreadable)
    kernel = room(tmp_path, conditions, host)
    asked: list[object] = []

    def install(indexes: object) -> Any:
        asked.append(indexes)
        return SimpleNamespace(missing=(), kept_sizes=())

    monkeypatch.setattr(kernel, "_install", install)
    kernel.attach()
    assert asked == [None]  # those of the agent before, not none
    datapath = FakeDatapath(1, 2)
    kernel.datapath = datapath  # type: ignore[assignment]
    kernel.refresh_interfaces()
    assert datapath.attached == {1, 2}
    (told,) = conditions.all()
    assert (told.code, told.text) == ("interfaces_unreadable", "netlink: no buffer space")
    host.default_interfaces = lambda: links("a")
    kernel.look_quickly()
    assert datapath.attached == {1}
    assert conditions.all() == ()


def test_all_interfaces_that_cannot_be_attached_are_told_of(tmp_path: Path) -> None:
    conditions = Conditions(SystemClock())
    host = SimpleNamespace(links=lambda: links("a", "b", "c"))
    kernel = room(tmp_path, conditions, host, interfaces=("a", "b", "c", "absent"))
    kernel.__dict__["features"] = ()
    datapath = FakeDatapath(1)
    datapath.refuses = {2, 3}
    kernel.datapath = datapath  # type: ignore[assignment]
    kernel.refresh_interfaces()
    (told,) = conditions.all()
    assert told.code == "interface_unattached"
    assert all(part in told.text for part in ("there is no absent", "interface 2: ", "interface 3: "))
    datapath.refuses = {3}
    kernel.refresh_interfaces()
    assert "interface 2" not in conditions.all()[0].text


def test_all_that_is_missing_at_start_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conditions = Conditions(SystemClock())
    kernel = room(tmp_path, conditions, SimpleNamespace(default_interfaces=lambda: links("a", "b")))
    kernel.__dict__["features"] = ()
    parts = ("interface 1", "interface 2", "cgroup_sock_create_owner", "tp_sock_relabel")
    missing = tuple(Missing(part=part, error=AttachFailed("attach", part, errno.EBUSY)) for part in parts)
    made = SimpleNamespace(missing=missing, kept_sizes=())
    monkeypatch.setattr(kernel, "_install", lambda _indexes: made)
    kernel.attach()
    told = {one.code: one.text for one in conditions.all()}
    assert told.keys() == {"interface_unattached", "owner_unavailable"}
    assert all(part in told["interface_unattached"] for part in parts[:2])
    assert all(part in told["owner_unavailable"] for part in parts[2:])


def test_a_lost_hook_is_remembered_for_some_looks(tmp_path: Path) -> None:
    conditions = Conditions(SystemClock())
    kernel = room(tmp_path, conditions, SimpleNamespace(default_interfaces=lambda: links("a")))
    datapath = FakeDatapath(1)
    kernel.datapath = datapath  # type: ignore[assignment]
    gone = AttachFailed("attach", "x", errno.ENODEV)
    datapath.mends = [(Mended(part="egress of interface 9", error=gone),)]
    kernel.look_quickly()
    assert conditions.all() == ()
    datapath.mends = [(Mended(part="egress of interface 1", error=None),)]
    kernel.look_quickly()
    for _ in range(LOOKS_REMEMBERED):
        assert [one.code for one in conditions.all()] == ["hook_lost"]
        kernel.look_quickly()
        kernel.look()
    assert conditions.all() == ()


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


def test_an_interface_with_one_direction_is_told_of_until_it_has_both(tmp_path: Path) -> None:
    conditions = Conditions(SystemClock())
    kernel = room(tmp_path, conditions, SimpleNamespace(default_interfaces=lambda: links("a")))
    kernel.__dict__["features"] = ()
    datapath = FakeDatapath()
    datapath.touched = lambda: frozenset({1})  # type: ignore[method-assign]
    datapath.refuses = {1}
    kernel.datapath = datapath  # type: ignore[assignment]
    for _ in range(3):
        kernel.look()
        assert [one.code for one in conditions.all()] == ["interface_unattached"]
    datapath.refuses = set()
    kernel.look()
    assert conditions.all() == ()


def test_a_hook_that_cannot_be_looked_at_is_not_called_taken_off(tmp_path: Path) -> None:
    conditions = Conditions(SystemClock())
    kernel = room(tmp_path, conditions, SimpleNamespace(default_interfaces=lambda: links("a")))
    datapath = FakeDatapath(1)
    kernel.datapath = datapath  # type: ignore[assignment]
    error = AttachFailed("describe", "x", errno.EIO)
    datapath.mends = [(Mended(part="egress of interface 1", error=error, seen=False),)]
    kernel.look_quickly()
    (told,) = conditions.all()
    assert told.text == f"egress of interface 1: cannot be looked at: {error}"
