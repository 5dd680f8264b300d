"""What is decided before anything is loaded; loading is the e2e tests'."""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aegis.agent.kernel_room import NO_OWNER, KernelRoom
from aegis.errors import AttachFailed, HostError
from aegis.kernel.datapath_plan import Missing
from aegis.model.policy import EnforcementState, Mode
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


def test_all_that_is_missing_at_start_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conditions = Conditions(SystemClock())
    kernel = room(tmp_path, conditions, SimpleNamespace(default_interfaces=lambda: links("a", "b")))
    kernel.features.__dict__["found"] = ()
    parts = ("interface 1", "interface 2", "cgroup_sock_create_owner", "tp_sock_relabel")
    missing = tuple(Missing(part=part, error=AttachFailed("attach", part, errno.EBUSY)) for part in parts)
    made = SimpleNamespace(missing=missing, kept_sizes=())
    monkeypatch.setattr(kernel, "_install", lambda _indexes: made)
    kernel.attach()
    told = {one.code: one.text for one in conditions.all()}
    assert told.keys() == {"interface_unattached", "owner_unavailable"}
    assert all(part in told["interface_unattached"] for part in parts[:2])
    assert all(part in told["owner_unavailable"] for part in parts[2:])


def test_a_cgroup_root_that_is_not_there_is_a_condition(tmp_path: Path) -> None:
    conditions = Conditions(SystemClock())
    assert room(tmp_path, conditions, cgroup_root=str(tmp_path / "none")).cgroup_root is None
    (told,) = conditions.all()
    assert told.code == "owner_unavailable"
    assert told.text == f"cgroup v2 at {tmp_path}/none: No such file or directory; {NO_OWNER}"
    assert "--cgroup-root" in told.hint
    assert room(tmp_path, conditions, cgroup_root=str(tmp_path)).cgroup_root is None
    assert f"cgroup v2 at {tmp_path}: not on a cgroup v2 file system" in conditions.all()[0].text


def test_a_btf_file_that_is_none_is_a_condition_and_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conditions = Conditions(SystemClock())
    kernel = room(
        tmp_path, conditions, SimpleNamespace(default_interfaces=lambda: links("a")), btf=str(tmp_path)
    )
    made = SimpleNamespace(missing=(), kept_sizes=())
    monkeypatch.setattr(kernel, "_install", lambda _indexes: made)
    kernel.attach()
    (told,) = conditions.all()
    assert told.code == "btf_unusable"
    assert told.text.startswith(
        f"type information (BTF) cannot be used: {tmp_path}: Is a directory; effect: "
    )
    assert "--btf" in told.hint
    assert kernel.features.btf is None


def test_before_anything_is_loaded_nothing_is_enforced_and_nothing_is_left(tmp_path: Path) -> None:
    kernel = room(tmp_path)
    assert kernel.enforcer.state().state == "unavailable"
    assert not kernel.committed
    kernel.close(keep=True)
    kernel.close(keep=False)
    assert list(tmp_path.iterdir()) == []


def test_a_start_without_readable_interfaces_keeps_those_of_the_agent_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable() -> Any:
        raise HostError("netlink: no buffer space")

    kernel = room(tmp_path, host=SimpleNamespace(default_interfaces=unreadable))
    asked: list[object] = []

    def install(indexes: object) -> Any:
        asked.append(indexes)
        return SimpleNamespace(missing=(), kept_sizes=())

    monkeypatch.setattr(kernel, "_install", install)
    kernel.attach()
    assert asked == [None]  # not none


def test_where_policies_judge_packets_and_where_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = SimpleNamespace(links=lambda: links("a", "b"), default_interfaces=lambda: links("a", "b"))
    kernel = room(tmp_path, host=host)
    kernel.features.__dict__["found"] = ()
    reach = kernel.reach()
    assert (reach.state, reach.text) == ("not_enforced", "the agent is starting")
    busy = Missing(part="interface 2", error=AttachFailed("attach", "2", errno.EBUSY))
    attached = frozenset({1})
    made = SimpleNamespace(missing=(busy,), kept_sizes=(), interfaces=lambda: attached)
    monkeypatch.setattr(kernel, "_install", lambda _indexes: made)
    kernel.attach()
    state = EnforcementState(state="enforcing", generation=3, mode=Mode.ENFORCE)
    kernel.enforcer = SimpleNamespace(state=lambda: state)  # type: ignore[assignment]
    reach = kernel.reach()
    assert (reach.state, reach.interfaces) == ("partly_enforced", ("a",))
    assert reach.unattached == (("b", str(busy.error)),)
    assert str(reach.text).startswith("not judged: b: ")
    state = EnforcementState(state="stale", generation=3, reason="the file is damaged")
    assert (kernel.reach().state, kernel.reach().text) == ("not_enforced", "the file is damaged")
    attached = frozenset()
    state = EnforcementState(state="unavailable", generation=3, reason="no interface")
    assert (kernel.reach().state, kernel.reach().reason) == ("not_enforced", None)
    assert "no interface carries the packet programs; b: " in str(kernel.reach().text)
