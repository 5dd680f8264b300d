"""A real gateway as a process, and how a test talks to it."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

START_SECONDS = 30.0
STOP_SECONDS = 10.0


def free_port() -> int:
    """A loopback port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RunningGateway:
    """One `aegis gateway run` on loopback; a second start with the same directory is the same gateway."""

    def __init__(self, directory: Path, *arguments: str, allow_v1: bool = True) -> None:
        self.directory = directory
        self.port, self.actions_port = free_port(), free_port()
        self.command = [
            *(sys.executable, "-m", "aegis.cli.main", "gateway", "run"),
            *("--listen", f"127.0.0.1:{self.port}"),
            *("--actions-listen", f"127.0.0.1:{self.actions_port}"),
            *("--data-dir", str(directory / "data")),
            *(("--allow-v1",) if allow_v1 else ()),
            *arguments,
        ]
        self.log = directory / "gateway.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws/agent"

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.actions_port}"

    @property
    def token(self) -> str:
        return (self.directory / "data" / "operator.token").read_text().strip()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        """Start and wait until it says that it is ready."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                if self.get("/readyz", token=None)[0] == 200:
                    return
            except OSError:
                pass
            assert self.process.poll() is None, f"the gateway ended:\n{self.log.read_text()}"
            assert time.monotonic() < deadline, f"the gateway did not come up:\n{self.log.read_text()}"
            time.sleep(0.02)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and take the exit code."""
        assert self.process is not None
        process, self.process = self.process, None
        process.send_signal(number)
        try:
            return process.wait(STOP_SECONDS)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()

    def get(self, path: str, *, token: str | None = "") -> tuple[int, Any]:
        """Status and decoded body of a GET on the Actions API; with the operator's token unless `token` says other."""
        return self.call("GET", path, token=token)

    def call(self, method: str, path: str, body: object = None, *, token: str | None = "") -> tuple[int, Any]:
        """As `get`, with a JSON body. The decoded body is text where it is no JSON."""
        headers = {"Content-Type": "application/json"} if body is not None else {}
        if token is not None:
            headers["Authorization"] = f"Bearer {token or self.token}"
        connection = http.client.HTTPConnection("127.0.0.1", self.actions_port, timeout=30)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        try:
            return answer.status, json.loads(text)
        except ValueError:
            return answer.status, text

    def agents(self) -> dict[str, dict[str, Any]]:
        """What it lists, by uid."""
        status, found = self.get("/agents")
        assert status == 200, found
        return {each["agent_uid"]: each for each in found["agents"]}


@contextmanager
def gateway(directory: Path, *arguments: str, allow_v1: bool = True) -> Iterator[RunningGateway]:
    """A running gateway that is stopped at the end."""
    running = RunningGateway(directory, *arguments, allow_v1=allow_v1)
    running.start()
    try:
        yield running
    finally:
        if running.process is not None:
            running.stop()
