"""Known workloads: the agent reports exactly what was done, by the count of the one who did it."""

from __future__ import annotations

import ipaddress
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aegis._native.ringbuf import RingReader
from aegis.kernel import abi
from aegis.kernel.maps import Map
from tests.support import testers
from tests.support.agent import RunningAgent, running_agent
from tests.support.kernel_counts import KernelCounts, counting
from tests.support.scale import scaled, seed
from tests.support.world import World

UNIT = f"workload-{os.getpid()}.service"  # other tests may run beside this one
FLOW_COUNTERS = ("packets_sent", "bytes_sent", "packets_received", "bytes_received")


@pytest.fixture
def agent(world: World) -> Iterator[RunningAgent]:
    with running_agent(world) as running:
        yield running


@pytest.fixture
def unit(world: World) -> Path:
    return world.make_cgroup(UNIT)


def is_ours(row: dict[str, Any]) -> bool:
    """Of the workload: other programs called true run beside it, in no unit."""
    return row["unit"] == UNIT and str(row["exe"]).endswith("/true")


@pytest.fixture
def judge(require: Callable[..., None]) -> Iterator[KernelCounts]:
    require("perf")
    with counting() as counts:
        yield counts


def attempted(agent: RunningAgent) -> dict[str, int]:
    """Records the kernel had for the ring so far, by kind; those of the agent itself, which it filters, included."""
    rows = agent.ask("counters")
    return {
        kind: next((row["attempted"] for row in rows if row["stage"] == f"records.{kind}"), 0)
        for kind in ("exec", "exit", "fork")
    }


def offset(agent: RunningAgent, judge: KernelCounts) -> dict[str, int]:
    """The agent's counts less the judge's, both read while nobody in the machine forked, executed or ended.

    What stays the same from one moment to a later one means that both counted the same meanwhile, to the unit. Read
    until two in a row agree: an event may be on its way between the two places where it is counted. `processes` is
    the judge itself: its processes and threads less those of /proc/stat.
    """
    before: dict[str, int] | None = None
    deadline = time.monotonic() + 60
    while True:
        first = judge.read()
        ours = attempted(agent)  # the tool's end of the socket makes a thread
        second = judge.read()
        kinds = ours.keys() & first.keys()
        if all(first[kind] == second[kind] for kind in kinds):
            now = {kind: ours[kind] - first[kind] for kind in kinds}
            now["processes"] = second["threads"] - second["processes"]
            if now == before:
                return now
            before = now
        assert time.monotonic() < deadline, "the machine never paused for as long as the agent's answer takes"


def records(agent: RunningAgent, kind: str) -> dict[str, Any]:
    """The terms of one kind; all 0 before its first record."""
    nothing = dict.fromkeys(("attempted", "submitted", "ring_full", "filtered", "rate_limited", "read"), 0)
    return next((row for row in agent.ask("counters") if row["stage"] == f"records.{kind}"), nothing)


def adds_up(row: dict[str, Any]) -> bool:
    """The identities of a record stage, computed here from the terms."""
    kernel = row["submitted"] + row["ring_full"] + row["filtered"] + row["rate_limited"]
    return row["attempted"] == kernel and row["submitted"] == row["read"]


@pytest.mark.parametrize("count", [1, 997, 20000])
def test_every_exec_is_followed(
    world: World, agent: RunningAgent, unit: Path, tester: Path, judge: KernelCounts, count: int
) -> None:
    apart, before = offset(agent, judge), judge.read()
    with agent.following("exit") as follower:
        done = world.a.command(tester, "exec", str(count), "/bin/true", cgroup=unit)
        outcome = testers.parse(done.stdout)
        execs = follower.wait(lambda row: row["type"] == "exec" and is_ours(row), count, 60)
        exits = follower.wait(lambda row: row["type"] == "exit" and is_ours(row), count, 60)
    assert outcome.done == count
    assert offset(agent, judge) == apart
    assert all(
        judge.read()[kind] - before[kind] >= count for kind in before
    )  # the judge saw the workload too
    assert len(execs) == count
    assert len({(row["pid"], row["start_ns"]) for row in execs}) == count
    assert len(exits) == count
    assert all(row["args"] == ["/bin/true"] and row["args_truncated"] is False for row in execs)
    assert records(agent, "exec")["ring_full"] == 0
    assert [row for row in follower.rows if row["type"] == "loss"] == []


def test_a_stopped_reader_loses_counted_records_only(
    world: World, unit: Path, tester: Path, judge: KernelCounts
) -> None:
    """Above the ring's room nothing is lost uncounted: attempted is the kernel's own count of the events."""
    count = scaled(2003, 20011)
    with running_agent(world, options="[kernel]\nring_bytes = 65536\n") as agent:
        before, apart = records(agent, "exec"), offset(agent, judge)
        assert agent.process is not None
        agent.process.send_signal(signal.SIGSTOP)
        try:
            done = world.a.command(tester, "exec", str(count), "/bin/true", cgroup=unit)
        finally:
            agent.process.send_signal(signal.SIGCONT)
        rows = agent.ask_until(
            "counters", lambda found: adds_up(next(row for row in found if row["stage"] == "records.exec"))
        )
        after = next(row for row in rows if row["stage"] == "records.exec")
        assert offset(agent, judge) == apart
        losses = agent.ask_until("events", bool, types=["loss"], last=10000)
    assert testers.parse(done.stdout).done == count
    assert adds_up(after)
    assert after["balanced"] is True
    assert after["attempted"] - before["attempted"] >= count
    assert after["ring_full"] - before["ring_full"] > 0
    assert losses


def test_a_planted_drop_of_one_record_unbalances(world: World, unit: Path, tester: Path) -> None:
    with running_agent(world) as agent:
        assert adds_up(records(agent, "exec"))
        assert agent.process is not None
        agent.process.send_signal(signal.SIGSTOP)
        try:
            world.a.command(tester, "exec", "1", "/bin/true", cgroup=unit)
            stolen = steal_one(agent)
        finally:
            agent.process.send_signal(signal.SIGCONT)
        assert stolen == 1
        rows = agent.ask("counters")
    assert not all(row["balanced"] for row in rows if row["stage"].startswith("records."))
    assert not all(adds_up(row) for row in rows if row["stage"].startswith("records."))


def steal_one(agent: RunningAgent) -> int:
    """Take one record out of the agent's pinned ring, as a broken reader would; how many were taken."""
    ring = next(agent.pins.glob("**/aegis_ring"))
    counts = bytearray(
        abi.struct("aegis_reader").size
    )  # a place of its own: the agent's counts stay as they are
    opened = Map.from_pin(ring)
    reader = RingReader(opened.fd, counts)
    try:
        return len(reader.drain(1))
    finally:
        reader.close()
        opened.close()


def interface_delta(before: Any, after: Any) -> dict[str, int]:
    return {
        "packets_sent": after.tx_packets - before.tx_packets,
        "bytes_sent": after.tx_bytes - before.tx_bytes,
        "packets_received": after.rx_packets - before.rx_packets,
        "bytes_received": after.rx_bytes - before.rx_bytes,
    }


def test_packets_and_bytes_are_the_interfaces_own(world: World, agent: RunningAgent, unit: Path) -> None:
    """TCP, UDP and ICMP over v4 and v6: the flows' sums are the statistics of the interface, to the unit."""
    draw = random.Random(seed())
    before = world.a.statistics()
    expected = {"tcp": 0, "udp": 0, "icmp": 0, "icmpv6": 0}
    for here, there in ((world.a.v4, world.b.v4), (world.a.v6, world.b.v6)):
        connections, datagrams, echoes = (draw.randrange(11, 200) for _ in range(3))
        with testers.tcp_server(world.b, there) as port:
            payload = draw.randbytes(draw.randrange(1, 50000))
            outcome = world.a.run(testers.tcp_connects, there, port, connections, payload, cgroup=unit)
            assert outcome.done == connections
        with world.b.socket(world_family(there), 2) as sink:
            sink.bind((there, 0))
            size = draw.randrange(1, 1400)
            outcome = world.a.run(
                testers.udp_datagrams, here, there, sink.getsockname()[1], datagrams, size, cgroup=unit
            )
            assert outcome.done == datagrams
        outcome = world.a.run(testers.icmp_echoes, here, there, echoes, draw.randrange(1, 1000), cgroup=unit)
        assert outcome.done == echoes
        expected["tcp"] += connections
        expected["udp"] += 1
        expected["icmpv6" if ":" in here else "icmp"] += 1
    judged = interface_delta(before, world.a.statistics())
    rows = agent.ask_until(
        "flows", lambda found: sum(row["packets_sent"] for row in found) >= judged["packets_sent"]
    )
    assert {name: sum(row[name] for row in rows) for name in FLOW_COUNTERS} == judged, f"seed {seed()}"
    assert {name: sum(row["protocol"] == name for row in rows) for name in expected} == expected
    assert {row["unit"] for row in rows} == {UNIT}
    assert {row["direction"] for row in rows} == {"egress"}
    packets = [row for row in agent.ask("counters") if row["stage"].startswith("packets")]
    assert packets
    assert all(row["balanced"] for row in packets)


def world_family(address: str) -> int:
    return 10 if ":" in address else 2


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_connections_of_both_sides(world: World, agent: RunningAgent, unit: Path, family: str) -> None:
    """Out of the host: connect events; into it: accept events with the server's owner. N of each, N prime."""
    count = 211
    here, there = (str(ipaddress.ip_address(getattr(place, family))) for place in (world.a, world.b))
    with agent.following("connect", "accept", "listen") as follower:
        with testers.tcp_server(world.b, there) as port:
            assert world.a.run(testers.tcp_connects, there, port, count, b"x", cgroup=unit).done == count
            out = follower.wait(lambda row: row["type"] == "connect" and row["dst_port"] == port, count)
        with testers.tcp_server(world.a, here, cgroup=unit) as port_in:
            assert world.b.run(testers.tcp_connects, here, port_in, count, b"x").done == count
            into = follower.wait(lambda row: row["type"] == "accept" and row["dst_port"] == port_in, count)
    assert len(out) == count
    assert {(row["unit"], row["dst"], row["protocol"]) for row in out} == {(UNIT, there, "tcp")}
    assert len({row["src_port"] for row in out}) == count
    assert len(into) == count
    assert {row["dst"] for row in into} == {here}
    rows = agent.ask_until(
        "flows", lambda found: sum(row["direction"] == "ingress" for row in found) >= count
    )
    assert sum(row["direction"] == "ingress" and row["dst_port"] == port_in for row in rows) == count
