"""Harvest, expiry and sums: every change told exactly once, every flow ended by its own rule."""

from __future__ import annotations

import struct
import threading

import pytest

from aegis._native.flowtable import FlowTable
from aegis.errors import MapAccessFailed
from aegis.kernel import abi
from aegis.kernel import flows as module
from aegis.kernel.flows import KEYS_A_SWEEP, ROW_BYTES, ROWS_A_SWEEP, FlowReader, IdleRules
from tests.support import packets as p
from tests.support.flows import EGRESS, INGRESS, Table, open_table

pytestmark = pytest.mark.require("root", "bpf")

HERE, THERE = "10.7.0.1", "10.7.0.2"
RULES = IdleRules(
    tcp_established=1000, tcp_opening=200, tcp_ended=50, datagram_established=400, datagram_new=100
)


class Clock:
    """CLOCK_BOOTTIME as the test says."""

    def __init__(self, seconds: int) -> None:
        self.seconds = seconds

    def __call__(self) -> int:
        return self.seconds * 1_000_000_000


def out(protocol: int, carried: bytes) -> bytes:
    return p.ethernet(p.IPV4, p.ipv4(HERE, THERE, protocol, carried))


def back(protocol: int, carried: bytes) -> bytes:
    return p.ethernet(p.IPV4, p.ipv4(THERE, HERE, protocol, carried))


def rotate(table: Table, flows: int, packets: int) -> None:
    """One packet of each of `flows` (a power of two) flows in turn, `packets` in all."""
    table.core.map("probe_rotation").update(bytes(4), struct.pack("=IIII", 0, flows - 1, 1, 0))
    table.core.program("probe_rotate_flow").run(out(p.UDP, p.udp(40001, 53)), repeat=packets)


@pytest.mark.parametrize("flows", [1, 512, KEYS_A_SWEEP, 2 * KEYS_A_SWEEP, 4 * ROWS_A_SWEEP])
def test_changes_are_told_once(flows: int) -> None:
    """With few flows and with more than one sweep can tell; sums of all harvests are the hook's own."""
    with open_table("probe_flow", flows=32_768) as table:
        told = 0
        for packets in (flows, 0, 1, 3 * flows + 1):
            if packets:
                rotate(table, flows, packets)
            rows = table.changed()
            assert len(rows) == min(flows, packets)
            told += sum(row.added_packets_egress for row in rows)
            assert told == table.term("seen")[0]
        assert len(table.reader.everything()) == flows * ROW_BYTES
        assert table.reader.live() == flows
        assert table.reader.totals().balanced()


def test_each_flow_ends_by_its_own_rule() -> None:
    clock = Clock(10_000)
    with open_table(clock=clock) as table:
        table.send(EGRESS, out(p.TCP, p.tcp(1, 80, p.SYN)))  # opening
        table.send(EGRESS, out(p.TCP, p.tcp(2, 80, p.SYN)))  # established
        table.send(INGRESS, back(p.TCP, p.tcp(80, 2, p.SYN | p.ACK)))
        table.send(EGRESS, out(p.TCP, p.tcp(2, 80, p.ACK)))
        table.send(EGRESS, out(p.TCP, p.tcp(3, 80, p.SYN)))  # reset
        table.send(INGRESS, back(p.TCP, p.tcp(80, 3, p.RST | p.ACK)))
        table.send(EGRESS, out(p.TCP, p.tcp(4, 80, p.FIN | p.ACK)))  # closing
        table.send(EGRESS, out(p.UDP, p.udp(5, 53)))  # new
        table.send(EGRESS, out(p.UDP, p.udp(6, 53)))  # established
        table.send(INGRESS, back(p.UDP, p.udp(53, 6)))
        table.send(INGRESS, back(p.TCP, p.tcp(7, 22, p.SYN)))  # half open, as in a flood of forged SYNs
        table.send(EGRESS, out(p.TCP, p.tcp(22, 7, p.SYN | p.ACK)))
        ends = {1: 200, 2: 1000, 3: 50, 4: 50, 5: 100, 6: 400, 22: 200}
        gone: dict[int, int] = {}
        for after in range(0, 1001, 25):
            clock.seconds = 10_000 + after
            rows = FlowTable(64)
            rows.next_harvest()
            rows.ingest(table.reader.reap(RULES), reaped=True)
            gone |= {row.local_port: after for row in rows.rows()}
        assert gone == ends
        assert table.reader.live() == 0
        assert table.reader.totals().balanced()


def test_time_without_an_agent_is_not_idleness() -> None:
    """Nobody set the epoch, so what carries the last one may have gone on until the reader came."""
    clock = Clock(10_000)
    with open_table(clock=clock) as table:
        table.send(EGRESS, out(p.UDP, p.udp(5, 53)))
        clock.seconds = 10_050
        table.reader.advance()
        table.send(EGRESS, out(p.UDP, p.udp(6, 53)))
        clock.seconds = 20_000
        with FlowReader(table.core, clock) as later:
            ended = FlowTable(64)
            for clock.seconds, ports in ((20_000, [5]), (20_099, [5]), (20_100, [5, 6])):
                ended.next_harvest()
                ended.ingest(later.reap(RULES), reaped=True)
                assert sorted(row.local_port for row in ended.rows()) == ports


def test_a_nearly_full_table_ends_unanswered_flows_sooner() -> None:
    clock = Clock(10_000)
    flows = 64
    with open_table(flows=flows, clock=clock) as table:
        table.send(EGRESS, out(p.TCP, p.tcp(9, 80, p.SYN)))
        table.send(INGRESS, back(p.TCP, p.tcp(80, 9, p.SYN | p.ACK)))
        table.send(EGRESS, out(p.TCP, p.tcp(9, 80, p.ACK)))
        for port in range(1, 49):
            table.send(EGRESS, out(p.TCP, p.tcp(40_000 + port, 80, p.SYN)))
        clock.seconds += RULES.tcp_opening // 10
        assert len(table.reader.reap(RULES)) == 48 * ROW_BYTES
        assert table.reader.live() == 1, "the answered one stays"
        assert table.reader.totals().balanced()


def test_packets_that_meet_a_retired_entry() -> None:
    """They are judged and counted by themselves, and the next one after the end begins anew."""
    with open_table() as table:
        packet = out(p.UDP, p.udp(5, 53, bytes(83)))
        table.send(EGRESS, packet, repeat=7)
        assert table.reader.retire(IdleRules(datagram_new=0)) == 1
        table.send(EGRESS, packet, repeat=3)
        assert table.term("retired") == (3, 0, 3 * len(packet), 0)
        assert table.reader.totals().balanced()
        table.reader.wait()
        final = FlowTable(64)
        final.next_harvest()
        final.ingest(table.reader.collect(), reaped=True)
        assert [row.packets_egress for row in final.rows()] == [7]
        assert table.term("reaped") == (7, 0, 7 * len(packet), 0)
        table.send(EGRESS, packet)
        (row,) = table.changed()
        assert (row.packets_egress, row.marks) == (1, abi.enum("aegis_flow_mark")["AEGIS_MARK_EGRESS"])
        assert table.reader.totals().balanced()


def test_an_entry_that_is_already_gone_is_not_counted_again() -> None:
    """Two sweeps at once, so that deletions of each fail: every entry is in the total once."""
    number = 16_384
    with open_table("probe_flow", flows=32_768) as table:
        for turn in range(1, 6):
            rotate(table, number, number)
            assert table.reader.retire(IdleRules(datagram_new=0)) == number
            table.reader.wait()
            start = threading.Barrier(2)

            def collect(start: threading.Barrier = start) -> None:
                start.wait()
                table.reader.collect()

            threads = [threading.Thread(target=collect) for _ in range(2)]
            for each in threads:
                each.start()
            for each in threads:
                each.join()
            assert table.reader.live() == 0
            assert table.term("reaped")[0] == turn * number
        assert table.reader.totals().balanced()


def test_flows_end_where_membarrier_has_no_grace_period(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on hosts with nohz_full: the command is not offered and answers EINVAL."""
    monkeypatch.setattr(module, "_membarrier", lambda command: -1 if command else 0)
    with open_table() as table:
        table.send(EGRESS, out(p.UDP, p.udp(5, 53)))
        assert len(table.reader.reap(IdleRules(datagram_new=0))) == ROW_BYTES
        assert table.reader.live() == 0
        assert table.reader.totals().balanced()


def test_nothing_is_marked_without_a_grace_period(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> None:
        raise MapAccessFailed("create map", "aegis_grace", 1)

    monkeypatch.setattr(module, "_membarrier", lambda command: -1)
    monkeypatch.setattr(module, "_map_of_maps", refused)
    with open_table() as table:
        packet = out(p.UDP, p.udp(5, 53))
        table.send(EGRESS, packet)
        for _ in range(2):
            with pytest.raises(MapAccessFailed):
                table.reader.reap(IdleRules(datagram_new=0))
        table.send(EGRESS, packet)
        (row,) = table.changed()
        assert row.packets_egress == 2
        assert table.term("retired") == (0, 0, 0, 0)
