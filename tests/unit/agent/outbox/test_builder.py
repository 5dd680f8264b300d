from __future__ import annotations

import pytest

from aegis.agent.outbox.builder import MOST_BYTES, MOST_RECORDS, QUIET_NS, Builder, split
from aegis.model.block import BlockClass, Encoded
from tests.support.outbox import run_of

EVENT, VERDICT = BlockClass.EVENT, BlockClass.VERDICT
MS = 1_000_000


def test_an_event_after_quiet_goes_at_once_and_the_next_waits() -> None:
    builder = Builder()
    (first,) = builder.add(run_of(EVENT, [1], base_ns=0), 0)
    assert first.count == 1
    assert builder.add(run_of(EVENT, [2], base_ns=0), MS) == []
    assert builder.add(run_of(EVENT, [3], base_ns=0), 40 * MS) == []
    assert builder.due_ns() == MS + QUIET_NS
    assert builder.close_due(MS + QUIET_NS - 1) == []
    (second,) = builder.close_due(MS + QUIET_NS)
    assert second.records == run_of(EVENT, [2, 3], base_ns=0).records
    (third,) = builder.add(run_of(EVENT, [4], base_ns=0), 40 * MS + QUIET_NS)
    assert third.count == 1


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
