"""A real agent, as a process in a world's namespace, and the questions a test asks it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from aegis.cli.client import request
from aegis.errors import ConnectFailed
from tests.support.world import Place, World

START_SECONDS = 30.0
INSTALLED = f"{sysconfig.get_path('scripts')}/aegis-agent"


class RunningAgent:
    """One `aegis-agent` and its directories; a second start with the same directories is the same host's."""

    def __init__(
        self, world: World, place: Place, name: str, options: str, arguments: tuple[str, ...]
    ) -> None:
        self.directory = world.directory / name
        for part in ("state", "run"):
            (self.directory / part).mkdir(parents=True, exist_ok=True)
        self.socket = str(self.directory / "run" / "agent.sock")
        self.pins = world.bpffs / name
        (self.directory / "agent.toml").write_text(options)
        self.command: list[str] = [
            sys.executable,
            "-m",
            "aegis.agent.main",
            *("--config", str(self.directory / "agent.toml")),
            *("--state-dir", str(self.directory / "state")),
            *("--run-dir", str(self.directory / "run")),
            *("--pin-dir", str(self.pins)),
            *("--cgroup-root", str(world.cgroup)),
            *("--interface", place.interface),
            *arguments,
        ]
        self.installed = [INSTALLED, *self.command[3:]]
        self._place = place
        self.log = self.directory / "log"
        self.process: subprocess.Popen[Any] | None = None

    def start(self) -> None:
        """Start and wait until no module is starting any more."""
        with self.log.open("ab") as log:
            self.process = self._place.popen(self.command, stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                status = self.ask("status")[0]
            except ConnectFailed:
                status = None
            if status and all(module["state"] != "starting" for module in status["modules"]):
                return
            assert self.process.poll() is None, f"the agent ended:\n{self.log.read_text()}"
            assert time.monotonic() < deadline, f"the agent did not come up:\n{self.log.read_text()}"
            time.sleep(0.02)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and take the exit code."""
        assert self.process is not None
        process, self.process = self.process, None
        process.send_signal(number)
        try:
            return process.wait(10)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()

    def ask(self, verb: str, **arguments: Any) -> list[dict[str, Any]]:
        """All items the agent answers to a verb."""
        return list(request(self.socket, verb, arguments, timeout_s=30))

    def ask_until(
        self, verb: str, holds: Callable[[list[dict[str, Any]]], bool], seconds: float = 10, **arguments: Any
    ) -> list[dict[str, Any]]:
        """Ask until the answer is as wanted or the time is over; the last answer."""
        deadline = time.monotonic() + seconds
        while True:
            rows = self.ask(verb, **arguments)
            if holds(rows) or time.monotonic() > deadline:
                return rows
            time.sleep(0.05)

    def apply(self, document: str) -> dict[str, Any]:
        """Apply a policy document; the agent's answer."""
        return self.ask("policy.apply", document=document)[0]

    @contextmanager
    def following(self, *types: str) -> Iterator[Follower]:
        """`aegis events -f -o json` as its own process, its rows collected while the block runs; exec is always in it."""
        follower = Follower(self, ("exec", *types))
        try:
            yield follower
        finally:
            follower.close()


class Follower:
    """The rows one `aegis events -f` printed."""

    def __init__(self, agent: RunningAgent, types: tuple[str, ...]) -> None:
        command = [sys.executable, "-m", "aegis.cli.main", "--socket", agent.socket]
        command += ["events", "-f", "-o", "json", *(f"--type={name}" for name in types)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.rows: list[dict[str, Any]] = []
        self._thread = threading.Thread(target=self._collect)
        self._thread.start()
        deadline = time.monotonic() + 10
        while not self.rows:  # the stream is live once a program started after the request is in it
            assert time.monotonic() < deadline, "the follower saw nothing"
            subprocess.run(["/bin/true"], check=True)
            time.sleep(0.02)

    def _collect(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.rows.append(json.loads(line))

    def wait(
        self, choose: Callable[[dict[str, Any]], bool], count: int, seconds: float = 30
    ) -> list[dict[str, Any]]:
        """The chosen rows, once there are `count` of them or the time is over."""
        deadline = time.monotonic() + seconds
        while True:
            chosen = [row for row in list(self.rows) if choose(row)]
            if len(chosen) >= count or time.monotonic() > deadline:
                return chosen
            time.sleep(0.02)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(10)
        self._thread.join(10)
        assert self._process.stdout is not None
        self._process.stdout.close()


@contextmanager
def running_agent(
    world: World, *arguments: str, place: Place | None = None, name: str = "agent", options: str = ""
) -> Iterator[RunningAgent]:
    """An agent at work in the world's first namespace for as long as the block lasts."""
    agent = RunningAgent(world, place or world.a, name, options, arguments)
    agent.start()
    try:
        yield agent
    finally:
        if agent.process is not None:
            code = agent.stop()
            assert code == 0, f"exit code {code}:\n{agent.log.read_text()}"
            assert "Traceback" not in agent.log.read_text(), agent.log.read_text()
