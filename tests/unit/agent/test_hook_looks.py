"""Hooks while the agent runs, over a datapath of the test's own."""

from __future__ import annotations

import errno
from types import SimpleNamespace
from typing import Any

from aegis.agent.hook_looks import LOOKS_REMEMBERED, HookLooks
from aegis.agent.watched_interfaces import WatchedInterfaces
from aegis.errors import AttachFailed, HostError
from aegis.kernel.datapath_plan import Mended
from aegis.kernel.tc import OtherProgram
from aegis.runtime import log
from aegis.runtime.clock import SystemClock
from aegis.runtime.health import Conditions
from aegis.runtime.settings import Settings


def links(*names: str) -> tuple[SimpleNamespace, ...]:
    return tuple(SimpleNamespace(name=name, index=number) for number, name in enumerate(names, 1))


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


def looks(
    datapath: Any, conditions: Conditions, host: Any, wanted: tuple[str, ...] | None = None
) -> HookLooks:
    health = conditions.scoped("agent")
    settings = Settings("kernel", {"interfaces": wanted})
    return HookLooks(
        lambda: datapath, WatchedInterfaces(settings, host, health, lambda: ""), health, log.logger()
    )


def test_interfaces_that_cannot_be_read_keep_what_is_attached() -> None:
    def unreadable() -> Any:
        raise HostError("netlink: no buffer space")

    conditions = Conditions(SystemClock())
    host = SimpleNamespace(default_interfaces=unreadable)
    datapath = FakeDatapath(1, 2)
    hooks = looks(datapath, conditions, host)
    hooks.refresh()
    assert datapath.attached == {1, 2}
    (told,) = conditions.all()
    assert (told.code, told.text) == ("interfaces_unreadable", "netlink: no buffer space")
    host.default_interfaces = lambda: links("a")
    hooks.look_quickly()
    assert datapath.attached == {1}
    assert conditions.all() == ()


def test_all_interfaces_that_cannot_be_attached_are_told_of() -> None:
    conditions = Conditions(SystemClock())
    host = SimpleNamespace(links=lambda: links("a", "b", "c"))
    datapath = FakeDatapath(1)
    datapath.refuses = {2, 3}
    hooks = looks(datapath, conditions, host, ("a", "b", "c", "absent"))
    hooks.refresh()
    (told,) = conditions.all()
    assert told.code == "interface_unattached"
    assert all(part in told.text for part in ("there is no absent", "interface 2: ", "interface 3: "))
    datapath.refuses = {3}
    hooks.refresh()
    assert "interface 2" not in conditions.all()[0].text


def test_a_lost_hook_is_remembered_for_some_looks() -> None:
    conditions = Conditions(SystemClock())
    host = SimpleNamespace(default_interfaces=lambda: links("a"))
    datapath = FakeDatapath(1)
    hooks = looks(datapath, conditions, host)
    gone = AttachFailed("attach", "x", errno.ENODEV)
    datapath.mends = [(Mended(part="egress of interface 9", error=gone),)]
    hooks.look_quickly()
    assert conditions.all() == ()
    datapath.mends = [(Mended(part="egress of interface 1", error=None),)]
    hooks.look_quickly()
    for _ in range(LOOKS_REMEMBERED):
        assert [one.code for one in conditions.all()] == ["hook_lost"]
        hooks.look_quickly()
        hooks.look()
    assert conditions.all() == ()


def test_an_interface_with_one_direction_is_told_of_until_it_has_both() -> None:
    conditions = Conditions(SystemClock())
    host = SimpleNamespace(default_interfaces=lambda: links("a"))
    datapath = FakeDatapath()
    datapath.touched = lambda: frozenset({1})  # type: ignore[method-assign]
    datapath.refuses = {1}
    hooks = looks(datapath, conditions, host)
    for _ in range(3):
        hooks.look()
        assert [one.code for one in conditions.all()] == ["interface_unattached"]
    datapath.refuses = set()
    hooks.look()
    assert conditions.all() == ()


def test_a_hook_that_cannot_be_looked_at_is_not_called_taken_off() -> None:
    conditions = Conditions(SystemClock())
    host = SimpleNamespace(default_interfaces=lambda: links("a"))
    datapath = FakeDatapath(1)
    hooks = looks(datapath, conditions, host)
    error = AttachFailed("describe", "x", errno.EIO)
    datapath.mends = [(Mended(part="egress of interface 1", error=error, seen=False),)]
    hooks.look_quickly()
    (told,) = conditions.all()
    assert told.text == f"egress of interface 1: cannot be looked at: {error}"


def test_without_a_datapath_there_is_nothing_to_look_at() -> None:
    conditions = Conditions(SystemClock())
    hooks = looks(None, conditions, None)
    hooks.look()
    hooks.look_quickly()
    assert conditions.all() == ()
