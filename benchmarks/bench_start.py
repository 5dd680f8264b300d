"""exec of `aegis-agent` to enforcing: judged by the last datagram that still arrived at the peer."""

from __future__ import annotations

import os
import socket
import sysconfig
import time

from aegis.cli.demo.stage import Stage, open_stage
from aegis.host import children
from benchmarks.rows import Row, median

RUNS = 7
SENDING_S = 6.0
INSTALLED = f"{sysconfig.get_path('scripts')}/aegis-agent"
PORT = 9999
POLICY = """
apiVersion: aegis/v1
kind: HostNetworkPolicy
metadata: {{name: start, version: 1}}
spec:
  mode: enforce
  egressDeny:
  - toCIDRSet: [{{cidr: {peer}/32}}]
    toPorts: [{{ports: [{{port: {port}, protocol: UDP}}]}}]
"""


def run() -> list[Row]:
    """A committed policy lies in the state directory; the first start, which is cold, is not counted."""
    with open_stage() as stage:
        stage.start_agent()
        stage.ask("policy.apply", {"document": POLICY.format(peer=stage.peer_v4, port=PORT)})
        stage.stop_agent()
        samples = [_once(stage) for _ in range(RUNS)]
    return [
        Row(
            name="start_enforcing",
            value=median(samples),
            unit="s",
            samples=samples,
            note="until the last datagram a sender got through, one every 0.5 ms",
        )
    ]


def _once(stage: Stage) -> float:
    reading, writing = os.pipe()
    receiver = children.call(_receive, stage.peer_v4, writing, namespace=stage.peer)
    with (
        receiver,
        children.call(_send, stage.peer_v4, SENDING_S, namespace=stage.edge),
        os.fdopen(reading, "rb") as here,
    ):
        os.close(writing)
        here.read(1)  # the first datagram has arrived
        started = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        stage.start_agent(INSTALLED)
        found: tuple[int, int] = receiver.result(30)
    last, count = found
    stage.stop_agent()
    if last <= started or last >= started + (SENDING_S - 1) * 1e9:
        raise RuntimeError(
            f"the last of {count} datagrams was sent {(last - started) / 1e9:.3f} s after the start"
        )
    return (last - started) / 1e9


def _receive(peer: str, ready: int) -> tuple[int, int]:
    """Take datagrams until none came for a second: when the last one was sent, and how many there were."""
    last = count = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.bind((peer, PORT))
        sink.settimeout(5)
        try:
            while True:
                last = int.from_bytes(sink.recv(64), "big")
                count += 1
                if count == 1:
                    os.write(ready, b"1")
                    sink.settimeout(1)
        except TimeoutError:
            return last, count


def _send(peer: str, seconds: float) -> None:
    """Datagrams that carry the instant they were sent at, as fast as twice a millisecond."""
    deadline = time.monotonic() + seconds
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        while time.monotonic() < deadline:
            try:
                sender.sendto(time.clock_gettime_ns(time.CLOCK_MONOTONIC).to_bytes(8, "big"), (peer, PORT))
            except PermissionError:
                # A packet program's drop is reported to an unconnected sender as ENOBUFS or EPERM on some paths.
                continue
            except OSError as error:
                if error.errno != 105:
                    raise
            time.sleep(0.0005)
