from __future__ import annotations

import pytest

from aegis.agent.outbox.builder import FEW_AT_ONCE, GATHER_NS, MOST_BYTES, MOST_RECORDS, Builder, split
from aegis.model.block import BlockClass, Encoded
from tests.support.outbox import run_of

EVENT, VERDICT = BlockClass.EVENT, BlockClass.VERDICT
MS = 1_000_000


def test_few_events_go_at_once() -> None:
    builder = Builder()
    for number in range(200):  # 25 ms apart, for longer than a burst lasts
        (only,) = builder.add(run_of(EVENT, [number], base_ns=0), number * 25 * MS)
        assert only.count == 1
    assert builder.due_ns() is None


def test_many_events_wait_for_each_other() -> None:
    builder = Builder()
    burst = [builder.add(run_of(EVENT, [number], base_ns=0), 0) for number in range(FEW_AT_ONCE + 2)]
    assert [len(closed) for closed in burst] == [1] * FEW_AT_ONCE + [0, 0]
    assert builder.due_ns() == GATHER_NS
    assert builder.close_due(GATHER_NS - 1) == []
    (gathered,) = builder.close_due(GATHER_NS)
    assert gathered.count == 2
    (later,) = builder.add(run_of(EVENT, [4], base_ns=0), 100 * MS)
    assert later.count == 1


def test_a_stream_of_events_leaves_none_that_goes_at_once() -> None:
    builder = Builder()
    for turn in range(506):  # 10 s of 5,000 events a second
        builder.add(run_of(EVENT, range(100), base_ns=0), turn * 20 * MS)
    builder.close_all()
    assert builder.add(run_of(EVENT, [1], base_ns=0), 505 * 20 * MS + MS) == []


def test_a_block_is_two_readings_of_a_busy_ring() -> None:
    builder = Builder()
    builder.add(run_of(EVENT, range(400), base_ns=0), 0)  # what may go at once is used up
    builder.close_all()
    closed = []
    for turn in range(20):  # 51 ms apart
        now_ns = turn * 51 * MS
        assert not builder.close_due(now_ns)
        closed += builder.add(run_of(EVENT, range(150), base_ns=0), now_ns)
    assert [draft.count for draft in closed] == [300] * 10


def test_what_goes_at_once_takes_along_what_waits() -> None:
    builder = Builder()
    builder.add(run_of(EVENT, range(400), base_ns=0), 0)
    (both,) = builder.add(run_of(EVENT, [400], base_ns=0), 49 * MS)
    assert both.count == 401


@pytest.mark.parametrize(
    ("cls", "waits"),
    [(BlockClass.FINDING, MS), (VERDICT, MS), (BlockClass.FLOW, MS), (BlockClass.SAMPLE, 0)],
)
def test_the_flush_time_of_each_class(cls: BlockClass, waits: int) -> None:
    builder = Builder()
    closed = builder.add(run_of(cls, [1], base_ns=0), 5)
    assert len(closed) == (waits == 0)
    assert builder.due_ns() == (5 + waits if waits else None)
    assert builder.records(cls) == (1 if waits else 0)
    assert len(builder.close_all()) == (1 if waits else 0)


def test_another_base_begins_another_block() -> None:
    builder = Builder()
    builder.add(run_of(VERDICT, [1], base_ns=0), 0)
    (closed,) = builder.add(run_of(VERDICT, [2], base_ns=1), 0)
    assert (closed.base_ns, closed.count) == (0, 1)
    assert builder.records(VERDICT) == 1


def test_a_block_is_never_too_large() -> None:
    builder = Builder()
    blocks = []
    for number in range(100):
        blocks += builder.add(run_of(VERDICT, range(number * 20, number * 20 + 20), 100, base_ns=0), 0)
    blocks += builder.close_all()
    assert sum(block.count for block in blocks) == 2000
    assert all(block.count <= MOST_RECORDS and len(block.records) <= MOST_BYTES for block in blocks)
    assert b"".join(block.records for block in blocks) == run_of(VERDICT, range(2000), 100, base_ns=0).records
    assert builder.size() == 0


@pytest.mark.parametrize("size", [10, 500, 30_000, 60_000])
def test_a_long_run_is_split_between_records(size: int) -> None:
    run = run_of(EVENT, range(max(3, 200_000 // size)), size, base_ns=0)
    pieces = list(split(run))
    assert b"".join(piece.records for piece in pieces) == run.records
    assert sum(piece.count for piece in pieces) == run.count
    assert all(piece.count <= MOST_RECORDS for piece in pieces)
    assert all(len(piece.records) <= MOST_BYTES or piece.count == 1 for piece in pieces)


def test_a_run_that_is_no_cbor_stays_as_it_is() -> None:
    run = Encoded(EVENT, 0, 1000, b"\xff" * 60_000)
    assert list(split(run)) == [run]
