"""The row of doctor for the interfaces: ok, some missing, or none, each with what that costs and what to do."""

from __future__ import annotations

from typing import Any, cast

import pytest

from aegis.agent.interface_feature import CODES, of_agent, of_host
from aegis.errors import HostError
from aegis.model.health import Condition
from aegis.runtime.conditions import CONDITIONS


def condition(code: str, text: str, hint: str = "") -> Condition:
    return Condition(code=code, source="agent", since_ns=0, text=text, hint=hint)


ABSENT = condition("interface_unattached", "there is no eth7", "name another")


@pytest.mark.parametrize(
    ("watched", "conditions", "state", "reason", "hint"),
    [
        (["eth0"], [condition("insecure_v1", "another matter")], "ok", "", ""),
        ([], [], "ok", "", ""),  # as told to
        (["eth0"], [ABSENT], "degraded", "there is no eth7", "name another"),
        (
            [],
            [condition("no_interface", "no interface holds a route")],
            "missing",
            "holds a route",
            "--interface",
        ),
        (None, [], "missing", "no packet program is installed", "aegis status"),
    ],
)
def test_what_a_running_agent_watches(
    watched: list[str] | None, conditions: list[Condition], state: str, reason: str, hint: str
) -> None:
    row = of_agent(watched, conditions)
    assert (row.name, row.state) == ("interfaces", state)
    assert row.source == f"watched: {'eth0' if watched else 'none'}"
    assert reason in row.reason
    assert bool(row.reason) == bool(row.effect) == bool(row.hint) == (state != "ok")
    assert hint in row.hint


def test_the_codes_are_of_the_table() -> None:
    assert {kind.code for kind in CONDITIONS} >= CODES


class Host:
    """A host whose default interfaces are given, or cannot be read."""

    closed = False

    def __init__(self, *names: str, error: HostError | None = None) -> None:
        self._names, self._error = names, error

    def default_interfaces(self) -> list[Any]:
        if self._error is not None:
            raise self._error
        return [type("Link", (), {"name": name}) for name in self._names]

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(
    ("host", "state", "said"),
    [
        (Host("eth0", "wlan0"), "ok", "hold a route: eth0, wlan0"),
        (Host(), "missing", "no interface holds a route"),
        (Host(error=HostError("netlink: EPERM")), "missing", "netlink: EPERM"),
    ],
)
def test_without_an_agent_what_one_would_watch(host: Host, state: str, said: str) -> None:
    row = of_host(cast("Any", host))
    assert row.state == state
    assert said in f"{row.source} {row.reason}"
    assert bool(row.hint) == (state != "ok")
    assert host.closed
