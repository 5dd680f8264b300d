"""kill -9 of the agent under traffic: the kernel goes on with the committed policy, and the next start adopts it."""

from __future__ import annotations

import signal
import socket
import time
from dataclasses import dataclass, field

import pytest

from tests.support.agent import RunningAgent, running_agent
from tests.support.scale import scaled
from tests.support.world import World

PACKETS_PER_SECOND = 1000
SINK_BYTES = 256 << 20

POLICY = """
apiVersion: aegis/v1
kind: HostNetworkPolicy
metadata: {{name: crash, version: 1}}
spec:
  mode: enforce
  egressDeny:
  - toCIDRSet: [{{cidr: {peer}/32}}]
    toPorts: [{{ports: [{{port: {port}, protocol: UDP}}]}}]
"""


@dataclass
class Sent:
    """Datagrams handed to the kernel without an error, by where they were meant to go."""

    allowed: int = 0
    denied: int = 0
    errors: list[str] = field(default_factory=list)


def send(peer: str, allowed: int, denied: int, seconds: float) -> Sent:
    """1,000 datagrams a second in turn: old and new flow, allowed and denied. A new flow has a socket of its own."""
    sent = Sent()
    started = time.monotonic()
    number = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as old:
        while (now := time.monotonic()) < started + seconds:
            due = started + number / PACKETS_PER_SECOND
            if due > now:
                time.sleep(due - now)
            port = denied if number & 1 else allowed
            try:
                if number & 2:
                    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as new:
                        new.sendto(b"new", (peer, port))
                else:
                    old.sendto(b"old", (peer, port))
            except OSError as error:
                sent.errors.append(str(error))
            else:
                if port == denied:
                    sent.denied += 1
                else:
                    sent.allowed += 1
            number += 1
    return sent


def open_sink(world: World) -> socket.socket:
    sink = world.b.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sink.setsockopt(socket.SOL_SOCKET, 33, SINK_BYTES)  # SO_RCVBUFFORCE: nothing is lost on the judge's side
    sink.bind((world.b.v4, 0))
    sink.setblocking(False)
    return sink


def arrived(sink: socket.socket) -> int:
    count = 0
    try:
        while True:
            sink.recv(16)
            count += 1
    except BlockingIOError:
        return count


def kill(agent: RunningAgent) -> None:
    assert agent.process is not None
    agent.process.send_signal(signal.SIGKILL)
    agent.process.wait(10)
    agent.process = None


@pytest.mark.parametrize("hook", ["tcx", "clsact"])
def test_no_packet_is_unjudged_while_the_agent_is_dead(world: World, hook: str) -> None:
    kills = scaled(3, 97)
    options = f'[kernel]\nhook = "{hook}"\n'
    with (
        running_agent(world, options=options) as agent,
        open_sink(world) as allowed,
        open_sink(world) as denied,
    ):
        ports = allowed.getsockname()[1], denied.getsockname()[1]
        generation = agent.apply(POLICY.format(peer=world.b.v4, port=ports[1]))["generation"]
        before = world.a.statistics()
        seen_before = packets(agent)
        with world.a.start(send, world.b.v4, *ports, 1.2 * kills + 1.0) as sender:
            for _ in range(kills):
                time.sleep(0.3)  # the span under test: traffic with the agent alive,
                kill(agent)
                time.sleep(0.3)  # and with nobody there
                agent.start()
                enforcement = agent.ask("status")[0]["enforcement"]
                assert (enforcement["state"], enforcement["generation"]) == ("enforcing", generation)
            sent = sender.result(60 + 3 * kills)
        after = world.a.statistics()
        assert sent.errors == []
        assert sent.denied > 0
        assert arrived(denied) == 0
        assert arrived(allowed) == sent.allowed
        assert after.tx_packets - before.tx_packets == sent.allowed
        # None unjudged: what the hooks saw in all lives together is what was sent.
        rows = agent.ask_until(
            "counters", lambda found: packets_of(found) - seen_before >= sent.allowed + sent.denied
        )
        assert packets_of(rows) - seen_before == sent.allowed + sent.denied
        assert all(row["balanced"] for row in rows if row["stage"].startswith("packets"))


def packets(agent: RunningAgent) -> int:
    return packets_of(agent.ask("counters"))


def packets_of(rows: list[dict[str, object]]) -> int:
    """Packets the egress hook saw."""
    row = next(row for row in rows if row["stage"] == "packets.egress")
    seen = row["seen"]
    assert isinstance(seen, int)
    return seen
