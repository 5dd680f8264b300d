"""One class of blocks: lanes, spans of rows, losses that wait for a block."""

from __future__ import annotations

import pytest

from aegis.agent.outbox.changes import Fetched, Totals
from aegis.agent.outbox.shelf import MOST_LOSSES, Entry, Flight, Lane, Shelf
from aegis.model.block import Block, BlockClass

EVENT = BlockClass.EVENT


def block(seq: int, losses: tuple[tuple[str, str, str, int], ...] = ()) -> Block:
    return Block(
        cls=EVENT,
        stream=1,
        first=10 * seq,
        count=10,
        boot_id=bytes(16),
        base_ns=0,
        records=b"r",
        losses=losses,
    )


def entry(seq: int, *, acknowledged: bool = False) -> Entry:
    made = Entry(seq, block(seq), 100, 0)
    made.acknowledged = acknowledged
    return made


def shelf(*entries: Entry, rows: int = 0) -> Shelf:
    made = Shelf(EVENT)
    made.memory = {one.seq: one for one in entries}
    made.disk, made.disk_high = Totals(rows, 10 * rows, 100 * rows), rows
    made.next_seq = rows + len(entries) + 1
    return made


def test_losses_of_one_kind_are_one_and_each_is_told_once() -> None:
    one = shelf()
    one.lose("evicted", 3)
    one.lose("evicted", 4)
    one.lose("corrupt", 0)
    one.add_losses({("ring", "exec", "ring_full"): 1})
    assert one.tell() == (("outbox", "event", "evicted", 7), ("ring", "exec", "ring_full", 1))
    assert one.tell() == ()


def test_a_block_tells_of_so_many_losses_and_no_more() -> None:
    one = shelf()
    one.add_losses({("s", "k", f"{number:03}"): number for number in range(MOST_LOSSES + 2)})
    assert [loss[2] for loss in one.tell()] == [f"{number:03}" for number in range(MOST_LOSSES)]
    assert [loss[2:] for loss in one.tell()] == [("064", 64), ("065", 65)]


def test_a_block_that_goes_away_gives_its_losses_back() -> None:
    one = shelf()
    one.lose("evicted", 3)
    one.take_back(block(1, (("outbox", "event", "evicted", 2), ("ring", "exec", "ring_full", 1))))
    assert one.losses == {("outbox", "event", "evicted"): 5, ("ring", "exec", "ring_full"): 1}


def test_rows_to_delete_are_spans() -> None:
    one = shelf(rows=9)
    for seq in (2, 3, 4, 7, 1):
        one.delete(seq)
    assert one.deletes == [[2, 4], [7, 7], [1, 1]]
    assert [seq for seq in range(1, 10) if one.is_deleted(seq)] == [1, 2, 3, 4, 7]


@pytest.mark.parametrize(
    ("deletes", "kept"),
    [
        ([], ((1, 9),)),
        ([[1, 9]], ()),
        ([[1, 3]], ((4, 9),)),
        ([[7, 9]], ((1, 6),)),
        ([[5, 5], [2, 3], [9, 9]], ((1, 1), (4, 4), (6, 8))),
        ([[2, 6], [3, 4]], ((1, 1), (7, 9))),
    ],
)
def test_what_is_kept_is_what_is_not_to_be_deleted(
    deletes: list[list[int]], kept: tuple[tuple[int, int], ...]
) -> None:
    one = shelf(rows=9)
    one.deletes = deletes
    assert one.kept() == kept


def test_undivided_everything_waits_in_one_lane_and_divided_what_there_was_is_backlog() -> None:
    one = shelf(entry(3), entry(4, acknowledged=True), entry(5), rows=2)
    one.begin_lanes(divided=False)
    assert [each.seq for each in one.live.waiting] == [3, 5]
    assert (one.rows_left(one.live), one.last_row(one.live)) == (True, 2)
    assert not one.rows_left(one.backlog)
    one.begin_lanes(divided=True)
    assert [each.seq for each in one.backlog.waiting] == [3, 5]
    assert (one.backlog.low, one.backlog.high, one.live.low) == (1, 6, 6)
    assert (one.rows_left(one.backlog), one.rows_left(one.live)) == (True, False)
    one.disk_high, one.disk = 7, Totals(7, 70, 700)  # live ones are written too
    assert (one.last_row(one.backlog), one.last_row(one.live)) == (5, 7)


def test_rows_found_late_are_put_before_what_is_in_memory() -> None:
    """The file was not there at the start; blocks were numbered from 1 meanwhile."""
    one = shelf(entry(1), entry(2))
    one.begin_lanes(divided=False)
    one.shift(5)
    one.disk = Totals(5, 50, 500)
    assert list(one.memory) == [each.seq for each in one.memory.values()] == [6, 7]
    assert one.next_seq == 8
    assert (one.backlog.low, one.last_row(one.backlog)) == (1, 5)
    assert (one.rows_left(one.backlog), one.rows_left(one.live)) == (True, False)
    assert [each.seq for each in one.live.waiting] == [6, 7]


def test_rows_found_late_are_before_a_backlog_in_memory_too() -> None:
    one = shelf(entry(1))
    one.begin_lanes(divided=True)
    one.memory[2] = entry(2)
    one.live.waiting.append(one.memory[2])
    one.next_seq = 3
    one.shift(5)
    one.disk = Totals(5, 50, 500)
    assert (one.backlog.low, one.backlog.high, one.live.low) == (1, 7, 7)
    assert [each.seq for each in (*one.backlog.waiting, *one.live.waiting)] == [6, 7]


def test_pending_counts_what_is_held_wherever_it_is() -> None:
    one = shelf(entry(3), entry(4, acknowledged=True), rows=2)
    one.ghosts = 7
    assert one.pending() == 10 + 20 + 7
    one.remove_row(10, 100)
    assert (one.disk, one.pending()) == (Totals(1, 10, 100), 27)


def test_a_lane_knows_the_bytes_it_read_ahead_and_reads_them_again_when_told_to_forget() -> None:
    lane = Lane(EVENT, 1)
    lane.forget_ahead()
    assert lane.low == 1
    for seq, size in ((4, 10), (6, 20), (7, 5)):
        lane.push(Fetched(seq, 1, size, None))
    lane.low = 8
    assert (lane.pop().seq, lane.ahead_bytes) == (4, 25)
    lane.forget_ahead()
    assert (lane.low, lane.ahead_bytes, len(lane.ahead)) == (6, 0, 0)


def test_a_flight_is_on_disk_by_its_row_or_its_entry_and_not_as_a_ghost() -> None:
    made = entry(1)
    read, held = Flight(block(1), 9, 100, None), Flight(block(1), 1, 100, made)
    assert (read.on_disk, held.on_disk, read.end, read.count) == (True, False, 20, 10)
    made.stored = True
    made.seq = 6  # rows were found before it
    assert (held.on_disk, held.seq, read.seq) == (True, 6, 9)
    read.ghost = held.ghost = True
    assert not read.on_disk
    assert not held.on_disk
