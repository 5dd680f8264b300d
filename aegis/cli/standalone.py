"""Sensors without a daemon: an agent of one's own for as long as the stream is read, with directories of its own."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from aegis.cli.client import request
from aegis.errors import ConnectFailed, HostError, PermissionDenied

START_SECONDS = 15.0


def sensor_rows(types: list[str]) -> Iterator[dict[str, Any]]:
    """Events from now on; the sensors are unloaded when the generator is closed. Raises PermissionDenied, HostError."""
    if os.geteuid() != 0:
        raise PermissionDenied("sensors without an agent need root", hint="run it with sudo")
    from aegis.host import children

    with tempfile.TemporaryDirectory(prefix="aegis-standalone-") as directory:
        log, socket = Path(directory) / "log", str(Path(directory) / "agent.sock")
        pins = Path(f"/sys/fs/bpf/aegis-standalone-{os.getpid()}")
        command = [
            sys.executable,
            "-m",
            "aegis.agent.main",
            *("--config", str(Path(directory) / "agent.toml")),
            *("--state-dir", directory, "--run-dir", directory, "--pin-dir", str(pins)),
            *("--interface", "none", "--modules", "observability", "--log-format", "json"),
        ]
        (Path(directory) / "agent.toml").write_text('[enforcement]\non_stop = "detach"\n')
        with log.open("wb") as stream:
            agent = children.execute(command, stdout=stream.fileno(), stderr=stream.fileno())
        with agent:
            try:
                _await(socket, agent, log)
                click.echo("sensors loaded; Ctrl-C unloads them", err=True)
                yield from request(socket, "events", {"follow": True, "types": types})
            finally:
                agent.signal(15)
                agent.wait(10)


def _await(socket: str, agent: Any, log: Path) -> None:
    """Until the agent's observability runs; HostError with the end of its log when it does not."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            states = {row["name"]: row for row in request(socket, "modules.list", timeout_s=5)}
        except ConnectFailed:
            states = {}
        row = states.get("observability", {"state": "starting"})
        if row["state"] == "running":
            return
        if row["state"] == "failed":
            raise HostError(f"the sensors did not load: {row['reason']}")
        if not agent.running() or time.monotonic() > deadline:
            raise HostError(f"the sensors did not load; the log ends: {log.read_text()[-600:]}")
        time.sleep(0.02)
