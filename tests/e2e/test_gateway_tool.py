"""`aegis --gateway`: modules switched and events read from afar, through a whole gateway and a real agent."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.agent import RunningAgent
from tests.support.awaiting import await_condition
from tests.support.world import World

pytestmark = pytest.mark.require("root", "bpf", "tcx")

PORT, ACTIONS = 8080, 8083


class Tool:
    """`aegis` on the gateway's machine."""

    def __init__(self, world: World, data: str) -> None:
        self._world = world
        self._where = ("--gateway", f"http://127.0.0.1:{ACTIONS}", "--token-file", f"{data}/operator.token")

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "aegis.cli.main", *self._where, *arguments]
        process = self._world.b.popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def rows(self, *arguments: str) -> list[dict[str, Any]]:
        done = self(*arguments, "-o", "json")
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]


@contextmanager
def gateway(world: World) -> Iterator[Tool]:
    """In the peer's namespace: agents come over the wire, operators from its loopback."""
    data = world.directory / "gateway"
    command = [
        *(sys.executable, "-m", "aegis.cli.main", "gateway", "run", "--allow-v1"),
        *("--listen", f"{world.b.v4}:{PORT}", "--actions-listen", f"127.0.0.1:{ACTIONS}"),
        *("--data-dir", str(data)),
    ]
    log = world.directory / "gateway.log"
    with log.open("ab") as stream:
        process = world.b.popen(command, stdout=stream, stderr=stream)
    try:
        tool = Tool(world, str(data))
        await_condition(
            lambda: process.poll() is not None or tool("gateway", "agents").returncode == 0, seconds=30
        )
        assert process.poll() is None, log.read_text()
        yield tool
    finally:
        process.terminate()
        assert process.wait(15) == 0
    assert "Traceback" not in log.read_text()


def test_modules_and_events_from_afar(world: World) -> None:
    agent = RunningAgent(
        world,
        world.a,
        "agent",
        '[policy]\nunsigned_orders = "accept"\n',
        ("--gateway-url", f"ws://{world.b.v4}:{PORT}", "--protocol", "v1"),
    )
    with gateway(world) as tool:
        agent.start()
        try:
            await_condition(
                lambda: any(row["connected"] for row in tool.rows("gateway", "agents")), seconds=20
            )
            uid = tool.rows("gateway", "agents")[0]["agent_uid"]
            assert uid == agent.ask("status")[0]["agent"]["uid"]
            there = ("modules", "--agent", uid)
            assert [row["name"] for row in tool.rows(*there, "list")] == [
                row["name"] for row in agent.ask("modules.list")
            ]
            (stopped,) = tool.rows(*there, "stop", "telemetry")
            states = {row["name"]: row["state"] for row in agent.ask("modules.list")}  # already, not soon
            assert (stopped["state"], states["telemetry"]) == ("stopped", "stopped")
            (running,) = tool.rows(*there, "start", "telemetry")
            assert running["state"] == "running"
            assert {row["option"] for row in tool.rows(*there, "config", "telemetry")} == {
                row["option"] for row in agent.ask("modules.config", name="telemetry")
            }
            cut = tool(*there, "stop", "websocket_communication")
            assert (cut.returncode, "would_cut_control" in cut.stderr) == (4, True)
            assert tool(*there, "stop", "nonsense").returncode == 5

            begun = time.time_ns()
            for _ in range(7):
                world.a.command("/bin/true")

            def seen() -> list[dict[str, Any]]:
                found = tool.rows("events", "--agent", uid, "--type", "exec", "--since", "1m")
                return [row for row in found if row["comm"] == "true" and row["time_ns"] >= begun]

            await_condition(lambda: len(seen()) >= 7, seconds=10)
            assert len(seen()) == 7
            local = [
                row
                for row in agent.ask("events", last=10_000)
                if row["type"] == "exec" and row["comm"] == "true"
            ]
            afar = [{name: value for name, value in row.items() if name != "agent_uid"} for row in seen()]
            assert afar == local[-7:]
        finally:
            assert agent.stop() == 0
