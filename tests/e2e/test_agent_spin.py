"""A module that spins: the agent starts again without it, soon, and what it denies stays denied throughout."""

from __future__ import annotations

import json
import signal
import threading
import time
from typing import Any

import pytest

from aegis.runtime import modules_found
from tests.e2e.test_agent_modules import BROKEN, Agent, started
from tests.support import testers
from tests.support.awaiting import await_condition
from tests.support.world import World

pytestmark = pytest.mark.require("root", "bpf", "tcx", "bpffs")

SPINNER = """
    import asyncio
    import os

    class Module:
        name = "spinner"
        requires = ()

        def __init__(self, context):
            self.flag = os.path.join(os.path.dirname(__file__), "flag")

        async def run(self, ready):
            ready()
            while not os.path.exists(self.flag):
                await asyncio.sleep(0.05)
            while {condition}:
                {work}
"""
POLICY = """
apiVersion: aegis/v1
kind: HostNetworkPolicy
metadata: {{name: p, version: 1}}
spec:
  mode: enforce
  egressDeny: [{{toCIDRSet: [{{cidr: {address}/32}}], toPorts: [{{ports: [{{port: {port}, protocol: TCP}}]}}]}}]
"""
LIMIT_S = 5.0


class Attempts(threading.Thread):
    """Connects to a denied and an allowed port again and again, and counts."""

    def __init__(self, world: World, denied: int, allowed: int) -> None:
        super().__init__()
        self.wrong: list[str] = []
        self.made = 0
        self.over = threading.Event()
        self._world, self._ports = world, (denied, allowed)

    def run(self) -> None:
        denied, allowed = self._ports
        with self._world.a.entered():
            while not self.over.is_set():
                for port, works in ((denied, 0), (allowed, 1)):
                    outcome = testers.tcp_connects(self._world.b.v4, port, 1, b"x", seconds=0.05)
                    self.made += 1
                    if outcome.done != works:
                        self.wrong.append(f"port {port}: {outcome}")


def flag(agent: Agent) -> Any:
    (module,) = agent.directory.parent.glob("more/*/spinner/module.py")
    return module.with_name("flag")


def test_a_spinning_module_is_left_out_and_the_rest_is_back_soon(world: World) -> None:
    spinner = SPINNER.format(condition="True", work="pass")
    agent = Agent(world, modules={"fine": BROKEN["fine"], "spinner": spinner})
    with (
        started(agent),
        testers.tcp_server(world.b, world.b.v4) as denied,
        testers.tcp_server(world.b, world.b.v4) as allowed,
    ):
        agent.apply(POLICY.format(address=world.b.v4, port=denied))
        uptime_before = agent.ask("status")[0]["agent"]["uptime_s"]
        attempts = Attempts(world, denied, allowed)
        attempts.start()
        try:
            flag(agent).touch()
            begun = time.monotonic()
            await_condition(lambda: "the agent starts again" in agent.log.read_text())
            states = {}
            while set(states) != {"fine", "spinner", *modules_found.names()} or "starting" in states.values():
                assert time.monotonic() - begun < 4 * LIMIT_S, states
                states = answered(agent)
                time.sleep(0.02)
            took = time.monotonic() - begun
            print(f"back after {took:.2f} s")
            assert took <= LIMIT_S
        finally:
            attempts.over.set()
            attempts.join()
        assert states == {
            "spinner": "failed",
            "fine": "running",
            **dict.fromkeys(modules_found.names(), "running"),
        }
        reason = agent.module("spinner")["reason"]
        assert "it held the agent's loop for" in reason
        assert "spinner/module.py:" in reason
        assert "the first time; held off until" in reason
        assert attempts.made > 20
        assert attempts.wrong == []
        status = agent.ask("status")[0]
        assert (status["enforcement"]["state"], status["enforcement"]["generation"]) == ("enforcing", 1)
        assert status["agent"]["uptime_s"] < uptime_before + took
        assert "spinner: it held" in agent.conditions()["module_spun"]["text"]
        (gap,) = [row for row in agent.ask("events", types=["loss"]) if row["reason"] == "module_spun"]
        assert (gap["stage"], gap["kind"]) == ("agent", "milliseconds_unwatched")
        assert 0 < gap["count"] < took * 1000
        remembered = json.loads((agent.directory / "state" / "spun.json").read_text())["modules"]["spinner"]
        assert (remembered["times"], remembered["hold_s"]) == (1, 60.0)
        flag(agent).unlink()
        assert agent.order("start", "spinner")["state"] == "running"
        assert "module_spun" not in agent.conditions()
        assert json.loads((agent.directory / "state" / "spun.json").read_text()) == {"modules": {}}


def answered(agent: Agent) -> dict[str, str]:
    """The modules' states; nothing while nobody answers."""
    from aegis.errors import AegisError

    try:
        return {row["name"]: row["state"] for row in agent_rows(agent)}
    except (AegisError, TimeoutError):
        return {}


def agent_rows(agent: Agent) -> list[dict[str, Any]]:
    from aegis.cli.client import request

    return list(request(agent.socket, "modules.list", timeout_s=0.5))


@pytest.mark.parametrize("stop_s", [4.0])
def test_a_stopped_process_and_a_blocked_one_are_not_spinning(world: World, stop_s: float) -> None:
    """SIGSTOP, as of a debugger; and a module that sleeps without the loop: neither burns a processor."""
    sleeper = SPINNER.format(condition="os.path.exists(self.flag)", work="__import__('time').sleep(0.1)")
    agent = Agent(world, modules={"spinner": sleeper})
    with started(agent):
        before = agent.ask("status")[0]["agent"]["uptime_s"]
        assert agent.process is not None
        agent.process.send_signal(signal.SIGSTOP)
        time.sleep(stop_s)
        agent.process.send_signal(signal.SIGCONT)
        after = agent.ask("status")[0]["agent"]["uptime_s"]
        assert after >= before + stop_s
        flag(agent).touch()
        time.sleep(stop_s)
        flag(agent).unlink()
        assert agent.ask("status")[0]["agent"]["uptime_s"] >= after + stop_s
        assert "does not turn" not in agent.log.read_text()
