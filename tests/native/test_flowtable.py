"""The flow table's borders; what it answers is held against a model in tests/property/test_flowtable.py."""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any

import pytest

from aegis._native.flowtable import FlowRow, FlowTable
from aegis.kernel import abi
from tests.support.judged import FIELDS, packed

LOCAL = bytes(range(16))
REMOTE = bytes(range(100, 116))


def row(number: int = 0, packets: int = 0, octets: int = 0, *, first_ns: int = 1, **value: Any) -> bytes:
    """A struct aegis_flow_row: flow NUMBER with as many packets and bytes out, and one packet of 40 bytes in."""
    key = {"local": LOCAL, "remote": number.to_bytes(16, "big"), "protocol": 6}
    counted = {"packets": [packets, 1], "bytes": [octets, 40], "first_ns": first_ns}
    return abi.pack("aegis_flow_row", key=key, value=packed(counted | value))


def test_each_field_stands_where_the_header_has_it() -> None:
    table = FlowTable(7)
    table.next_harvest()
    given = abi.pack(
        "aegis_flow_row",
        key={
            "local": LOCAL,
            "remote": REMOTE,
            "local_port": 2,
            "remote_port": 65_521,
            "ifindex": 3,
            "vlan_outer": 5,
            "vlan_inner": 7,
            "protocol": 17,
            "fragment": 1,
        },
        value=packed(
            {
                "packets": [11, 13],
                "bytes": [2**64 - 1, 17],
                "generation": 19,
                "rule": abi.MAX_RULES,
                "verdict": abi.VERDICT_AUDIT,
                "initiator": abi.INGRESS,
                "epoch": 23,
                "tcp_flags": [0x12, 0x10],
                "state": abi.FLOW_CLOSED,
                "marks": 6,
                "owner": 2**64 - 59,
                "cookie": 29,
                "first_ns": 31,
                "dropped_packets": 37,
                "extra_segments": 41,
                "harvested": 43,
            }
        ),
    )
    assert table.ingest(given) == 1
    expected = FlowRow(
        local=LOCAL,
        remote=REMOTE,
        local_port=2,
        remote_port=65_521,
        ifindex=3,
        vlan_outer=5,
        vlan_inner=7,
        protocol=17,
        fragment=1,
        packets_egress=11,
        packets_ingress=13,
        bytes_egress=2**64 - 1,
        bytes_ingress=17,
        generation=19,
        rule=abi.MAX_RULES,
        verdict=abi.VERDICT_AUDIT,
        initiator=abi.INGRESS,
        epoch=23,
        tcp_flags_egress=0x12,
        tcp_flags_ingress=0x10,
        state=abi.FLOW_CLOSED,
        marks=6,
        owner=2**64 - 59,
        cookie=29,
        first_ns=31,
        dropped_packets=37,
        extra_segments=41,
        added_packets_egress=11,
        added_packets_ingress=13,
        added_bytes_egress=2**64 - 1,
        added_bytes_ingress=17,
        reaped=False,
    )
    (found,) = table.rows()
    assert found == expected
    assert isinstance(found, FlowRow)


def test_the_order_of_fields_is_the_headers() -> None:
    def names(struct: str, skipped: set[str]) -> list[str]:
        return [name for name in abi.struct(struct).offsets if name not in skipped]

    pairs = {"packets", "bytes", "tcp_flags"}
    wanted = names("aegis_flow_key", {"pad"})
    for name in names("aegis_flow_value", {"harvested"}):
        if name == "judged":
            wanted += FIELDS
        else:
            wanted += [f"{name}_egress", f"{name}_ingress"] if name in pairs else [name]
    assert list(FlowRow._fields[: len(wanted)]) == wanted


def test_a_verdict_that_changes_without_a_packet_is_news_and_the_sweeps_mark_is_none() -> None:
    table = FlowTable(7)
    table.next_harvest()
    assert table.ingest(row(1, 5, 500)) == 1
    table.next_harvest()
    assert table.ingest(row(1, 5, 500, harvested=999)) == 0
    assert table.rows(changed=True) == []
    assert table.ingest(row(1, 5, 500, verdict=abi.VERDICT_DENY)) == 1
    (found,) = table.rows(changed=True)
    assert (found.verdict, found.added_packets_egress, found.added_bytes_ingress) == (2, 0, 0)


def test_ports_used_again_are_another_flow() -> None:
    table = FlowTable(7)
    table.next_harvest()
    table.ingest(row(1, 100, 9000, first_ns=11))
    table.ingest(row(1, 101, 9100, first_ns=11), reaped=True)
    table.ingest(row(1, 3, 300, first_ns=97))
    alive, gone = table.rows()
    assert (alive.first_ns, alive.packets_egress, alive.reaped) == (97, 3, False)
    assert (gone.first_ns, gone.packets_egress, gone.reaped) == (11, 101, True)
    assert table.totals() == (104, 2, 9400, 80)
    assert table.forget(1) == 0
    table.next_harvest()
    assert table.forget(1) == 1
    assert [each.first_ns for each in table.rows()] == [97]
    assert table.totals() == (104, 2, 9400, 80)


def test_room_is_made_from_the_reaped_then_from_the_longest_unchanged() -> None:
    table = FlowTable(3)
    table.next_harvest()
    table.ingest(b"".join(row(n, n) for n in (1, 2, 3)))
    table.ingest(row(2, 22), reaped=True)
    table.ingest(row(4, 4))
    assert (table.evicted, table.evicted_live) == (1, 0)
    table.ingest(row(1, 10))
    table.ingest(row(5, 5))
    assert (table.evicted, table.evicted_live) == (1, 1)
    assert [each.packets_egress for each in table.rows()] == [5, 10, 4]
    assert len(table) == 3


def test_top_ranks_by_what_the_harvest_added() -> None:
    table = FlowTable(101)
    table.next_harvest()
    table.ingest(b"".join(row(n, n, 1000 * (50 - n)) for n in range(1, 48)))
    assert [each.packets_egress for each in table.top(3)] == [1, 2, 3]
    assert [each.packets_egress for each in table.top(3, by="packets")] == [47, 46, 45]
    table.next_harvest()
    assert table.top(3) == []
    table.ingest(row(31, 32, 1000 * 19 + 7))
    assert [each.added_bytes_egress for each in table.top(3)] == [7]
    assert table.top(0) == table.top(-1) == []
    with pytest.raises(ValueError, match="ranked"):
        table.top(3, by="age")  # type: ignore[arg-type]


def test_what_is_no_row_is_refused_whole() -> None:
    table = FlowTable(7)
    with pytest.raises(ValueError, match="next_harvest"):
        table.ingest(row(1))
    table.next_harvest()
    with pytest.raises(ValueError, match="no whole number"):
        table.ingest(row(1) + row(2)[:-1])
    assert len(table) == 0
    assert table.ingest(b"") == 0
    with pytest.raises(TypeError):
        table.ingest("text")  # type: ignore[arg-type]


def test_rows_may_lie_anywhere_in_memory() -> None:
    table = FlowTable(7)
    table.next_harvest()
    for shift in range(1, 9):
        table.ingest(memoryview(b"\xff" * shift + row(1, shift))[shift:])
    assert [each.packets_egress for each in table.rows()] == [8]


@pytest.mark.parametrize("capacity", [0, -3, 1 << 25])
def test_a_capacity_has_bounds(capacity: int) -> None:
    with pytest.raises(ValueError, match="capacity"):
        FlowTable(capacity)


def test_a_full_table_is_turned_over_without_leaving_memory() -> None:
    table = FlowTable(997)
    table.next_harvest()

    def turn_over(start: int) -> None:
        for batch in range(start, start + 20_000, 500):
            table.next_harvest()
            table.ingest(b"".join(row(n, 1) for n in range(batch, batch + 500)))
            table.rows(changed=True)

    turn_over(0)
    gc.collect()
    tracemalloc.start()
    try:
        turn_over(20_000)
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        turn_over(40_000)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 4000
    assert table.evicted_live == 60_000 - 997
    assert len(table) == 997


def numbers(rows: list[FlowRow]) -> list[int]:
    return [int.from_bytes(each.remote, "big") for each in rows]


def test_a_snapshot_is_of_its_instant_and_read_in_parts() -> None:
    table = FlowTable(1000)
    table.next_harvest()
    table.ingest(b"".join(row(number, 1, owner=number // 2) for number in range(600)))
    table.ingest(row(7, 2), reaped=True)
    before = table.rows()
    snapshot = table.snapshot()
    table.next_harvest()
    table.ingest(b"".join(row(number, 9) for number in range(900)))
    assert len(snapshot) == 600
    parts = [snapshot.part(start, 250) for start in range(0, 1000, 250)]
    assert [len(part) for part in parts] == [250, 250, 100, 0]
    assert [each for part in parts for each in part] == before
    assert snapshot.part(-5, 1) == before[:1]
    assert snapshot.part(0, -1) == []
    assert FlowTable(1).snapshot().part(0, 5) == []


def test_a_snapshot_of_the_last_has_those_seen_latest() -> None:
    table = FlowTable(100)
    table.next_harvest()
    table.ingest(
        row(1, epoch=50) + row(2, first_ns=51_500_000_000, epoch=51) + row(3, epoch=51) + row(4, epoch=9)
    )
    table.ingest(row(5, epoch=52), reaped=True)
    assert numbers(table.snapshot(3).part(0, 9)) == [5, 2, 3]
    assert numbers(table.snapshot(10**30).part(0, 9)) == [5, 2, 3, 1, 4]
    assert len(table.snapshot(0)) == len(table.snapshot(-1)) == 0


def test_owners_of_all_rows() -> None:
    table = FlowTable(100)
    assert table.owners() == set()
    table.next_harvest()
    table.ingest(row(1, owner=5) + row(2, owner=2**64 - 1) + row(3, owner=5))
    table.ingest(row(4, owner=6), reaped=True)
    assert table.owners() == {5, 6, 2**64 - 1}
