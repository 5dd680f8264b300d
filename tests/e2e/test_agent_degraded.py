"""Hosts that lack something: the agent starts, says what is missing with its effect, and goes on with what remains."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import Any

import pytest

from aegis.cli.client import AgentError
from tests.support.agent import RunningAgent
from tests.support.qdisc import place_ingress_qdisc, remove_ingress_qdisc
from tests.support.world import World

POLICY = (
    "apiVersion: aegis/v1\nkind: HostNetworkPolicy\nmetadata: {name: p, version: 1}\n"
    "spec: {egressDeny: [{toCIDRSet: [{cidr: 192.0.2.0/24}]}]}\n"
)
pytestmark = pytest.mark.require("root", "bpf", "tcx", "bpffs")


def run(agent: RunningAgent) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Status and, by feature, doctor of an agent that is started and stopped here."""
    agent.start()
    try:
        features = {row["feature"]: row for row in agent.ask("doctor")}
        (status,) = agent.ask("status")
        _tries_policy(agent, status["enforcement"])
    finally:
        code = agent.stop()
    log = agent.log.read_text()
    assert code == 0, log
    assert "Traceback" not in log
    return status, features


def _tries_policy(agent: RunningAgent, enforcement: dict[str, Any]) -> None:
    """A policy is taken and in force, or kept and said to be in force nowhere, or refused: never silently off."""
    if enforcement["interfaces"]:
        assert agent.apply(POLICY)["state"] == "enforced"
        agent.ask("policy.remove", name="p")
        return
    with pytest.raises(AgentError) as refused:
        agent.apply(POLICY)
    if enforcement["state"] == "unavailable":
        assert refused.value.code == "feature_unsupported"
        assert agent.ask("policy.list") == []
        return
    assert refused.value.code == "policy_not_enforced"
    assert "and not in force: no interface carries" in str(refused.value)
    (kept,) = agent.ask("policy.list")
    assert (kept["policy"], kept["state"], kept["interfaces"]) == ("p", "not_enforced", [])
    now = agent.ask("status")[0]["enforcement"]
    assert (now["state"], now["mode"]) == ("unavailable", "observe")
    assert "no interface" in now["reason"]
    agent.ask("policy.remove", name="p")


def states(status: dict[str, Any]) -> dict[str, str]:
    return {module["name"]: module["state"] for module in status["modules"]}


def conditions(status: dict[str, Any]) -> dict[str, dict[str, Any]]:
    for condition in status["conditions"]:
        assert condition["text"]
        assert condition["hint"], condition
    return {condition["code"]: condition for condition in status["conditions"]}


def under(agent: RunningAgent, *prefix: str) -> RunningAgent:
    agent.command[:0] = prefix
    return agent


CAPABILITIES = ("CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN")


def with_only(agent: RunningAgent, *kept: str) -> RunningAgent:
    """Run it as root whose only capabilities are these and the one to write in directories of others."""
    setpriv = shutil.which("setpriv")
    assert setpriv is not None
    named = ",".join(["-all", "+dac_override", *(f"+{name.removeprefix('CAP_').lower()}" for name in kept)])
    return under(agent, setpriv, f"--bounding-set={named}", f"--inh-caps={named}")


def test_three_capabilities_are_all_it_needs(world: World) -> None:
    status, features = run(with_only(RunningAgent(world, world.a, "agent", "", ()), *CAPABILITIES))
    assert set(states(status).values()) == {"running"}
    assert status["enforcement"]["interfaces"] == [world.a.interface]
    assert [row["feature"] for row in features.values() if row["state"] == "missing"] == []


@pytest.mark.parametrize("dropped", [("CAP_BPF",), ("CAP_PERFMON",), ("CAP_NET_ADMIN",), CAPABILITIES])
def test_without_capabilities(world: World, dropped: tuple[str, ...]) -> None:
    kept = [name for name in CAPABILITIES if name not in dropped]
    status, features = run(with_only(RunningAgent(world, world.a, "agent", "", ()), *kept))
    for name in CAPABILITIES:
        assert (features[name]["state"] == "missing") == (name in dropped)
        if name in dropped:
            assert features[name]["effect"]
            assert features[name]["hint"]
    found = conditions(status)
    assert "kernel_unavailable" in found
    assert any(name in found["kernel_unavailable"]["hint"] for name in dropped)
    assert status["enforcement"]["state"] == "unavailable"
    assert status["enforcement"]["reason"]
    modules = {one["name"]: one for one in status["modules"]}
    assert modules["telemetry"]["state"] == "running"
    if "CAP_NET_ADMIN" not in dropped or len(dropped) > 1:
        assert modules["observability"]["state"] == "failed"
        assert modules["observability"]["reason"].startswith(f"missing_capability({dropped[0]}")


def test_without_type_information(world: World) -> None:
    agent = RunningAgent(world, world.a, "agent", "", ())
    # unshare makes all mounts private by itself, beginning at /, which in a chroot is no mount.
    script = 'mount --make-rprivate /sys && mount -t tmpfs none /sys/kernel/btf && exec "$@"'
    command = ("unshare", "-m", "--propagation", "unchanged", "/bin/sh", "-c", script, "sh")
    status, features = run(under(agent, *command))
    assert features["btf"]["state"] == "missing"
    assert features["btf"]["effect"]
    assert states(status)["telemetry"] == "running"
    assert states(status)["observability"] == "failed"
    reason = next(one["reason"] for one in status["modules"] if one["name"] == "observability")
    assert "feature_unsupported" in reason or "tracing" in reason
    assert status["enforcement"]["state"] in {"unavailable", "none"}
    if status["enforcement"]["state"] == "unavailable":
        assert "kernel_unavailable" in conditions(status)


def test_without_a_bpf_file_system(world: World) -> None:
    agent = RunningAgent(world, world.a, "agent", "", ())
    agent.command[agent.command.index("--pin-dir") + 1] = str(world.directory / "no-bpffs")
    status, features = run(agent)
    assert features["bpffs"]["state"] == "missing"
    assert "pins_unavailable" in conditions(status)
    assert status["enforcement"]["state"] == "none"
    assert set(states(status).values()) == {"running"}
    assert not (world.directory / "no-bpffs").exists()


def test_without_a_cgroup_hierarchy(world: World) -> None:
    agent = RunningAgent(world, world.a, "agent", "", ())
    agent.command[agent.command.index("--cgroup-root") + 1] = str(world.directory / "nothing")
    status, features = run(agent)
    assert features["cgroup2"]["state"] == "missing"
    assert "owner_unavailable" in conditions(status)
    assert status["enforcement"]["interfaces"] == [world.a.interface]
    assert states(status)["telemetry"] == "running"


def test_without_an_interface(world: World) -> None:
    agent = RunningAgent(world, world.a, "agent", "", ())
    agent.command[agent.command.index("--interface") + 1] = "absent0"
    status, _ = run(agent)
    assert "absent0" in conditions(status)["no_interface"]["text"]
    agent.command[agent.command.index("--interface") + 1] = "none"
    status, _ = run(agent)
    assert "no_interface" not in conditions(status)
    assert status["enforcement"]["interfaces"] == []


def test_a_policy_is_in_force_where_it_is_said_to_be_and_nowhere_else(world: World) -> None:
    agent = RunningAgent(world, world.a, "agent", "", ())
    agent.command[agent.command.index("--interface") + 1] = "later0"
    tool = [sys.executable, "-m", "aegis.cli.main", "--socket", agent.socket, "policy"]
    document = agent.directory / "policy.yaml"
    document.write_text(POLICY)
    agent.start()
    try:
        applied = subprocess.run([*tool, "apply", str(document)], capture_output=True, text=True, check=False)
        assert (applied.returncode, applied.stdout) == (1, "")
        assert "policy_not_enforced" in applied.stderr
        assert "no interface carries the packet programs; there is no later0" in applied.stderr
        listed = subprocess.run([*tool, "list"], capture_output=True, text=True, check=True)
        assert listed.stdout.splitlines()[1].split()[-1] == "not_enforced"
        assert "there is no later0" in listed.stderr
        with world.a.netlink() as netlink:
            netlink.add_bridge("later0")
            netlink.set_up("later0")
            # It was kept: no interface that comes has a moment without it.
            come = agent.ask_until("policy.list", lambda rows: rows[0]["state"] == "enforced", 10)
            assert (come[0]["state"], come[0]["interfaces"]) == ("enforced", ["later0"])
            applied = subprocess.run(
                [*tool, "apply", str(document)], capture_output=True, text=True, check=False
            )
            assert (applied.returncode, applied.stdout) == (0, "p: applied, mode observe, generation 2\n")
            netlink.delete("later0")
    finally:
        assert agent.stop() == 0
    assert "Traceback" not in agent.log.read_text()


def test_an_interface_that_refuses_the_programs_is_named_by_every_answer(world: World) -> None:
    agent = RunningAgent(world, world.a, "agent", "[kernel]\nhook = 'clsact'\n", ())
    agent.command += ["--interface", "taken0"]
    with world.a.netlink() as netlink:
        netlink.add_bridge("taken0")
        netlink.set_up("taken0")
        index = netlink.link("taken0").index
        place_ingress_qdisc(netlink, index)
        agent.start()
        try:
            expected = "in force, but not everywhere: not judged: taken0: "
            with pytest.raises(AgentError, match=expected) as refused:
                agent.apply(POLICY)
            assert refused.value.code == "policy_partly_enforced"
            (kept,) = agent.ask("policy.list")
            assert (kept["state"], kept["interfaces"]) == ("partly_enforced", [world.a.interface])
            enforcement = agent.ask("status")[0]["enforcement"]
            assert enforcement["state"] == "observing"
            assert [one["interface"] for one in enforcement["unattached"]] == ["taken0"]
            assert "not judged: taken0: " in enforcement["reason"]
            remove_ingress_qdisc(netlink, index)
            assert agent.apply(POLICY)["state"] == "enforced"  # tried again before the answer
        finally:
            assert agent.stop() == 0
            netlink.delete("taken0")
    assert "Traceback" not in agent.log.read_text()


def test_on_plain_asyncio(world: World) -> None:
    status, features = run(RunningAgent(world, world.a, "agent", '[agent]\nloop = "asyncio"\n', ()))
    assert set(states(status).values()) == {"running"}
    assert {row["state"] for row in features.values()} == {"ok"}


def test_an_interface_that_comes_is_watched_and_one_that_goes_is_let_go(world: World) -> None:
    agent = RunningAgent(world, world.a, "agent", "", ())
    agent.command += ["--interface", "later0"]
    agent.start()
    try:
        (status,) = agent.ask("status")
        assert "later0" in conditions(status)["interface_unattached"]["text"]
        with world.a.netlink() as netlink:
            netlink.add_bridge("later0")
            netlink.set_up("later0")
            come = agent.ask_until(
                "status", lambda rows: "later0" in rows[0]["enforcement"]["interfaces"], 10
            )
            assert come[0]["enforcement"]["interfaces"] == [world.a.interface, "later0"]
            assert "interface_unattached" not in conditions(come[0])
            netlink.delete("later0")
            gone = agent.ask_until("status", lambda rows: len(rows[0]["enforcement"]["interfaces"]) == 1, 10)
            assert gone[0]["enforcement"]["interfaces"] == [world.a.interface]
            netlink.add_bridge("later0")
            agent.ask_until("status", lambda rows: "later0" in rows[0]["enforcement"]["interfaces"], 10)
            netlink.delete("later0")
    finally:
        assert agent.stop() == 0
    assert "Traceback" not in agent.log.read_text()
