"""What it costs a host to have its events delivered: agent and gateway on one machine, the gateway's share taken off.

Delivered means acknowledged by the gateway after its store committed, as the agent's own counters say, and found there.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aegis.cli.demo.stage import Stage, open_stage
from aegis.host import children
from benchmarks import bench_exec
from benchmarks.rows import Row, median, quantile

TCPLIFE = "/usr/sbin/tcplife"
PER_SECOND = 1_000
SECONDS = 4
ROUNDS = 5
CONNECTION_ROUNDS = 9  # one round differs from the next by as much as is measured
SETTLE_S = 2.0
LATENCY_EVENTS = 200


def run() -> list[Row]:
    """Execs, connections, the agent's own processor time an event, and the way to a query's answer."""
    for program in (bench_exec.EXECSNOOP, TCPLIFE):
        if not Path(program).exists():
            raise RuntimeError(f"{program} is missing: apt-get install libbpf-tools")
    with tempfile.TemporaryDirectory() as directory, open_stage() as stage:
        stage.start_gateway()
        workload = bench_exec._compile(Path(directory))  # noqa: SLF001  the same workload as without delivery
        output = Path(directory) / "peer.txt"
        return [
            *_execs(stage, workload, output),
            _connections(stage, output),
            *_latency(stage),
        ]


@contextmanager
def _delivering(stage: Stage) -> Iterator[Callable[[], dict[str, int]]]:
    """The agent with a live session; gives records acknowledged so far, by class."""
    stage.start_agent()
    try:
        deadline = time.monotonic() + 20
        while stage.ask("status")[0]["gateway"]["state"] != "connected":
            if time.monotonic() > deadline:
                raise RuntimeError(f"the agent did not connect: {stage.ask('status')[0]['gateway']}")
            time.sleep(0.05)
        time.sleep(SETTLE_S)
        yield lambda: {
            row["stage"]: row["acknowledged"]
            for row in stage.ask("counters")
            if row["stage"].startswith("outbox.")
        }
    finally:
        stage.stop_agent()


def _cpu_s(pid: int) -> float:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def _pid(stage: Stage) -> int:
    assert stage.agent is not None
    return stage.agent.pid


def _gateway_pid(stage: Stage) -> int:
    assert stage.center is not None
    assert stage.center.pid is not None
    return stage.center.pid


def _cost(stage: Stage, work: Callable[[], None], count: int, *, gateway: bool) -> float:
    """Processor time of the machine without the gateway's, microseconds a piece of work."""
    before, theirs = bench_exec._busy_s(), _cpu_s(_gateway_pid(stage))  # noqa: SLF001
    work()
    if gateway:
        time.sleep(0.3)  # what was collected for a block is sent
    spent = bench_exec._busy_s() - before - (_cpu_s(_gateway_pid(stage)) - theirs)  # noqa: SLF001
    return 1e6 * spent / count


def _execs(stage: Stage, workload: list[str], output: Path) -> list[Row]:
    count = PER_SECOND * SECONDS
    ours: list[float] = []
    theirs: list[float] = []
    idle: list[float] = []
    agent: list[float] = []

    def work() -> None:
        subprocess.run(workload, check=True)

    for _ in range(ROUNDS):
        idle.append(nothing := _cost(stage, work, count, gateway=True))
        with _delivering(stage) as acknowledged:
            before, cpu = acknowledged(), _cpu_s(_pid(stage))
            ours.append(_cost(stage, work, count, gateway=True) - nothing)
            spent = _cpu_s(_pid(stage)) - cpu
            delivered = _arrived(acknowledged, before, "outbox.event", 2 * count)  # an exec and an exit each
            agent.append(1e6 * spent / delivered)
        with _snoop([*bench_exec.WITH_TRACEFS, bench_exec.EXECSNOOP], output):
            theirs.append(_cost(stage, work, count, gateway=True) - nothing)
        if output.read_bytes().count(b"\nnothing ") < count:
            raise RuntimeError("execsnoop lost execs")
    value, peer = median(ours), median(theirs)
    note = f"{ROUNDS} rounds of {SECONDS} s at {PER_SECOND:,}/s; samples: the agent's, the peer's, and with nothing"
    return [
        Row(
            name="exec_delivered",
            value=value,
            unit="us",
            peer=peer,
            ratio=value / peer,
            samples=[*ours, *theirs, *idle],
            note=note,
        ),
        Row(
            name="event_path_cpu",
            value=median(agent),
            unit="us",
            samples=agent,
            note="the agent process's own time an event delivered and acknowledged, 2,000 events/s",
        ),
    ]


def _arrived(
    acknowledged: Callable[[], dict[str, int]], before: dict[str, int], stage: str, least: int
) -> int:
    """Records of a class acknowledged since `before`, once they are as many as happened."""
    deadline = time.monotonic() + 10
    while True:
        found = acknowledged()[stage] - before.get(stage, 0)
        if found >= least:
            return found
        if time.monotonic() > deadline:
            raise RuntimeError(f"{found} of {least} records of {stage} were acknowledged")
        time.sleep(0.1)


@contextmanager
def _snoop(command: list[str], output: Path) -> Iterator[None]:
    """A peer tool writing to a file."""
    with output.open("wb") as lines, subprocess.Popen(command, stdout=lines) as snoop:
        try:
            time.sleep(1.5)
            yield
            time.sleep(0.5)
        finally:
            snoop.send_signal(signal.SIGINT)


def _connections(stage: Stage, output: Path) -> Row:
    """TCP connections of a few bytes from the edge to its peer: connect, accept and flow records."""
    count = PER_SECOND * SECONDS
    ours: list[float] = []
    theirs: list[float] = []
    idle: list[float] = []
    _connections_once(stage, count)
    for _ in range(CONNECTION_ROUNDS):
        idle.append(nothing := _cost(stage, lambda: _connections_once(stage, count), count, gateway=True))
        with _delivering(stage) as acknowledged:
            before = acknowledged()
            cost = _cost(stage, lambda: _connections_once(stage, count), count, gateway=True)
            ours.append(cost - nothing)
            _arrived(acknowledged, before, "outbox.event", 2 * count)
        with _snoop([*bench_exec.WITH_TRACEFS, TCPLIFE], output):
            cost = _cost(stage, lambda: _connections_once(stage, count), count, gateway=True)
            theirs.append(cost - nothing)
        if output.read_bytes().count(stage.peer_v4.encode()) < count:
            raise RuntimeError("tcplife lost connections")
    value, peer = median(ours), median(theirs)
    return Row(
        name="connection_delivered",
        value=value,
        unit="us",
        peer=peer,
        ratio=value / peer,
        samples=[*ours, *theirs, *idle],
        note=f"{CONNECTION_ROUNDS} rounds of {SECONDS} s at {PER_SECOND:,}/s; samples: the agent's, tcplife's, and with nothing",
    )


def _connections_once(stage: Stage, count: int) -> None:
    """To a port of their own: of one port so many rounds would exhaust the client's ports, which is slow to find out."""
    with stage.peer.entered():
        listener = socket.create_server((stage.peer_v4, 0), backlog=4096)
    port = listener.getsockname()[1]
    with listener, children.call(_serve, listener, namespace=stage.peer) as server:
        with children.call(_connect, stage.peer_v4, port, count, namespace=stage.edge) as client:
            done = client.result(SECONDS * 10)
        server.signal(signal.SIGKILL)
    if done != count:
        raise RuntimeError(f"{done} of {count} connections")


def _serve(listener: socket.socket) -> None:
    listener.settimeout(None)
    while True:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(64)
            connection.sendall(b"x" * 100)


def _connect(address: str, port: int, count: int) -> int:
    started = time.monotonic()
    done = 0
    for number in range(count):
        if (left := started + number / PER_SECOND - time.monotonic()) > 0:
            time.sleep(left)
        with socket.create_connection((address, port), timeout=5) as client:
            client.sendall(b"y" * 50)
            done += bool(client.recv(200))
    return done


def _latency(stage: Stage) -> list[Row]:
    """From the record's own time stamp to the answer of a query that has it, on an otherwise idle host.

    The query is a follower's, asked before the event over a connection that is kept; beside it what a plain one costs.
    """
    runs: list[list[float]] = []
    plain: list[float] = []
    center = stage.center
    assert center is not None
    with _delivering(stage), contextlib.closing(center.connect()) as connection:
        uid = stage.ask("status")[0]["agent"]["uid"]
        ask = _Asker(connection, center.headers(), f"/events?agent={uid}&type=exec")
        place: str = ask("&after=now")["next"]
        for number in range(3):
            delays = []
            for event in range(LATENCY_EVENTS):
                delay, place = _one(ask, place, f"mark-{number}-{event}-{os.getpid()}")
                delays.append(delay)
                time.sleep(0.03)
                began = time.perf_counter()
                ask("&last=20")
                plain.append(1e3 * (time.perf_counter() - began))
            runs.append(delays)
    synced = _synced(stage.directory)
    middle = [median(each) for each in runs]
    tail = [quantile(each, 0.99) for each in runs]
    note = (
        f"3 runs of {LATENCY_EVENTS} programs, one after the other, to a follower; a plain query of the last 20 takes "
        f"{median(plain):.2f} ms, one fsync of 8 KiB on this disk {median(synced):.2f} (p99 {quantile(synced, 0.99):.1f})"
    )
    return [
        Row(name="store_p50", value=median(middle), unit="ms", samples=middle, note=note),
        Row(name="store_p99", value=median(tail), unit="ms", samples=tail, note=note),
    ]


class _Asker:
    """GETs of the Actions API that begin alike, over one connection."""

    def __init__(self, connection: http.client.HTTPConnection, headers: dict[str, str], path: str) -> None:
        self._connection = connection
        self._headers = headers
        self._path = path
        self.came_ns = 0  # when the last answer was there, wall clock

    def begin(self, more: str) -> None:
        self._connection.request("GET", self._path + more, headers=self._headers)

    def end(self) -> Any:
        with self._connection.getresponse() as answer:
            text = answer.read()
            self.came_ns = time.time_ns()
        if answer.status != http.HTTPStatus.OK:
            raise RuntimeError(f"the gateway answered {answer.status}: {text[:400]!r}")
        return json.loads(text)

    def __call__(self, more: str) -> Any:
        self.begin(more)
        return self.end()


def _one(ask: _Asker, place: str, mark: str) -> tuple[float, str]:
    """Start one program for a follower that waits; milliseconds from its exec to the answer that has it, and its place."""
    ask.begin(f"&after={place}&wait=5s")
    time.sleep(0.06)
    pid = os.posix_spawn("/bin/true", ["/bin/true", mark], {})
    deadline = time.monotonic() + 5
    while True:
        found = ask.end()
        place = found["next"]
        for item in found["items"]:
            if item["args"] and mark in item["args"]:
                os.waitpid(pid, 0)
                return (ask.came_ns - item["time_ns"]) / 1e6, place
        if time.monotonic() > deadline:
            raise RuntimeError(f"{mark} was not found: {json.dumps(found)[:400]}")
        ask.begin(f"&after={place}&wait=5s")


def _synced(directory: Path) -> list[float]:
    """Milliseconds to write and sync a page of the store, on its disk."""
    taken = []
    with (directory / "synced").open("wb", buffering=0) as file:
        for _ in range(200):
            began = time.perf_counter()
            file.write(bytes(8192))
            os.fdatasync(file.fileno())
            taken.append(1e3 * (time.perf_counter() - began))
            time.sleep(0.005)
    return taken
