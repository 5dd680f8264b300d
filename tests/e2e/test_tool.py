"""The tool at a live agent, and its sensors without one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support import expect
from tests.support.agent import RunningAgent, running_agent
from tests.support.awaiting import await_condition
from tests.support.world import World, cgroup2_mount

AEGIS = (sys.executable, "-m", "aegis.cli.main")
MAX_CLIENTS = 64


@pytest.fixture
def agent(world: World) -> Iterator[RunningAgent]:
    expect.require("root", "bpf", "cgroup")
    with running_agent(world) as running:
        yield running


def aegis(agent: RunningAgent, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*AEGIS, "--socket", agent.socket, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def rows(done: subprocess.CompletedProcess[str]) -> list[dict[str, object]]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_tools_format_is_the_commands_and_the_agent_tells_its_configuration(agent: RunningAgent) -> None:
    assert rows(aegis(agent, "-o", "json", "status"))[0]["schema"] == "aegis.status"
    shown = {row["option"]: row for row in rows(aegis(agent, "-o", "json", "config", "show"))}
    # Only the agent itself knows its flags.
    assert shown["kernel.pin_dir"]["value"] == str(agent.pins)
    told = {row["option"]: row for row in agent.ask("config.show")}
    assert {name: row["origin"] for name, row in shown.items()} == {
        name: row["origin"] for name, row in told.items()
    }


def test_one_client_too_many_is_exit_3_in_one_line(agent: RunningAgent) -> None:
    from websockets.sync.client import unix_connect

    with ExitStack() as stack:
        for _ in range(MAX_CLIENTS):
            stack.enter_context(unix_connect(agent.socket, "ws://localhost/", compression=None))
        for _ in range(5):  # the agent may close before or after the request is written
            done = aegis(agent, "status")
            assert done.returncode == 3, done.stderr
            assert done.stderr.startswith("aegis: connect_failed: too many connections: ")
            assert "Traceback" not in done.stderr


@contextmanager
def started(directory: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The tool with temporary files in `directory`, in a session of its own."""
    with subprocess.Popen(
        [*AEGIS, *arguments],
        env={**os.environ, "TMPDIR": str(directory)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def pins() -> set[str]:
    return {str(path) for path in Path("/sys/fs/bpf").glob("aegis-standalone-*")}


def agents_below(directory: Path) -> list[int]:
    """Processes whose command line names the directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if os.fsencode(directory) in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_sensors_are_unloaded_when_a_signal_ends_them(tmp_path: Path, number: int) -> None:
    expect.require("root", "bpf")
    with started(tmp_path, "events", "--standalone", "-o", "json", "--type", "exec") as process:
        assert process.stdout is not None
        deadline = time.monotonic() + 30
        os.set_blocking(process.stdout.fileno(), False)
        while not process.stdout.readline():
            assert process.poll() is None
            assert time.monotonic() < deadline
            subprocess.run(["/bin/true"], check=True)
            time.sleep(0.02)
        assert agents_below(tmp_path)
        assert not {path for path in pins() if path.endswith(f"-{process.pid}")}
        process.send_signal(number)
        assert process.wait(20) == 130
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
    assert list(tmp_path.iterdir()) == []
    assert agents_below(tmp_path) == []


def test_no_pin_outlives_the_sensors_when_they_are_killed(tmp_path: Path) -> None:
    expect.require("root", "bpf")
    before = pins()
    with started(tmp_path, "events", "--standalone", "-o", "json") as process:
        assert process.stderr is not None
        assert "sensors loaded" in process.stderr.readline()
        process.kill()
        process.wait(10)
        await_condition(lambda: not agents_below(tmp_path))
    assert pins() == before


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_the_demo_is_cleared_away_when_a_signal_ends_it(tmp_path: Path, number: int) -> None:
    expect.require("root", "bpf", "cgroup")
    with started(tmp_path, "demo", "--json") as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith('{"step": 1')
        cgroup = cgroup2_mount() / f"aegis-demo-{process.pid}"
        assert cgroup.is_dir()
        process.send_signal(number)
        assert process.wait(30) == 130
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
    assert list(tmp_path.iterdir()) == []
    assert not cgroup.exists()
