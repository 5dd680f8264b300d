"""What agents cost a gateway: one real `aegis gateway run`, and agents made of bytes."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nacl.signing import SigningKey

from benchmarks.rows import Row, median
from benchmarks.wire import Client, Prepared, envelope, prepare

HOST = "127.0.0.1"
ROUNDS = 5
HANDSHAKES = 200
AT_ONCE = 32  # agents that come at the same time
HEARTBEATS = 20_000
BATCHES, ITEMS = 400, 64
PUSHED, PUSH_AGENTS = 40, 250
IDLE = 1_000


class Gateway:
    """A gateway process on ports of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port, self.api = _free_port(), _free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [
            *(sys.executable, "-m", "aegis.cli.main", "gateway", "run", "--allow-v1"),
            *("--listen", f"{HOST}:{self.port}", "--actions-listen", f"{HOST}:{self.api}"),
            *("--data-dir", str(self.directory / "data")),
        ]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 30
        while True:
            try:
                if self.call("GET", "/readyz")[0] == 200:
                    return
            except OSError:
                pass
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.directory / "log").read_text()[-2000:])
            time.sleep(0.05)

    def call(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        headers = {"Content-Type": "application/json"}
        token = self.directory / "data" / "operator.token"
        if token.exists():
            headers["Authorization"] = f"Bearer {token.read_text().strip()}"
        connection = http.client.HTTPConnection(HOST, self.api, timeout=60)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        return answer.status, json.loads(text) if text[:1] in (b"{", b"[") else text

    def cpu_s(self) -> float:
        """Processor time of all its threads."""
        assert self.process is not None
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    def rss_bytes(self) -> int:
        assert self.process is not None
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(20)


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def gateway() -> Iterator[Gateway]:
    """A running gateway with an empty store, gone at the end."""
    with tempfile.TemporaryDirectory(prefix="aegis-bench-") as directory:
        running = Gateway(Path(directory))
        running.start()
        try:
            yield running
        finally:
            running.stop()


def run() -> list[Row]:
    """Each row a gateway of its own, so that none inherits another's memory."""
    return [_handshakes(), _heartbeats(), _events(), _pushes(), _idle()]


def _handshakes() -> Row:
    """Authentication and registration of new agents, against the same number of bare verifications beside."""
    ours: list[float] = []
    bare: list[float] = []
    with gateway() as gate:
        for round_ in range(ROUNDS):
            prepared = [prepare(HOST, gate.port, round_ * HANDSHAKES + i) for i in range(HANDSHAKES)]
            before = gate.cpu_s()
            with ThreadPoolExecutor(AT_ONCE) as pool:
                clients = list(pool.map(lambda each: _entered(gate, each), prepared))
            time.sleep(0.3)
            ours.append(1e6 * (gate.cpu_s() - before) / HANDSHAKES)
            bare.append(2 * _verification_us())
            for client in clients:
                client.close()
            time.sleep(0.3)
    value, peer = median(ours), median(bare)
    return Row(
        name="gateway_handshake",
        value=value,
        unit="us",
        peer=peer,
        ratio=value / peer,
        samples=[*ours, *bare],
        note=f"upgrade, authentication and registration, kept in the store, {AT_ONCE} at a time; peer: two bare verifications",
    )


def _entered(gate: Gateway, prepared: Prepared) -> Client:
    client = Client(HOST, gate.port, prepared)
    client.enter()
    return client


def _verification_us() -> float:
    signer = SigningKey.generate()
    text = b"x" * 120
    signature, key = signer.sign(text).signature, signer.verify_key
    started = time.process_time()
    for _ in range(500):
        key.verify(text, signature)
    return 1e6 * (time.process_time() - started) / 500


def _heartbeats() -> Row:
    """Heartbeats of ten agents as fast as the gateway takes them; the list of agents is right at the end."""
    rates: list[float] = []
    with gateway() as gate:
        clients = []
        for number in range(10):
            client = Client(HOST, gate.port, prepare(HOST, gate.port, number))
            client.enter()
            clients.append(client)
        for _ in range(ROUNDS):
            beats = [
                b"".join(
                    [envelope(f"agent.{client.uid}.heartbeat", {}, "heartbeat")]
                    * (HEARTBEATS // len(clients))
                )
                for client in clients
            ]
            before = gate.cpu_s()
            for client, text in zip(clients, beats, strict=True):
                client.socket.sendall(text)
                client.settle()
            rates.append(HEARTBEATS / (gate.cpu_s() - before))
        ended = time.time()
        time.sleep(1)
        _, listed = gate.call("GET", "/agents")
        late = [row for row in listed["agents"] if abs(row["last_seen_ns"] / 1e9 - ended) > 30]
        if len(listed["agents"]) != len(clients) or late:
            raise RuntimeError(f"the list of agents is wrong: {late or listed}")
        for client in clients:
            client.close()
    return Row(name="gateway_heartbeats", value=median(rates), unit="1/s", samples=rates, note="a CPU-second")


def _item(number: int) -> dict[str, Any]:
    """An exec event as an agent reports it, of ordinary length."""
    reasonless = {"pid": 4000 + number, "start_ns": 812_345_678_901_234, "ppid": 3999, "uid": 1000}
    ancestors = [
        {"pid": 900 + i, "start_ns": 7_000_000_000 + i, "comm": "bash", "exe": "/usr/bin/bash"}
        for i in range(3)
    ]
    return {
        "schema": "aegis.event",
        "version": 1,
        "time": "2026-11-23T11:22:33.123456789Z",
        "time_ns": 1_795_432_953_123_456_789 + number,
        "type": "exec",
        **reasonless,
        "comm": "grep",
        "exe": "/usr/bin/grep",
        "args": ["grep", "-q", "pattern", "/etc/some/file/of/ordinary/length.conf"],
        "args_truncated": False,
        "args_bytes": 60,
        "cwd": "/srv/application",
        "cgroup": "/system.slice/application.service",
        "unit": "application.service",
        "ancestors": ancestors,
        "owner": "process",
    }


def _events() -> Row:
    """Batches of exec events: received, checked, stored and acknowledged; then asked for."""
    rates: list[float] = []
    size = 0
    with gateway() as gate:
        client = Client(HOST, gate.port, prepare(HOST, gate.port, 0))
        client.enter()
        channel = f"agent.{client.uid}.processes"
        first = 0
        for _ in range(ROUNDS):
            batches = []
            for _ in range(BATCHES):
                content = {
                    "kind": "events",
                    "stream": 1,
                    "first": first,
                    "boot_id": "0123456789abcdef0123456789abcdef",
                    "items": [_item(first + i) for i in range(ITEMS)],
                }
                text = json.dumps(content, separators=(",", ":")).encode()
                size = len(text) // ITEMS
                batches.append(envelope(channel, text, "event", client.prepared.signer))
                first += ITEMS
            before = gate.cpu_s()
            for batch in batches:
                client.socket.sendall(batch)
            _await_stored(gate, client.uid, first)
            rates.append(BATCHES * ITEMS / (gate.cpu_s() - before))
        client.close()
    return Row(
        name="gateway_events",
        value=median(rates),
        unit="1/s",
        samples=rates,
        note=f"a CPU-second; exec events of {size} bytes of JSON, {ITEMS} a batch",
    )


def _await_stored(gate: Gateway, uid: str, count: int) -> None:
    """Until the newest event sent is found by a query, and at most a second after it was taken."""
    wanted = 1_795_432_953_123_456_789 + count - 1
    deadline = time.monotonic() + 30
    while True:
        _, found = gate.call("GET", f"/events?agent={uid}&last=1")
        if found["items"] and found["items"][0]["time_ns"] == wanted:
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"not stored: {found}")
        time.sleep(0.02)


def _pushes() -> Row:
    """One request that pushes to every agent, again and again; counted at the agents' ends."""
    rates: list[float] = []
    with gateway() as gate:
        clients = []
        for number in range(PUSH_AGENTS):
            client = Client(HOST, gate.port, prepare(HOST, gate.port, number))
            client.enter(ours=False)
            clients.append(client)
        for _ in range(ROUNDS):
            before = gate.cpu_s()
            for number in range(PUSHED):
                status, answer = gate.call(
                    "POST", "/agents/broadcast", {"channel": "backend.threats", "message": {"n": number}}
                )
                if status != 200 or answer["total_sent"] != PUSH_AGENTS:
                    raise RuntimeError(f"{status} {answer}")
            for client in clients:
                for _ in range(PUSHED):
                    client.read()
            rates.append(PUSHED * PUSH_AGENTS / (gate.cpu_s() - before))
        for client in clients:
            client.close()
    return Row(
        name="gateway_pushes",
        value=median(rates),
        unit="1/s",
        samples=rates,
        note=f"a CPU-second; broadcasts to {PUSH_AGENTS} agents",
    )


def _idle() -> Row:
    """Memory a registered, silent connection takes."""
    costs: list[float] = []
    for _ in range(3):
        with gateway() as gate:
            warm = [Client(HOST, gate.port, prepare(HOST, gate.port, i)) for i in range(50)]
            for client in warm:
                client.enter()
            time.sleep(0.5)
            before = gate.rss_bytes()
            clients = [_entered(gate, prepare(HOST, gate.port, 100 + i)) for i in range(IDLE)]
            time.sleep(1)
            costs.append((gate.rss_bytes() - before) / IDLE / 1024)
            for client in (*warm, *clients):
                client.close()
    return Row(
        name="gateway_connection", value=median(costs), unit="KiB", samples=costs, note=f"{IDLE} connections"
    )
