"""Modules of a real agent: found by being there, failing alone, ordered about, remembered, reconfigured."""

from __future__ import annotations

import signal
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from aegis.cli.client import AgentError
from tests.support.agent import RunningAgent
from tests.support.awaiting import await_condition
from tests.support.world import World

pytestmark = pytest.mark.require("root", "bpf", "tcx")

OWN = ["advanced_policy", "observability", "telemetry", "websocket_communication"]

BROKEN = {
    "broken_import": "import nothing_of_that_name",
    "broken_construct": """
        class Module:
            name = "broken_construct"
            requires = ()
            def __init__(self, context):
                raise ValueError("at construct")
    """,
    "broken_run": """
        class Module:
            name = "broken_run"
            requires = ()
            def __init__(self, context): pass
            async def run(self, ready):
                raise ValueError("in run")
    """,
    "fine": """
        import asyncio
        class Module:
            name = "fine"
            requires = ()
            def __init__(self, context):
                self.context = context
            def reload(self, config):
                self.context.health.raise_("reloaded", str(config.integer("n")))
            async def run(self, ready):
                ready()
                await asyncio.Event().wait()
    """,
}
STARTER = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); import aegis.agent.main as m, aegis.modules as p, "
    "aegis_modules_of_a_test as s; p.__path__.append(s.__path__[0]); sys.exit(m.main())"
)


class Agent(RunningAgent):
    """An agent with more folders on the path of its modules."""

    def __init__(self, world: World, options: str = "", modules: dict[str, str] | None = None) -> None:
        super().__init__(world, world.a, "agent", options, ())
        if modules is None:
            return
        package = world.directory / "more" / "aegis_modules_of_a_test"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        for name, body in modules.items():
            (package / name).mkdir()
            (package / name / "__init__.py").touch()
            (package / name / "config.py").write_text(
                "from aegis.runtime.settings import Option\n"
                'OPTIONS = (Option(name="n", kind="int", default=1, minimum=0, help="A number.", reload="live"),)\n'
            )
            (package / name / "module.py").write_text(textwrap.dedent(body))
        self.command = [self.command[0], "-c", STARTER, str(package.parent), *self.command[3:]]

    def states(self) -> dict[str, str]:
        return {row["name"]: row["state"] for row in self.ask("modules.list")}

    def module(self, name: str) -> dict[str, Any]:
        return next(row for row in self.ask("modules.list") if row["name"] == name)

    def order(self, order: str, name: str, **arguments: Any) -> dict[str, Any]:
        return self.ask(f"modules.{order}", name=name, **arguments)[0]

    def conditions(self) -> dict[str, dict[str, Any]]:
        return {row["code"]: row for row in self.ask("status")[0]["conditions"]}


@contextmanager
def started(agent: Agent) -> Iterator[Agent]:
    agent.start()
    try:
        yield agent
    finally:
        assert agent.stop() == 0
        assert "Traceback" not in agent.log.read_text()


def refusal(agent: Agent, verb: str, **arguments: Any) -> AgentError:
    with pytest.raises(AgentError) as caught:
        agent.ask(verb, **arguments)
    return caught.value


def test_a_folder_is_a_module_and_a_broken_one_fails_alone(world: World) -> None:
    with started(Agent(world, modules=BROKEN)) as agent:
        assert agent.states() == {
            "broken_construct": "failed",
            "broken_import": "failed",
            "broken_run": "failed",
            "fine": "running",
            **dict.fromkeys(OWN, "running"),
        }
        reasons = {row["name"]: row["reason"] for row in agent.ask("modules.list")}
        assert "ModuleNotFoundError" in reasons["broken_import"]
        assert "ValueError: at construct" in reasons["broken_construct"]
        assert "ValueError: in run" in reasons["broken_run"]


def test_orders_are_answered_after_the_change_and_are_remembered(world: World) -> None:
    agent = Agent(world)
    with started(agent):
        assert agent.order("stop", "telemetry")["state"] == "stopped"
        assert agent.order("stop", "telemetry")["state"] == "stopped"
        assert agent.order("start", "telemetry")["state"] == "running"
        assert agent.order("stop", "telemetry")["state"] == "stopped"
        assert agent.order("disable", "observability")["state"] == "disabled"
        for verb, arguments in (("config.show", {}), ("modules.config", {"name": "observability"})):
            shown = {row["option"]: row for row in agent.ask(verb, **arguments)}
            enabled = shown["modules.observability.enabled"]
            assert (enabled["value"], enabled["origin"]) == (False, f"{agent.directory}/state/modules.json")
        assert refusal(agent, "flows").code == "module_error"
        assert refusal(agent, "modules.stop", name="nonsense").code == "module_unknown"
        assert refusal(agent, "modules.stop").code == "envelope_invalid"
    with started(agent):
        assert agent.states() == {
            "advanced_policy": "running",
            "observability": "disabled",
            "telemetry": "running",
            "websocket_communication": "running",
        }
        shown = {row["option"]: row for row in agent.ask("config.show")}
        assert shown["modules.observability.enabled"]["origin"].endswith("/state/modules.json")
        assert agent.order("enable", "observability")["state"] == "running"
        agent.ask("flows")
    with started(agent):
        assert set(agent.states().values()) == {"running"}


def test_stopping_the_watcher_unloads_its_sensors(world: World) -> None:
    with started(Agent(world)) as agent:
        world.a.command("/bin/true")
        world.a.command(
            "/bin/true"
        )  # a kind that never occurred has no row, and on a quiet host nothing else starts
        before = {row["stage"]: row for row in agent.ask("counters")}
        assert before["records.exec"]["balanced"]
        agent.order("stop", "observability")
        counted = next(row for row in agent.ask("counters") if row["stage"] == "records.exec")["attempted"]
        world.a.command("/bin/true")
        after = next(row for row in agent.ask("counters") if row["stage"] == "records.exec")["attempted"]
        assert after == counted
        agent.order("start", "observability")
        world.a.command("/bin/true")
        after = next(row for row in agent.ask("counters") if row["stage"] == "records.exec")["attempted"]
        assert after > counted


def test_options_are_taken_while_it_runs(world: World) -> None:
    with started(Agent(world, modules={"fine": BROKEN["fine"]})) as agent:
        rows = {row["option"]: row["value"] for row in agent.ask("modules.config", name="fine")}
        assert rows == {"modules.fine.enabled": True, "modules.fine.n": 1}
        rows = {row["option"]: row for row in agent.ask("modules.config", name="fine", set={"n": 7})}
        assert (rows["modules.fine.n"]["value"], rows["modules.fine.n"]["origin"]) == (7, "modules config")
        assert agent.module("fine")["state"] == "degraded"
        assert agent.conditions()["reloaded"]["text"] == "7"
        for wrong in ({"n": -1}, {"n": "x"}, {"m": 1}, {"enabled": False}):
            assert refusal(agent, "modules.config", name="fine", set=wrong).code == "config_invalid"
        assert {row["option"]: row["value"] for row in agent.ask("modules.config", name="fine")}[
            "modules.fine.n"
        ] == 7


def test_sighup_takes_the_whole_configuration_or_nothing(world: World) -> None:
    with started(Agent(world, modules={"fine": BROKEN["fine"]})) as agent:
        file = agent.directory / "agent.toml"
        file.write_text(
            "[modules.fine]\nn = 5\n[modules.telemetry]\nenabled = false\n[log]\nlevel = 'loud'\n"
        )
        assert agent.process is not None
        agent.process.send_signal(signal.SIGHUP)
        await_condition(lambda: "config_refused" in agent.conditions())
        assert f"{file}:6" in agent.conditions()["config_refused"]["text"]
        assert (agent.module("telemetry")["state"], agent.module("fine")["state"]) == ("running", "running")
        file.write_text(
            "[modules.fine]\nn = 5\n[modules.telemetry]\nenabled = false\n[kernel]\nring_bytes = 65536\n"
        )
        agent.process.send_signal(signal.SIGHUP)
        await_condition(lambda: agent.module("telemetry")["state"] == "disabled")
        assert agent.conditions()["reloaded"]["text"] == "5"
        assert "config_refused" not in agent.conditions()
        assert "kernel.ring_bytes" in agent.conditions()["restart_needed"]["text"]
        file.write_text("")
        agent.process.send_signal(signal.SIGHUP)
        await_condition(lambda: "restart_needed" not in agent.conditions())


def test_only_the_named_modules_start(world: World) -> None:
    agent = Agent(world)
    agent.command += ["--modules", "telemetry"]
    with started(agent):
        assert agent.states() == {
            "advanced_policy": "disabled",
            "observability": "disabled",
            "telemetry": "running",
            "websocket_communication": "disabled",
        }
