"""One path for every order about a module, over a supervisor and options that note what they are told."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from aegis.agent.module_orders import ORDERS, ModuleOrders
from aegis.errors import ConfigError, ModuleDisabled, ModuleUnknown, StorageError
from aegis.model.module import ModuleState, ModuleStatus


class Told:
    """Fulfils what is needed of a supervisor and of options; `calls` is what they were told, in order."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.fails: type[Exception] | None = None
        self.state = ModuleState.RUNNING

    def status(self, name: str) -> ModuleStatus:
        if name != "telemetry":
            raise ModuleUnknown(f"there is no module {name}")
        return ModuleStatus(name=name, state=self.state, reason="by configuration", since_ns=0, restarts=0)

    def statuses(self) -> tuple[ModuleStatus, ...]:
        return (self.status("telemetry"),)

    def __getattr__(self, order: str) -> Any:
        async def take(name: str) -> str:
            self.calls.append((order, name))
            return f"{name} {order}"

        return take

    def remember(self, name: str, *, enabled: bool) -> None:
        if self.fails:
            raise self.fails("disk")
        self.calls.append(("remember", name, enabled))

    async def override(self, supervisor: Any, name: str, changes: Mapping[str, object]) -> None:
        if self.fails:
            raise self.fails(())
        self.calls.append(("override", name, dict(changes)))

    def values(self) -> list[Any]:
        return [
            SimpleNamespace(path=path) for path in ("modules.telemetry.a", "modules.telemetry2.a", "log.a")
        ]


@pytest.fixture
def told() -> Told:
    return Told()


def orders(told: Told) -> ModuleOrders:
    either: Any = told
    return ModuleOrders(either, either)


async def test_what_is_to_last_is_remembered_before_it_is_done(told: Told) -> None:
    assert [await orders(told).give(order, "telemetry") for order in ORDERS] == [
        f"telemetry {order}" for order in ORDERS
    ]
    assert told.calls == [
        ("start", "telemetry"),
        ("stop", "telemetry"),
        ("remember", "telemetry", True),
        ("enable", "telemetry"),
        ("remember", "telemetry", False),
        ("disable", "telemetry"),
    ]


async def test_a_disabled_module_is_started_by_enable_alone(told: Told) -> None:
    told.state = ModuleState.DISABLED
    one = orders(told)
    with pytest.raises(ModuleDisabled, match="telemetry is disabled \\(by configuration\\)") as refused:
        await one.give("start", "telemetry")
    assert "enable" in str(refused.value.hint)
    stopped = await one.give(
        "stop", "telemetry"
    )  # and stays disabled, or the next start would find it stopped
    assert stopped.state is ModuleState.DISABLED
    assert told.calls == []
    await one.give("enable", "telemetry")
    assert told.calls == [("remember", "telemetry", True), ("enable", "telemetry")]


async def test_what_cannot_be_remembered_is_not_done(told: Told) -> None:
    told.fails = StorageError
    with pytest.raises(StorageError):
        await orders(told).give("disable", "telemetry")
    assert told.calls == []


async def test_nothing_happens_to_a_module_nobody_knows(told: Told) -> None:
    for call in (
        *(orders(told).give(order, "nonsense") for order in ORDERS),
        orders(told).configure("nonsense", {"a": 1}),
    ):
        with pytest.raises(ModuleUnknown):
            await call
    with pytest.raises(ModuleUnknown):
        orders(told).options("nonsense")
    assert told.calls == []


async def test_options_are_a_modules_own(told: Told) -> None:
    one = orders(told)
    assert [setting.path for setting in await one.configure("telemetry", {})] == ["modules.telemetry.a"]
    assert told.calls == []
    await one.configure("telemetry", {"a": 1})
    assert told.calls == [("override", "telemetry", {"a": 1})]
    told.fails = ConfigError
    with pytest.raises(ConfigError):
        await one.configure("telemetry", {"a": 1})


def test_what_is_true_is_the_supervisors_word(told: Told) -> None:
    assert orders(told).status("telemetry") == told.status("telemetry")
    assert orders(told).statuses() == told.statuses()
