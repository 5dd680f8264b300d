"""Sensors without a daemon: an agent of one's own for as long as the stream is read, with directories of its own.

Its pins are in a BPF file system of a mount namespace that only the agent is in: they go with it, whatever ends it.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import click

from aegis.cli.client import request
from aegis.cli.ending import orderly
from aegis.errors import ConnectFailed, HostError, PermissionDenied

START_SECONDS = 15.0


@contextmanager
def sensors(types: list[str]) -> Iterator[Iterator[dict[str, Any]]]:
    """Events from now on; the sensors are unloaded at the end of the block, also when a signal ends it.

    Raises PermissionDenied, HostError.
    """
    if os.geteuid() != 0:
        raise PermissionDenied("sensors without an agent need root", hint="run it with sudo")
    with orderly() as ending, tempfile.TemporaryDirectory(prefix="aegis-standalone-") as directory:
        log, socket = Path(directory) / "log", str(Path(directory) / "agent.sock")
        with _started(Path(directory), log) as agent:
            try:
                _await(socket, agent, log)
                click.echo("sensors loaded; Ctrl-C unloads them", err=True)
                with closing(request(socket, "events", {"follow": True, "types": types})) as rows:
                    yield rows
            finally:
                ending.begin()
                agent.signal(15)
                agent.wait(10)


def _started(directory: Path, log: Path) -> Any:
    from aegis.host import children
    from aegis.host.namespaces import PrivateMounts, mount_bpffs

    bpffs = directory / "bpf"
    bpffs.mkdir()
    command = [
        sys.executable,
        "-m",
        "aegis.agent.main",
        *("--config", str(directory / "agent.toml")),
        *("--state-dir", str(directory), "--run-dir", str(directory), "--pin-dir", str(bpffs / "aegis")),
        *("--interface", "none", "--modules", "observability", "--log-format", "json"),
    ]
    (directory / "agent.toml").write_text('[enforcement]\non_stop = "detach"\n')
    # Left again at once: the agent alone stays in the namespace.
    with log.open("wb") as stream, PrivateMounts():
        mount_bpffs(str(bpffs))
        return children.execute(command, stdout=stream.fileno(), stderr=stream.fileno())


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
