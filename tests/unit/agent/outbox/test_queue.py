"""Which block goes next, which is written, which is dropped: the queue alone, with a disk that is a dictionary."""

from __future__ import annotations

import msgspec
import pytest

from aegis.agent.outbox.builder import Draft
from aegis.agent.outbox.changes import Changes, Evicted, Fetched, Opened, Totals
from aegis.agent.outbox.queue import LATE_NS, MOST_COMMIT, Limits, Queue
from aegis.agent.outbox.rows import CLASSES, stored_bytes
from aegis.agent.outbox.shelf import MOST_LOSSES
from aegis.model.block import Block, BlockClass

FINDING, VERDICT, EVENT, FLOW, SAMPLE = CLASSES
MS = 1_000_000
SIZE = 1000
LOST = ("ring", "exec", "ring_full")


def limits(**more: int) -> Limits:
    values = {"disk": 1 << 20, "memory": 1 << 20, "commit_ns": 100 * MS} | more
    share = dict.fromkeys(CLASSES, values["disk"])
    return Limits(disk=values["disk"], memory=values["memory"], commit_ns=values["commit_ns"], share=share)


def queue(**more: int) -> Queue:
    made = Queue(limits(**more), bytes(16))
    made.begin_stream(5)
    return made


def add(to: Queue, cls: BlockClass, *, records: int = 10, size: int = SIZE, now_ns: int = 0) -> None:
    to.add(Draft(cls, 0, 0, count=records, size=size, runs=[bytes(size)]), now_ns)


def names(blocks: list[Block]) -> list[tuple[BlockClass, int, int]]:
    return [(one.cls, one.stream, one.first) for one in blocks]


def commit(one: Queue, now_ns: int = 0, *, force: bool = True) -> Changes:
    """A transaction that takes effect as it says, evictions aside."""
    changes = one.changes(now_ns, force=force)
    assert changes is not None
    one.applied(changes, {}, now_ns)
    return changes


def balanced(one: Queue, added: dict[BlockClass, int]) -> bool:
    """Taken + recovered = acknowledged + evicted + unwritable + corrupt + pending, of each class."""
    for shelf in one:
        tally = shelf.tally
        gone = tally.acknowledged + tally.evicted + tally.unwritable + tally.corrupt
        if added.get(shelf.cls, 0) + tally.recovered != gone + shelf.pending():
            return False
    return True


# ---- what goes next


def test_blocks_go_by_class_and_in_their_order() -> None:
    one = queue()
    for cls in (SAMPLE, EVENT, FINDING, FLOW, VERDICT, EVENT):
        add(one, cls)
    assert names(one.sendable(1 << 20)) == [
        (FINDING, 5, 0), (VERDICT, 5, 0), (EVENT, 5, 0), (EVENT, 5, 10), (FLOW, 5, 0), (SAMPLE, 5, 0),
    ]  # fmt: skip
    assert one.sendable(1 << 20) == []
    assert not one.ready()


def test_what_is_live_goes_before_a_backlog_but_a_finding_before_all() -> None:
    one = queue()
    for cls in (EVENT, FINDING, SAMPLE):
        add(one, cls)
    one.divide()
    one.begin_stream(6)
    for cls in (SAMPLE, EVENT):
        add(one, cls)
    assert names(one.sendable(1 << 20)) == [
        (FINDING, 5, 0), (EVENT, 6, 0), (SAMPLE, 6, 0), (EVENT, 5, 0), (SAMPLE, 5, 0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("most", "given"), [(0, 0), (1, 1), (SIZE, 1), (2 * SIZE, 2), (2 * SIZE + 1, 2), (9 * SIZE, 4)]
)
def test_as_many_bytes_as_there_is_room_for_and_at_least_one_block(most: int, given: int) -> None:
    one = queue()
    for _ in range(4):
        add(one, EVENT)
    assert len(one.sendable(most)) == given
    assert one.ready() is (given < 4)


def test_what_was_on_the_way_goes_again_after_a_disconnection() -> None:
    one = queue()
    add(one, EVENT)
    add(one, EVENT)
    first = one.sendable(1)
    one.disconnected()
    assert one.sendable(1 << 20)[: len(first)] == first


# ---- acknowledgements


def test_an_acknowledgement_covers_what_was_handed_out_and_whole_blocks_only() -> None:
    one = queue()
    for _ in range(3):
        add(one, EVENT)
    assert one.acknowledged(5, EVENT, 99, 0) == 0  # nothing is on the way
    one.sendable(2 * SIZE)
    assert one.acknowledged(5, EVENT, 15, 0) == 10
    assert one.acknowledged(4, EVENT, 99, 0) == one.acknowledged(5, FLOW, 99, 0) == 0
    assert one.acknowledged(5, EVENT, 1 << 60, 0) == 10
    assert balanced(one, {EVENT: 30})
    assert one.shelf(EVENT).pending() == 10


def test_a_block_that_is_acknowledged_in_time_is_never_written() -> None:
    one = queue()
    add(one, EVENT)
    one.sendable(SIZE)
    one.acknowledged(5, EVENT, 10, 0)
    assert one.stored()
    assert one.changes(1 << 60, force=True) is None
    assert one.memory_bytes() == 0


def test_a_block_acknowledged_while_it_is_written_loses_its_row() -> None:
    for ended in ("applied", "failed"):
        one = queue()
        add(one, EVENT)
        one.sendable(SIZE)
        changes = one.changes(1 << 40, force=True)
        assert changes is not None
        assert one.acknowledged(5, EVENT, 10, 0) == 10
        if ended == "applied":
            one.applied(changes, {}, 0)
        else:
            one.failed(0)
        assert one.shelf(EVENT).pending() == 0
        assert balanced(one, {EVENT: 10})
        after = one.changes(1 << 50)
        assert after is not None
        assert (after.inserts, after.deletes) == ((), ((EVENT, (1, 1)),))


def test_rows_that_are_acknowledged_are_deleted_as_spans() -> None:
    one = queue()
    for _ in range(4):
        add(one, EVENT)
    commit(one)
    one.link()
    fetch = one.wanted()
    assert fetch is None or fetch.cls is EVENT
    one.disconnected()
    one.link()
    fetch = one.wanted()
    assert fetch is not None
    rows = [Fetched(seq, 10, one.shelf(EVENT).disk.size // 4, block(seq)) for seq in range(1, 5)]
    one.fetched(fetch, rows, 0)
    assert len(one.sendable(1 << 20)) == 4
    one.acknowledged(5, EVENT, 30, 7)
    assert one.changes(7) is None  # such a change waits for a commit to go with
    changes = one.changes(7 + LATE_NS)
    assert changes is not None
    assert changes.deletes == ((EVENT, (1, 3)),)
    one.applied(changes, {}, 0)
    assert one.shelf(EVENT).deletes == []
    assert one.shelf(EVENT).disk.records == 10


def block(seq: int, *, records: int = 10, cls: BlockClass = EVENT) -> Block:
    return Block(
        cls=cls,
        stream=5,
        first=(seq - 1) * records,
        count=records,
        boot_id=bytes(16),
        base_ns=0,
        records=bytes(SIZE),
    )


# ---- to disk


@pytest.mark.parametrize(
    ("cls", "factor"), [(FINDING, 0), (VERDICT, 0), (EVENT, 1), (FLOW, 50), (SAMPLE, 100)]
)
def test_each_class_waits_as_long_as_it_may(cls: BlockClass, factor: int) -> None:
    one = queue()
    add(one, cls, now_ns=1000)
    due = 1000 + factor * 100 * MS
    assert one.due_ns() == due
    if factor:
        assert one.changes(due - 1) is None
    changes = one.changes(due)
    assert changes is not None
    assert [(seq, made.cls) for seq, made in changes.inserts] == [(1, cls)]


def test_what_is_half_as_old_goes_along() -> None:
    one = queue()
    for now_ns in (0, 50 * MS, 50 * MS + 1):
        add(one, EVENT, now_ns=now_ns)
    changes = one.changes(100 * MS)
    assert changes is not None
    assert [seq for seq, _ in changes.inserts] == [1, 2]


def test_half_of_the_memory_in_use_is_reason_enough_to_write() -> None:
    one = queue(memory=4 * SIZE)
    add(one, SAMPLE)
    assert one.changes(1) is None
    add(one, SAMPLE)
    assert one.changes(1) is not None


def test_one_transaction_is_bounded_and_the_rest_is_the_next_ones() -> None:
    one = queue(memory=64 << 20, disk=64 << 20)
    for _ in range(5):
        add(one, EVENT, size=MOST_COMMIT // 2)
    written = [len(commit(one).inserts) for _ in range(2)]
    assert written == [2, 2]
    assert len(commit(one).inserts) == 1
    assert one.stored()


def test_what_failed_to_be_written_is_written_again() -> None:
    one = queue()
    add(one, EVENT)
    first = one.changes(1 << 40, force=True)
    one.failed(3)
    assert one.due_ns() is not None
    second = one.changes(1 << 40, force=True)
    assert first is not None
    assert second is not None
    assert first.inserts == second.inserts
    assert balanced(one, {EVENT: 10})


# ---- losses


def test_losses_are_told_once_in_the_next_block_of_their_class_after_its_commit() -> None:
    one = queue()
    one.shelf(EVENT).add_losses({LOST: 3})
    add(one, EVENT)
    assert one.sendable(1 << 20) == []  # told before it is durable, it could be told twice
    assert one.due_ns() == 0
    changes = commit(one, force=False)
    assert [made.losses for _, made in changes.inserts] == [((*LOST, 3),)]
    assert changes.losses == {}
    add(one, EVENT)
    assert one.shelf(EVENT).losses == {}


def test_where_nothing_can_be_written_losses_do_not_wait() -> None:
    one = queue()
    one.degraded = True
    one.shelf(EVENT).add_losses({LOST: 3})
    add(one, EVENT)
    assert [made.losses for made in one.sendable(1 << 20)] == [((*LOST, 3),)]


def test_losses_nobody_told_yet_are_written_by_themselves() -> None:
    one = queue()
    one.shelf(FLOW).add_losses({LOST: 2})
    one.changed(5)
    assert one.changes(5 + LATE_NS - 1) is None
    changes = one.changes(5 + LATE_NS)
    assert changes is not None
    assert changes.losses == {FLOW: {LOST: 2}}
    assert one.stored()


def test_losses_in_blocks_that_are_not_being_written_count_as_untold() -> None:
    one = queue()
    one.shelf(EVENT).add_losses({LOST: 3})
    add(one, EVENT)
    one.shelf(EVENT).add_losses({LOST: 4})
    assert one.untold() == {EVENT: {LOST: 7}}


# ---- caps


def test_memory_that_is_full_drops_the_oldest_of_the_lowest_class_and_tells() -> None:
    one = queue(memory=3 * 1200)
    for cls in (SAMPLE, EVENT, SAMPLE, EVENT):
        add(one, cls)
    assert one.squeeze(1) == 10
    assert (one.shelf(SAMPLE).tally.evicted, one.shelf(EVENT).tally.evicted) == (10, 0)
    assert names(one.sendable(1 << 20))[-1] == (SAMPLE, 5, 10)
    assert one.shelf(SAMPLE).losses == {("outbox", "sample", "evicted"): 10}
    assert balanced(one, {SAMPLE: 20, EVENT: 20})


def test_what_goes_while_nothing_can_be_written_says_so_and_hands_its_losses_on() -> None:
    one = queue(memory=1200)
    one.degraded = True
    one.shelf(EVENT).add_losses({LOST: 3})
    add(one, EVENT)
    add(one, EVENT)
    assert one.squeeze(1) == 10
    assert one.shelf(EVENT).tally.unwritable == 10
    assert one.shelf(EVENT).losses == {LOST: 3, ("outbox", "event", "unwritable"): 10}
    assert one.squeeze(1) == 0


def test_what_is_being_written_is_not_dropped_from_memory() -> None:
    one = queue(memory=100)
    add(one, EVENT)
    assert one.changes(0, force=True) is not None
    assert one.squeeze(1) == 0


def stored(rows: int, **more: int) -> Queue:
    """Rows of an earlier life and of this one in every class, and somebody who sends."""
    one = queue(**more)
    size = stored_bytes(block(1))
    totals = {cls: Totals(rows, 10 * rows, rows * size) for cls in CLASSES}
    none = dict.fromkeys(CLASSES, 0)
    one.adopt(
        Opened(totals=totals, last_seq=dict.fromkeys(CLASSES, rows), corrupt=none, losses={}, last_stream=4)
    )
    for _ in range(rows):
        for cls in CLASSES:
            add(one, cls)
    while one.changes(0, force=True) is not None:
        one.applied(Changes(), {}, 0)
    one.link()
    return one


def read(one: Queue) -> int:
    """Read ahead all that is wanted, as the store would; gives the fetches."""
    size = stored_bytes(block(1))
    count = 0
    while (fetch := one.wanted()) is not None:
        most = -(-fetch.most_bytes // size)
        seqs = range(fetch.low, min(fetch.high, fetch.low + most - 1) + 1)
        one.fetched(fetch, [Fetched(seq, 10, size, block(seq)) for seq in seqs], 0)
        count += 1
        assert count < 1000
    return count


def test_what_is_read_ahead_has_one_bound_for_all_classes() -> None:
    memory = 64 * SIZE
    one = stored(40, memory=memory, disk=64 << 20)
    assert read(one) > 0
    assert memory // 8 <= one.memory_bytes() <= memory // 4 + 2 * SIZE
    assert one.shelf(FINDING).live.ahead_bytes + one.shelf(FINDING).backlog.ahead_bytes == one.memory_bytes()


def test_what_goes_first_takes_the_room_of_what_goes_later() -> None:
    memory = 64 * SIZE
    one = stored(40, memory=memory, disk=64 << 20)
    one.shelf(FINDING).disk_high = one.shelf(VERDICT).disk_high = 0  # not yet
    read(one)
    assert one.shelf(EVENT).live.ahead
    assert one.shelf(EVENT).backlog.ahead_bytes + one.shelf(FLOW).live.ahead_bytes > 0
    one.shelf(FINDING).disk_high = 80
    fetch = one.wanted()
    assert fetch is not None
    assert fetch.cls is FINDING
    assert one.memory_bytes() <= memory // 8 + 2 * SIZE
    assert one.shelf(EVENT).live.ahead  # no more than was needed


def test_rows_read_ahead_are_forgotten_before_a_block_is_dropped() -> None:
    memory = 64 * SIZE
    one = stored(40, memory=memory, disk=64 << 20)
    read(one)
    held = sum(shelf.disk.records for shelf in one)
    for _ in range(59):  # of 1.1 KB each, so with what is read ahead they are too many
        add(one, SAMPLE, size=950)
        assert one.squeeze(1) == 0
    assert 0 < one.memory_bytes() <= memory + 2 * SIZE
    assert len(one.shelf(FINDING).live.ahead) == 1  # sending goes on
    assert sum(shelf.disk.records for shelf in one) == held
    for _ in range(8):
        add(one, SAMPLE)
    assert one.squeeze(1) > 0  # the blocks alone are too many
    # What was forgotten is read again, in its order and each row once.
    one.limits = limits(memory=64 << 20, disk=64 << 20)
    read(one)
    assert [row.seq for row in one.shelf(FINDING).live.ahead] == list(range(41, 81))
    assert [row.seq for row in one.shelf(FINDING).backlog.ahead] == list(range(1, 41))


def test_sending_goes_on_row_by_row_where_blocks_fill_the_memory() -> None:
    one = stored(3, memory=64 * SIZE, disk=64 << 20)
    for _ in range(70):
        add(one, SAMPLE, size=950)
    one.squeeze(1)
    sent = 0
    for _ in range(100):
        assert read(one) <= 1
        sent += sum(made.cls is EVENT for made in one.sendable(1))  # as all rows of `read` are
    assert sent == 5 * 6


def test_rows_that_come_behind_forgotten_ones_are_not_taken() -> None:
    one = stored(40, memory=64 * SIZE, disk=64 << 20)
    one.limits = limits(memory=128 * SIZE, disk=64 << 20)
    first = one.wanted()
    assert first is not None
    size = stored_bytes(block(1))
    most = -(-first.most_bytes // size) - 1
    short = msgspec.structs.replace(first, most_bytes=most * size)  # one row less than is wanted in all
    one.fetched(short, [Fetched(seq, 10, size, block(seq)) for seq in range(41, 41 + most)], 0)
    late = one.wanted()
    assert late is not None
    assert (late.cls, late.live, late.low) == (FINDING, True, 41 + most)
    one.limits = limits(memory=1, disk=64 << 20)
    one.squeeze(1)
    one.fetched(late, [Fetched(late.low, 10, size, block(late.low))], 0)
    assert [row.seq for row in one.shelf(FINDING).live.ahead] == [41]


def test_a_class_beyond_its_share_evicts_its_own_rows_and_the_whole_the_lowest() -> None:
    size = stored_bytes(block(1))
    one = queue(disk=4 * size)
    one.limits.share[EVENT] = 2 * size  # type: ignore[index]
    for cls in (SAMPLE, EVENT, EVENT):
        add(one, cls)
    assert commit(one).evictions == ()
    add(one, EVENT)
    changes = one.changes(0, force=True)
    assert changes is not None
    assert [(made.cls, made.spans, made.size) for made in changes.evictions] == [(EVENT, ((1, 2),), size)]
    one.applied(changes, {EVENT: Evicted(whole=Totals(1, 10, size))}, 0)
    assert one.shelf(EVENT).losses == {("outbox", "event", "evicted"): 10}
    for _ in range(2):
        add(one, VERDICT)
    changes = one.changes(0, force=True)
    assert changes is not None
    assert [(made.cls, made.size) for made in changes.evictions] == [(SAMPLE, size)]


def test_rows_on_the_way_are_not_evicted() -> None:
    size = stored_bytes(block(1))
    one = queue(disk=size)
    add(one, EVENT)
    commit(one)
    one.disconnected()
    one.link()
    fetch = one.wanted()
    assert fetch is not None
    one.fetched(fetch, [Fetched(1, 10, size, block(1))], 0)
    assert len(one.sendable(1)) == 1
    add(one, VERDICT)
    changes = one.changes(0, force=True)
    assert changes is not None
    assert changes.evictions == ()


def test_no_more_is_evicted_than_the_rows_that_are_not_on_the_way() -> None:
    one = adopted()
    one.limits = Limits(disk=1, memory=1 << 20, commit_ns=0, share=dict.fromkeys(CLASSES, 1 << 20))
    one.link()
    fetch = one.wanted()
    assert fetch is not None
    size = stored_bytes(block(1))
    one.fetched(fetch, [Fetched(1, 10, size, block(1))], 0)
    assert len(one.sendable(1)) == 1
    one.shelf(EVENT).backlog.low = 2  # the others are to be read again
    changes = one.changes(0, force=True)
    assert changes is not None
    assert [(made.cls, made.spans, made.size) for made in changes.evictions] == [(EVENT, ((2, 3),), 2 * size)]


# ---- from disk


def adopted(rows: int = 3) -> Queue:
    """What an earlier life left: rows of events, as the store says."""
    one = queue()
    size = stored_bytes(block(1))
    one.adopt(
        Opened(
            totals={
                cls: Totals(rows, 10 * rows, rows * size) if cls is EVENT else Totals() for cls in CLASSES
            },
            last_seq={cls: rows if cls is EVENT else 0 for cls in CLASSES},
            corrupt={cls: 7 if cls is EVENT else 0 for cls in CLASSES},
            losses={EVENT: {LOST: 2}},
            last_stream=4,
        )
    )
    return one


def test_what_an_earlier_life_left_is_pending_and_its_losses_are_told() -> None:
    one = adopted()
    assert (one.shelf(EVENT).pending(), one.shelf(EVENT).tally.corrupt) == (30, 7)
    assert balanced(one, {})
    add(one, EVENT)
    assert next(iter(one.shelf(EVENT).memory)) == 4  # behind the rows
    assert one.shelf(EVENT).memory[4].block.losses == ((*LOST, 2),)


def test_rows_are_read_only_while_somebody_sends_and_each_once() -> None:
    one = adopted()
    assert one.wanted() is None
    one.link()
    fetch = one.wanted()
    assert fetch is not None
    assert (fetch.cls, fetch.low, fetch.high) == (EVENT, 1, 3)
    size = stored_bytes(block(1))
    one.fetched(fetch, [Fetched(seq, 10, size, block(seq)) for seq in (1, 2, 3)], 0)
    assert one.wanted() is None
    assert [made.first for made in one.sendable(1 << 20)] == [0, 10, 20]


def test_rows_read_for_a_connection_that_is_over_are_forgotten() -> None:
    one = adopted()
    one.link()
    fetch = one.wanted()
    assert fetch is not None
    one.disconnected()
    one.link()
    one.fetched(fetch, [Fetched(1, 10, 1100, block(1))], 0)
    assert one.sendable(1 << 20) == []


def test_a_row_that_does_not_open_is_lost_and_told() -> None:
    one = adopted()
    one.link()
    fetch = one.wanted()
    assert fetch is not None
    size = stored_bytes(block(1))
    one.fetched(
        fetch, [Fetched(1, 10, size, None), Fetched(2, 10, size, block(2)), Fetched(3, 10, size, block(3))], 0
    )
    assert [made.first for made in one.sendable(1 << 20)] == [10, 20]
    assert one.shelf(EVENT).tally.corrupt == 17
    assert one.shelf(EVENT).losses["outbox", "event", "corrupt"] == 10
    assert one.shelf(EVENT).deletes == [[1, 1]]
    assert balanced(one, {})


def test_rows_that_are_not_there_are_missed_once_all_has_been_read() -> None:
    one = adopted()
    one.link()
    assert one.missed(0) == 0
    fetch = one.wanted()
    assert fetch is not None
    one.fetched(fetch, [Fetched(2, 10, stored_bytes(block(2)), block(2))], 0)
    assert one.missed(0) == 0  # one is read and not handed out
    one.sendable(1 << 20)
    assert one.missed(0) == 20
    assert one.missed(0) == 0
    assert one.shelf(EVENT).losses["outbox", "event", "corrupt"] == 20
    assert balanced(one, {})


# ---- another file


def test_a_successor_without_some_rows_tells_what_is_gone_and_waits_for_what_flies() -> None:
    one = adopted(4)
    one.link()
    fetch = one.wanted()
    assert fetch is not None
    size = stored_bytes(block(1))
    one.fetched(fetch, [Fetched(seq, 10, size, block(seq)) for seq in (1, 2)], 0)
    one.sendable(1 << 20)
    rebuild = one.begin_rebuild()
    assert rebuild.spans[EVENT] == ((1, 4),)
    assert rebuild.flying == {(EVENT, 1): (10, size), (EVENT, 2): (10, size)}
    one.acknowledged(5, EVENT, 10, 0)  # the first arrived while the file was made
    totals = {cls: Totals() for cls in CLASSES} | {EVENT: Totals(1, 10, size)}  # only the fourth is in it
    assert one.rebuilt(totals, {(EVENT, 1), (EVENT, 2)}, 0) == 10  # the third
    assert one.shelf(EVENT).ghosts == 10
    assert balanced(one, {})
    one.acknowledged(5, EVENT, 20, 0)  # the second arrives after all
    assert (one.shelf(EVENT).ghosts, one.shelf(EVENT).tally.corrupt) == (0, 17)
    assert balanced(one, {})


def test_what_flew_without_a_row_is_lost_with_the_connection() -> None:
    one = adopted(1)
    one.link()
    fetch = one.wanted()
    assert fetch is not None
    one.fetched(fetch, [Fetched(1, 10, stored_bytes(block(1)), block(1))], 0)
    one.sendable(1 << 20)
    one.begin_rebuild()
    one.rebuilt({cls: Totals() for cls in CLASSES}, {(EVENT, 1)}, 0)
    one.disconnected()
    assert one.shelf(EVENT).tally.corrupt == 17
    assert balanced(one, {})


def test_more_losses_than_a_block_tells_of_wait_for_the_next() -> None:
    one = queue()
    one.shelf(EVENT).add_losses({("s", "k", str(number)): 1 for number in range(MOST_LOSSES + 1)})
    add(one, EVENT)
    add(one, EVENT)
    told = [len(entry.block.losses) for entry in one.shelf(EVENT).memory.values()]
    assert told == [MOST_LOSSES, 1]


# ---- a gateway that takes findings alone


def test_findings_alone_are_handed_out_and_read_until_the_disconnection() -> None:
    one = adopted()
    one.link()
    one.confine(to_findings=True)
    add(one, VERDICT)
    assert (one.ready(), one.wanted(), one.sendable(1 << 20)) == (False, None, [])
    add(one, FINDING)
    assert one.ready()
    assert names(one.sendable(1 << 20)) == [(FINDING, 5, 0)]
    assert one.missed(0) == 0
    one.disconnected()
    assert names(one.sendable(1 << 20)) == [(FINDING, 5, 0), (VERDICT, 5, 0)]
