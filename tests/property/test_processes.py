"""The native process table against the one in Python, record by record."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aegis._native.processes import ProcessTable
from aegis._native.records import RecordBatch
from aegis.model.block import BlockClass, Encoded
from aegis.model.event import Event
from aegis.model.process import Owner, owner_key
from aegis.model.records import EncodedEvents, read_owner
from tests.support import process_oracle
from tests.support.process_records import Hearsay, Identity, Story

OFFSET = 1_790_000_000_000_000_000


class Both:
    """Both tables, each with a host of its own, told and asked the same."""

    def __init__(self, keep_ended: int) -> None:
        self.there, self.here = Hearsay(), Hearsay()
        self.oracle = process_oracle.ProcessTable(
            self.there.cgroup_of, self.there.read, keep_ended=keep_ended
        )
        self.native = ProcessTable(
            self.here.cgroup_of, self.here.cgroup_made, self.here.read, keep_ended=keep_ended
        )

    def take(self, batches: Iterable[bytes], offset: int = OFFSET) -> None:
        made = [RecordBatch.from_bytes(batch) for batch in batches]
        made += made[:1]  # by another topic
        records = process_oracle.in_order(made, process_oracle.KINDS)
        wanted = process_oracle.translate(records, self.oracle, self.there.cgroup_made, offset)
        chunks, decoded, events, forks, cgroups = self.native.take(made, offset)
        found: list[Event] = []
        for base_ns, count, data in chunks:
            assert 0 < count <= 512
            assert len(data) <= 48 * 1024 or count == 1
            found += EncodedEvents(Encoded(BlockClass.EVENT, base_ns, count, data))
        assert found == wanted.events
        assert (events, forks, cgroups) == (len(wanted.events), wanted.forks, wanted.cgroups)
        assert decoded == len(records)
        self.same()

    def same(self) -> None:
        native, oracle = self.native, self.oracle
        assert (len(native), native.running, native.unseen) == (len(oracle), oracle.running, oracle.unseen)
        assert self.here.asked == self.there.asked, "cgroups are asked for once"

    def find(self, process: Identity, cgroup_id: int | None = None) -> None:
        owner = owner_key(*process)
        wanted: Owner | None
        if cgroup_id is None:
            wanted, fragment = self.oracle.find_owner(owner), self.native.owner(owner)
        else:
            note = (*process, 5, cgroup_id, b"noted")
            wanted, fragment = self.oracle.noted_owner(owner, note), self.native.owner(owner, note)
        assert (None if fragment is None else read_owner(fragment)) == wanted
        self.same()

    def reconcile(self, pids: list[int]) -> None:
        assert self.native.reconcile(pids) == self.oracle.reconcile(pids)
        self.same()

    def live(self, story: Story, count: int, *, batch: int) -> None:
        """`count` records of the story in batches, with questions between them."""
        chance = story.chance
        older = story.older()
        self.native.snapshot(older)
        self.oracle.snapshot(older)
        told = 0
        while told < count:
            sizes = [min(chance.randrange(1, batch), count - told) for _ in range(chance.choice([1, 1, 3]))]
            self.take(b"".join(story.records(size)) for size in sizes)
            told += sum(sizes)
            for _ in range(5):
                self.find(story.identity(), chance.choice([None, None, *range(14)]))
            if chance.random() < 0.1:
                self.reconcile([pid for pid, _ in story.running])


@pytest.mark.parametrize(
    ("seed", "pids", "keep_ended"), [(1, 40, 30), (2, 4000, 500), (3, 8, 0), (4, 300, 4096)]
)
def test_a_long_story(seed: int, pids: int, keep_ended: int) -> None:
    Both(keep_ended).live(Story(seed, pids=pids), 20_000, batch=150)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    pids=st.integers(6, 30),
    keep_ended=st.integers(0, 6),
    count=st.integers(1, 60),
    batch=st.integers(2, 9),
)
def test_any_short_story(seed: int, pids: int, keep_ended: int, count: int, batch: int) -> None:
    Both(keep_ended).live(Story(seed, pids=pids), count, batch=batch)


def test_the_clock_may_be_set_meanwhile() -> None:
    both, story = Both(20), Story(9)
    for offset in (OFFSET, OFFSET - 10**12, OFFSET + 10**15, 0, OFFSET):
        both.take([b"".join(story.records(50))], offset)
