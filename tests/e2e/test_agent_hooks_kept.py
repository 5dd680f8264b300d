"""Nobody takes an agent's hooks off unnoticed: not a second agent, and not tc or bpftool."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from pathlib import Path

import pytest

from aegis.kernel.links import Link
from aegis.kernel.tc import ClsactFilter, Direction
from tests.support.agent import RunningAgent, running_agent
from tests.support.world import World

pytestmark = pytest.mark.require("root", "bpf", "tcx", "bpffs")
POLICY = """
apiVersion: aegis/v1
kind: HostNetworkPolicy
metadata: {{name: kept, version: 1}}
spec: {{mode: enforce, egressDeny: [{{toCIDRSet: [{{cidr: {peer}/32}}]}}]}}
"""


def passes(world: World) -> bool:
    """Whether a datagram leaves for the peer."""
    before = world.a.statistics().tx_packets
    with world.a.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", (world.b.v4, 9))
    return world.a.statistics().tx_packets > before


def test_a_second_agent_with_the_same_pins_does_not_start_and_takes_nothing(world: World) -> None:
    with running_agent(world, name="first") as first:
        first.apply(POLICY.format(peer=world.b.v4))
        assert not passes(world)
        second = RunningAgent(world, world.a, "second", "", ())
        second.command[second.command.index("--pin-dir") + 1] = str(first.pins)
        with second.log.open("wb") as log, world.a.popen(second.command, stdout=log, stderr=log) as process:
            try:
                assert process.wait(30) == 77
            finally:
                process.kill()
        assert f"{first.pins}: another agent uses it" in second.log.read_text()
        assert "--pin-dir" in second.log.read_text()
        assert os.listdir(second.directory / "state") == []
        assert not passes(world)
        (status,) = first.ask("status")
        assert status["enforcement"]["state"] == "enforcing"
        assert status["conditions"] == [] or "hook_lost" not in {one["code"] for one in status["conditions"]}


def test_the_pins_are_free_after_kill_9_and_after_a_stop(world: World) -> None:
    agent = RunningAgent(world, world.a, "agent", "", ())
    for number in (9, 15):
        agent.start()
        agent.stop(number)
    agent.start()
    assert agent.stop() == 0


def test_no_other_user_can_hold_what_the_agent_locks(world: World) -> None:
    """All three directories are as reachable as they get; none of the locks can be opened."""
    world.directory.chmod(0o755)
    world.bpffs.chmod(0o755)
    with running_agent(world) as agent:
        for part in ("state", "run"):
            (agent.directory / part).chmod(0o755)
        for path in (agent.directory / "state", agent.directory / "run"):
            assert _refused(path / "agent.lock")
        assert _refused(next(Path(agent.pins).iterdir()))
        agent.stop()
        holders = [
            subprocess.Popen(["flock", path, "sleep", "60"], user=65534, group=65534, extra_groups=())
            for path in (agent.directory / "state", agent.directory / "run")
        ]
        try:
            time.sleep(0.2)  # until they hold the directories
            assert [holder.poll() for holder in holders] == [None, None]
            agent.start()
        finally:
            for holder in holders:
                holder.kill()
                holder.wait()


def _refused(path: Path) -> bool:
    ended = subprocess.run(
        ["flock", "-n", path, "true"],
        user=65534,
        group=65534,
        extra_groups=(),
        capture_output=True,
        text=True,
        check=False,
    )
    return ended.returncode != 0 and "Permission denied" in ended.stderr


@pytest.mark.parametrize("way", ["tcx", "clsact"])
def test_a_hook_that_is_taken_off_comes_back_and_is_told_of(world: World, way: str) -> None:
    with running_agent(world, options=f'[kernel]\nhook = "{way}"\n') as agent:
        agent.apply(POLICY.format(peer=world.b.v4))
        assert not passes(world)
        if way == "tcx":
            pin = next(Path(agent.pins).glob("*/links/tcx-*-egress"))
            with Link.from_pin(pin) as link:
                link.detach()
            pin.unlink()
        else:
            with world.a.entered():
                ClsactFilter(world.a.index, Direction.EGRESS, made_qdisc=False).detach()
        (status,) = agent.ask_until("status", lambda rows: "hook_lost" in str(rows[0]["conditions"]), 10)
        (told,) = [one for one in status["conditions"] if one["code"] == "hook_lost"]
        assert f"egress of interface {world.a.index}: was taken off, and is attached again" in told["text"]
        assert told["hint"]
        assert status["enforcement"]["state"] == "enforcing"
        assert status["enforcement"]["interfaces"] == [world.a.interface]
        assert not passes(world)


def test_doctor_names_programs_of_others_on_our_hooks(world: World) -> None:
    with running_agent(world, name="first") as first, running_agent(world, name="second"):
        (row,) = [row for row in first.ask("doctor") if row["feature"] == "other_programs"]
        assert row["state"] == "degraded"
        assert "tc_egress_flow" in row["reason"]
