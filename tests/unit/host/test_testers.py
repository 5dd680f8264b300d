"""The testers themselves do exactly what they say, judged by the interface's own statistics and /proc/stat."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.support import testers
from tests.support.world import World

pytestmark = pytest.mark.require("root")


def forks() -> int:
    (line,) = (line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("processes "))
    return int(line.split()[1])


def test_execs_are_counted(world: World) -> None:
    before = forks()
    outcome = world.a.run(testers.execs, 17)
    assert (outcome.done, outcome.failed, len(set(outcome.pids))) == (17, 0, 17)
    assert forks() - before >= 18  # those and the child that made them


def test_an_exec_of_nothing_says_why(world: World) -> None:
    outcome = testers.execs(3, "/nonexistent/program")
    assert (outcome.done, outcome.only_error()) == (0, "ENOENT")


@pytest.mark.parametrize("family", [4, 6])
def test_connects_to_a_server_and_to_nobody(world: World, family: int) -> None:
    address = world.a.v4 if family == 4 else world.a.v6
    with testers.tcp_server(world.a, address) as port:
        outcome = world.b.run(testers.tcp_connects, address, port, 13, b"x" * 7)
        assert (outcome.done, outcome.failed, len(set(outcome.ports))) == (13, 0, 13)
    refused = world.b.run(testers.tcp_connects, address, port, 5)
    assert (refused.done, refused.only_error(), refused.failed) == (0, "ECONNREFUSED", 5)


@pytest.mark.parametrize("family", [4, 6])
def test_datagrams_and_echoes_are_what_the_interface_counted(world: World, family: int) -> None:
    source, target = (world.b.v4, world.a.v4) if family == 4 else (world.b.v6, world.a.v6)
    header = 20 if family == 4 else 40
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    before = world.a.statistics()
    with world.a.socket(kind, socket.SOCK_DGRAM) as receiver:
        receiver.bind((target, 0))
        port = receiver.getsockname()[1]
        sent = world.b.run(testers.udp_datagrams, source, target, port, 31, 199)
    after = world.a.statistics()
    assert (sent.done, sent.failed) == (31, 0)
    assert after.rx_packets - before.rx_packets == 31
    assert after.rx_bytes - before.rx_bytes == 31 * (14 + header + 8 + 199)
    assert after.tx_packets == before.tx_packets
    echoed = world.b.run(testers.icmp_echoes, source, target, 11, 53)
    assert (echoed.done, echoed.packets_sent, echoed.packets_received) == (11, 11, 11)
    last = world.a.statistics()
    assert last.rx_packets - after.rx_packets == last.tx_packets - after.tx_packets == 11
    assert last.rx_bytes - after.rx_bytes == 11 * (14 + header + 8 + 53)


def test_the_program_in_c_counts_the_same(world: World, tester: Path) -> None:
    before = world.b.statistics()
    outcome = testers.parse(world.b.command(tester, "udp-each", "7", "61", world.a.v4, "9").stdout)
    after = world.b.statistics()
    assert (outcome.done, outcome.bytes_sent, len(set(outcome.pids))) == (7, 7 * 61, 7)
    assert after.tx_packets - before.tx_packets == 7
    assert after.tx_bytes - before.tx_bytes == 7 * (14 + 20 + 8 + 61)
    refused = testers.parse(world.b.command(tester, "connect", "3", world.a.v6, "1").stdout)
    assert (refused.done, refused.only_error()) == (0, "ECONNREFUSED")
    started = testers.parse(world.b.command(tester, "exec", "19", "/bin/true").stdout)
    assert (started.done, len(started.pids)) == (19, 19)
