"""Which interfaces are watched, and what is told of the others."""

from __future__ import annotations

import errno
from types import SimpleNamespace
from typing import Any

import pytest

from aegis.agent.watched_interfaces import WatchedInterfaces
from aegis.errors import AttachFailed, HostError
from aegis.runtime.clock import SystemClock
from aegis.runtime.health import Conditions
from aegis.runtime.settings import Settings


def links(*names: str) -> tuple[SimpleNamespace, ...]:
    return tuple(SimpleNamespace(name=name, index=number) for number, name in enumerate(names, 1))


def watched(
    host: Any, wanted: tuple[str, ...] | None, conditions: Conditions | None = None, lacking: str = ""
) -> WatchedInterfaces:
    health = (conditions or Conditions(SystemClock())).scoped("agent")
    return WatchedInterfaces(Settings("kernel", {"interfaces": wanted}), host, health, lambda: lacking)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [(None, ["d"]), (("a", "c"), ["a", "c"]), (("none",), []), (("a", "absent"), ["a"])],
)
def test_interfaces_are_the_named_ones_or_the_default(
    wanted: tuple[str, ...] | None, found: list[str]
) -> None:
    host = SimpleNamespace(links=lambda: links("a", "b", "c"), default_interfaces=lambda: links("d"))
    wanted_now = watched(host, wanted).wanted()
    assert wanted_now is not None
    assert [link.name for link in wanted_now] == found


def test_not_to_know_is_not_to_have_none() -> None:
    def unreadable() -> Any:
        raise HostError("netlink: no buffer space")

    conditions = Conditions(SystemClock())
    host = SimpleNamespace(default_interfaces=unreadable)
    interfaces = watched(host, None, conditions)
    assert interfaces.wanted() is None
    assert interfaces.unreadable
    assert [(one.code, one.text) for one in conditions.all()] == [
        ("interfaces_unreadable", "netlink: no buffer space")
    ]
    host.default_interfaces = lambda: links("a")
    assert interfaces.wanted() == links("a")
    assert not interfaces.unreadable
    assert conditions.all() == ()


def test_what_is_not_watched_is_told_in_one_condition_until_it_is() -> None:
    conditions = Conditions(SystemClock())
    interfaces = watched(None, ("a", "absent"), conditions, "start the agent with CAP_NET_ADMIN")
    refused = {"interface 1": AttachFailed("attach", "1", errno.EPERM)}
    interfaces.tell_about(links("a"), refused)  # type: ignore[arg-type]
    (told,) = conditions.all()
    assert told.code == "interface_unattached"
    assert told.text.startswith("there is no absent; interface 1: ")
    assert told.hint == "start the agent with CAP_NET_ADMIN"
    ((name, why),) = interfaces.unattached
    assert (name, interfaces.absent) == ("a", ("absent",))
    assert "Operation not permitted" in why
    interfaces.tell_about((), {})
    assert (interfaces.unattached, interfaces.absent) == ((), ("a", "absent"))
    assert {one.code for one in conditions.all()} == {"no_interface"}
    watched(None, None, conditions).tell_about(links("a"), {})  # type: ignore[arg-type]
    assert conditions.all() == ()
