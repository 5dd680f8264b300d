"""The configuration while it runs, over real files and a supervisor that notes its orders."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from aegis.agent.options import Options
from aegis.agent.remembered import remembered
from aegis.errors import ConfigError, StorageError
from aegis.runtime import log as logging
from aegis.runtime.clock import SystemClock
from aegis.runtime.config import Configuration, Setting, load
from aegis.runtime.health import Conditions

ENABLED = "modules.telemetry.enabled"


class Orders:
    """Fulfils what Options needs of a supervisor."""

    def __init__(self) -> None:
        self.taken: list[tuple[Any, ...]] = []

    def names(self) -> tuple[str, ...]:
        return ("telemetry",)

    async def enable(self, name: str) -> None:
        self.taken.append(("enable", name))

    async def disable(self, name: str) -> None:
        self.taken.append(("disable", name))

    async def configure(self, name: str, changed: frozenset[str], live: frozenset[str]) -> None:
        self.taken.append(("configure", name, changed, live))


class Host:
    """A configuration file and a state directory, read as the agent reads them."""

    def __init__(self, root: Path) -> None:
        self.file = root / "agent.toml"
        self.state = root / "state"
        self.state.mkdir()
        self.write("")
        self.conditions = Conditions(SystemClock())
        self.orders: Any = Orders()
        self.options = Options(
            self.read(), self.read, str(self.state), self.conditions.scoped("agent"), logging.logger()
        )

    def write(self, text: str) -> None:
        self.file.write_text(f'[agent]\nstate_dir = "{self.state}"\n{text}')

    def read(self) -> Configuration:
        return load(self.file, environ={}, remembered=remembered)

    def reload(self, text: str) -> None:
        self.write(text)
        asyncio.run(self.options.reload(self.orders))

    def setting(self, path: str) -> Setting:
        return next(one for one in self.options.values() if one.path == path)

    def held(self) -> list[str]:
        return [one.code for one in self.conditions.all()]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_an_order_is_what_the_option_says_from_then_on(host: Host) -> None:
    assert (host.setting(ENABLED).value, host.setting(ENABLED).origin) == (True, "default")
    for enabled in (False, True):
        host.options.remember("telemetry", enabled=enabled)
        shown = host.setting(ENABLED)
        assert (shown.value, shown.origin) == (enabled, str(host.state / "modules.json"))
        module = host.options.of_module("telemetry")
        assert module is not None
        assert module.boolean("enabled") is enabled
        assert host.read()[ENABLED] == shown  # as the next start will say
    host.reload("")
    assert host.orders.taken == []


def test_an_order_that_cannot_be_kept_changes_nothing(host: Host) -> None:
    host.state.rmdir()
    with pytest.raises(StorageError):
        host.options.remember("telemetry", enabled=False)
    assert host.setting(ENABLED).value is True


def test_restart_needed_holds_for_as_long_as_the_file_differs_from_what_was_started(host: Host) -> None:
    host.reload("[kernel]\nring_bytes = 65536\n")
    (condition,) = host.conditions.all()
    assert (condition.code, condition.text.rpartition(" ")[2]) == ("restart_needed", "kernel.ring_bytes")
    host.reload('[kernel]\nring_bytes = 65536\n[log]\nformat = "json"\n')  # what was late before still is
    assert "kernel.ring_bytes, log.format" in host.conditions.all()[0].text
    host.reload("[kernel]\nring_bytes = 65536\nharvest_interval_s = 2.0\n")
    assert host.held() == ["restart_needed"]
    host.reload("")
    assert host.held() == []


def test_what_a_module_can_take_needs_no_restart(host: Host) -> None:
    host.reload("[modules.telemetry]\ninterval_s = 7.0\n")
    assert host.held() == []
    assert [order[:3] for order in host.orders.taken] == [
        ("configure", "telemetry", frozenset({"interval_s"}))
    ]


def override(host: Host, **changes: object) -> ConfigError:
    with pytest.raises(ConfigError) as raised:
        asyncio.run(host.options.override(host.orders, "telemetry", changes))
    assert host.orders.taken == []
    return raised.value


@pytest.mark.parametrize("name", ["url", "gateway.url", "ring_bytes"])
def test_an_option_that_is_taken_at_a_start_is_refused_as_such(host: Host, name: str) -> None:
    error = override(host, **{name: "ws://other:1"})
    assert (error.code, error.hint) == ("restart_needed", "set it in agent.toml, then restart the agent")
    assert f"{name.rpartition('.')[2]}, an option of the whole agent that is taken at its start" in str(error)


def test_an_option_of_the_agent_that_is_live_is_still_none_of_a_module(host: Host) -> None:
    error = override(host, unsigned_orders="accept")
    assert (error.code, "there is no such option" in str(error)) == ("config_invalid", True)
    assert override(host, url="ws://other:1", nonsense=1).code == "config_invalid"


def test_an_order_with_more_names_than_any_module_has_is_refused_at_once(host: Host) -> None:
    begun = time.process_time()
    error = override(host, **{f"n{number}": 1 for number in range(25_000)})
    assert time.process_time() - begun < 0.5
    assert str(error) == "modules config: modules.telemetry: 25000 options at once; at most 64 may be given"
    assert len(error.problems) == 1


def test_names_without_end_are_not_repeated(host: Host) -> None:
    error = override(host, **{f"{number}" + "x" * 16_000: 1 for number in range(64)})  # as a frame holds
    assert len(str(error)) < 64 * 200
