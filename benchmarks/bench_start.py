"""exec of `aegis-agent` to enforcing: judged by the last datagram that still arrived at the peer."""

from __future__ import annotations

import socket
import time

from aegis.cli.demo.stage import Stage, open_stage
from aegis.host import children
from benchmarks.rows import Row, median

RUNS = 7
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
    with stage.peer.entered():
        sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sink, children.call(_send, stage.peer_v4, 8.0, namespace=stage.edge):
        sink.bind((stage.peer_v4, PORT))
        sink.settimeout(5)
        sink.recv(64)  # the sender is there
        started = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        stage.start_agent()
        last = 0
        sink.settimeout(0.2)
        try:
            while True:
                last = int.from_bytes(sink.recv(64), "big")
        except TimeoutError:
            pass
    stage.stop_agent()
    return (last - started) / 1e9


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
