"""A real agent puts a policy that cuts everything on trial and is killed: the kernel gives the way back by itself."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from typing import Self

import pytest

from tests.support.agent import RunningAgent, running_agent
from tests.support.world import World

pytestmark = pytest.mark.require("root", "bpf", "tcx", "bpffs")

DENY_ALL = """
apiVersion: aegis/v1
kind: HostNetworkPolicy
metadata: {name: all, version: 1}
spec: {mode: enforce, priority: 1, egressDeny: [{}], ingressDeny: [{}]}
"""
DENY_ONE = """
apiVersion: aegis/v1
kind: HostNetworkPolicy
metadata: {name: one, version: 1}
spec: {mode: enforce, egressDeny: [{toPorts: [{ports: [{port: 99, protocol: UDP}]}]}]}
"""
TRIAL_S = 2.0


class Stream:
    """One flow of datagrams from a to b that never pauses."""

    def __init__(self, world: World, port: int = 9) -> None:
        self._far = world.b.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._far.bind((world.b.v4, port))
        self._near = world.a.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._near.connect((world.b.v4, port))

    def arrives(self) -> bool:
        self._near.send(b"x")
        self._far.settimeout(0.005)
        try:
            return bool(self._far.recv(1))
        except TimeoutError:
            return False

    def until(self, wanted: bool, seconds: float) -> float:
        """When it was so first; the stream goes on all the time."""
        end = time.monotonic() + seconds
        while self.arrives() is not wanted:
            assert time.monotonic() < end, f"never {wanted}"
        return time.monotonic()

    def close(self) -> None:
        self._near.close()
        self._far.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def tool(agent: RunningAgent, *arguments: str, document: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "aegis.cli.main", "--socket", agent.socket, *arguments],
        input=document,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_the_agent_is_killed_and_the_host_comes_back(world: World) -> None:
    with Stream(world) as stream, running_agent(world) as agent:
        agent.apply(DENY_ONE)
        assert stream.arrives()
        before = time.monotonic()
        applied = tool(
            agent, "policy", "apply", "--confirm-within", f"{TRIAL_S:.0f}s", "-", document=DENY_ALL
        )
        assert applied.returncode == 0, applied.stderr
        assert "on trial until" in applied.stderr
        after = time.monotonic()
        (status,) = agent.ask("status")
        assert status["enforcement"]["state"] == "trial"
        assert status["enforcement"]["confirm_deadline"] is not None
        agent.stop(9)
        assert not stream.arrives()
        back = stream.until(wanted=True, seconds=TRIAL_S + 2)
        assert before + TRIAL_S - 0.1 <= back <= after + TRIAL_S + 1
        with Stream(world, 99) as one:
            assert not one.arrives(), "the policy before it is in force, not none"
        agent.start()
        (status,) = agent.ask("status")
        assert status["enforcement"]["state"] == "enforcing"
        assert [row["policy"] for row in agent.ask("policy.list")] == ["one"]


def test_confirmed_undone_and_told(world: World) -> None:
    with Stream(world) as stream, running_agent(world) as agent:
        assert tool(agent, "policy", "confirm").returncode == 5
        tool(agent, "policy", "apply", "--confirm-within", "1s", "-", document=DENY_ALL)
        assert tool(agent, "policy", "apply", "-", document=DENY_ONE).returncode == 6
        stream.until(wanted=True, seconds=3)
        agent.ask_until("status", lambda rows: rows[0]["enforcement"]["state"] == "none")
        (status,) = agent.ask_until(
            "status", lambda rows: any(one["code"] == "policy_undone" for one in rows[0]["conditions"])
        )
        assert "policy_undone" in {one["code"] for one in status["conditions"]}
        tool(agent, "policy", "apply", "--confirm-within", "60s", "-", document=DENY_ALL)
        assert not stream.arrives()
        confirmed = tool(agent, "policy", "confirm")
        assert (confirmed.returncode, confirmed.stdout.split(",")[0]) == (0, "enforcing"), confirmed.stderr
        assert not stream.arrives()
        agent.ask("policy.remove", name="all")
        assert stream.arrives()
        tool(agent, "policy", "rollback")
        assert not stream.arrives()
        exported = tool(agent, "policy", "export", "all")
        assert exported.stdout.strip() == DENY_ALL.strip()
        changed = DENY_ALL.replace("version: 1", "version: 2")
        told = tool(agent, "policy", "diff", "-", document=changed)
        assert told.stdout.splitlines() == ["all: changed", "- metadata.version: 1", "+ metadata.version: 2"]
        assert [row["state"] for row in agent.ask("policy.history")][-1] == "in_force"


def test_the_operators_way_and_dns_stay(world: World) -> None:
    """policy.management_allow of a real agent, under a policy that denies all."""
    options = f'[policy]\nmanagement_allow = ["egress:udp:{world.b.v4}/32:123", "egress:udp:nonsense:1"]\n'
    with (
        Stream(world, 123) as stream,
        Stream(world, 124) as other,
        running_agent(world, options=options) as agent,
    ):
        agent.apply(DENY_ALL)
        assert stream.arrives()
        assert not other.arrives()
        (status,) = agent.ask("status")
        told = [one for one in status["conditions"] if one["code"] == "management_incomplete"]
        assert [one["text"].partition(":")[0] for one in told] == ["policy.management_allow[1]"]
        agent.ask("policy.remove", name="all")
