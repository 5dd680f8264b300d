"""What a host lacks, and what is named and is not what it should be: told with what, effect and hint; the rest goes on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.test_agent_degraded import CAPABILITIES, conditions, run, states, under, with_only
from tests.support.agent import RunningAgent
from tests.support.world import World

pytestmark = pytest.mark.require("root", "bpf", "tcx", "bpffs", "btf")
VMLINUX = "/sys/kernel/btf/vmlinux"


@pytest.mark.parametrize("dropped", [("CAP_BPF",), ("CAP_PERFMON",), ("CAP_NET_ADMIN",), CAPABILITIES])
def test_a_missing_capability_is_named_wherever_something_fails_by_it(
    world: World, dropped: tuple[str, ...]
) -> None:
    kept = [name for name in CAPABILITIES if name not in dropped]
    status, _ = run(with_only(RunningAgent(world, world.a, "agent", "", ()), *kept))
    told, names = conditions(status)["kernel_unavailable"], ", ".join(dropped)
    assert told["text"].startswith(f"missing_capability({names}): ")
    assert "effect: packets are neither counted nor judged" in told["text"]
    assert told["hint"] == f"start the agent with {names}"
    seen = next(one for one in status["modules"] if one["name"] == "observability")
    if dropped == ("CAP_NET_ADMIN",):
        assert seen["state"] == "running"  # to see processes and sockets needs it not
        return
    assert seen["state"] == "failed"
    assert seen["reason"].startswith(f"missing_capability({dropped[0]}")
    assert f"without {names}" in seen["reason"]
    assert "effect: " in seen["reason"]
    assert seen["reason"].endswith(f"hint: start the agent with {names}")


@pytest.mark.parametrize("kind", ["absent", "empty", "random", "directory"])
def test_a_file_that_is_no_type_information(world: World, kind: str) -> None:
    """Told by status and doctor, and the kernel's own is used."""
    named = world.directory / "btf"
    match kind:
        case "empty":
            named.write_bytes(b"")
        case "random":
            named.write_bytes(bytes(range(256)) * 20)
        case "directory":
            named.mkdir()
    status, features = run(RunningAgent(world, world.a, "agent", "", ("--btf", str(named))))
    told = conditions(status)["btf_unusable"]
    assert told["text"].startswith(f"type information (BTF) cannot be used: {named}: ")
    assert "effect: programs are fitted by the type information of the kernel itself" in told["text"]
    assert "--btf" in told["hint"]
    row = features["btf"]
    assert (row["state"], row["source"]) == ("degraded", str(named))
    assert row["reason"].startswith(f"{named}: ")
    assert VMLINUX in row["effect"]
    assert "--btf" in row["hint"]
    assert set(states(status).values()) == {"running"}
    assert status["enforcement"]["interfaces"] == [world.a.interface]


@pytest.mark.parametrize("named", [None, "/nonexistent"])
def test_a_kernel_without_type_information(world: World, named: str | None) -> None:
    agent = RunningAgent(world, world.a, "agent", "", ("--btf", named) if named else ())
    # unshare makes all mounts private by itself, beginning at /, which in a chroot is no mount.
    script = 'mount --make-rprivate /sys && mount -t tmpfs none /sys/kernel/btf && exec "$@"'
    command = ("unshare", "-m", "--propagation", "unchanged", "/bin/sh", "-c", script, "sh")
    status, features = run(under(agent, *command))
    told = conditions(status)["kernel_unavailable"]
    assert f"no type information (BTF) of this kernel: {VMLINUX}: No such file" in told["text"]
    assert "effect: packets are neither counted nor judged" in told["text"]
    assert "--btf FILE" in told["hint"]
    assert ("btf_unusable" in conditions(status)) == (named is not None)
    reason = next(one["reason"] for one in status["modules"] if one["name"] == "observability")
    assert f"type information (BTF) {VMLINUX}: No such file" in reason
    assert "effect: no process, socket or cgroup events; hint: " in reason
    assert features["btf"]["state"] == "missing"
    for path in filter(None, (named, VMLINUX)):
        assert f"{path}: No such file" in features["btf"]["reason"]
    assert states(status)["telemetry"] == "running"


@pytest.mark.parametrize("kind", ["a big tree", "a file"])
def test_a_cgroup_root_that_is_none(world: World, kind: str) -> None:
    """Known by its file system: nothing is walked, nobody waits, and the stop comes in time."""
    named = Path("/proc") if kind == "a big tree" else world.directory / "file"
    (world.directory / "file").write_text("x")
    agent = RunningAgent(world, world.a, "agent", "", ())
    agent.command[agent.command.index("--cgroup-root") + 1] = str(named)
    agent.start()
    waits = []
    try:
        with agent.following() as events:
            for _ in range(10):
                subprocess.run(["/bin/true"], check=True)
                started = time.monotonic()
                agent.ask("status")
                waits.append(time.monotonic() - started)
            rows = events.wait(lambda row: row["type"] == "exec", 10)
        (status,) = agent.ask("status")
        features = {row["feature"]: row for row in agent.ask("doctor")}
    finally:
        started = time.monotonic()
        code = agent.stop()
    assert code == 0
    assert time.monotonic() - started < 2
    assert sorted(waits)[len(waits) // 2] < 0.3
    assert len(rows) >= 10, f"{len(rows)} rows, {status['losses']}"
    told = conditions(status)["owner_unavailable"]
    assert told["text"].startswith(f"cgroup v2 at {named}: not on a cgroup v2 file system")
    assert "effect: flows and sockets have no owner" in told["text"]
    assert "--cgroup-root" in told["hint"]
    assert features["cgroup2"]["reason"] == f"{named} is not a cgroup v2 hierarchy"
    assert "--cgroup-root" in features["cgroup2"]["hint"]
    assert set(states(status).values()) == {"running"}
    assert "Traceback" not in agent.log.read_text()


def test_a_host_without_libbpf(world: World) -> None:
    """Its place is taken by a file that is none, in a mount namespace of the agent's own."""
    maps = subprocess.run(
        [sys.executable, "-c", "import aegis._native._libbpf; print(open('/proc/self/maps').read())"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    place = re.search(r"\S+/libbpf[^/\s]*$", maps, re.MULTILINE)
    assert place is not None
    (world.directory / "none").write_bytes(b"")
    agent = RunningAgent(world, world.a, "agent", "", ())
    script = f'mount --bind {world.directory}/none {os.path.realpath(place[0])} && exec "$@"'
    command = ("unshare", "-m", "--propagation", "unchanged", "/bin/sh", "-c", script, "sh")
    status, features = run(under(agent, *command))
    told = conditions(status)["kernel_unavailable"]
    assert "load libbpf: " in told["text"]
    assert "effect: " in told["text"]
    assert "libbpf1" in told["hint"]
    for name in ("libbpf", "bpf"):
        assert features[name]["state"] == "missing"
        assert "libbpf1" in features[name]["hint"]
    reason = next(one["reason"] for one in status["modules"] if one["name"] == "observability")
    assert "load libbpf: " in reason
    assert states(status)["telemetry"] == "running"
