from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from aegis.agent.outbox.changes import Changes, Eviction
from aegis.agent.outbox.database import LARGEST_SEQ, LOG_BYTES
from aegis.agent.outbox.store import Store
from aegis.errors import StorageError
from aegis.model.block import Block, BlockClass

EVENT, FLOW = BlockClass.EVENT, BlockClass.FLOW


def block(cls: BlockClass, first: int, count: int = 10, size: int = 1000, losses: int = 0) -> Block:
    return Block(
        cls=cls,
        stream=3,
        first=first,
        count=count,
        boot_id=bytes(16),
        base_ns=0,
        records=bytes(size),
        losses=(("ring", "exec", "ring_full", losses),) if losses else (),
    )


def seqs(store: Store, cls: BlockClass) -> list[int]:
    return [row.seq for row in store.fetch(cls, 1, LARGEST_SEQ, 1 << 30)]


@pytest.fixture
def store(tmp_path: Path):
    made = Store(str(tmp_path))
    made.open()
    yield made
    made.close()


def test_rows_of_each_class_are_apart(store: Store) -> None:
    store.apply(Changes(inserts=tuple((seq, block(cls, seq)) for cls in (EVENT, FLOW) for seq in (1, 2, 3))))
    store.apply(Changes(deletes=((EVENT, (1, 2)),)))
    assert seqs(store, EVENT) == [3]
    assert seqs(store, FLOW) == [1, 2, 3]
    assert [row.seq for row in store.fetch(FLOW, 2, 9, 1)] == [2]
    assert store.fetch(FLOW, 4, 9, 1) == []


def test_an_eviction_takes_the_oldest_and_hands_back_what_they_told(store: Store, tmp_path: Path) -> None:
    store.apply(Changes(inserts=tuple((seq, block(EVENT, seq, losses=seq)) for seq in range(1, 8))))
    evicted = store.apply(Changes(evictions=(Eviction(EVENT, ((2, 3), (6, 7)), 2500),)))
    assert seqs(store, EVENT) == [1, 4, 5, 7]
    assert (evicted[EVENT].whole.rows, evicted[EVENT].whole.records) == (3, 30)
    assert evicted[EVENT].losses == {("ring", "exec", "ring_full"): 2 + 3 + 6}
    store.close()
    found = Store(str(tmp_path)).open()  # told by the next life, if this one does not
    assert found.losses == {EVENT: {("ring", "exec", "ring_full"): 11, ("outbox", "event", "evicted"): 30}}
    assert found.totals[EVENT].records == 40
    assert found.corrupt[EVENT] == 0


def test_a_second_agent_does_not_get_the_file(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="locked"):
        Store(str(tmp_path)).open()


def test_the_files_are_for_us_alone(store: Store, tmp_path: Path) -> None:
    store.apply(Changes(inserts=((1, block(EVENT, 0)),)))
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
        "outbox.db": 0o600,
        "outbox.db-wal": 0o600,
        "outbox.key": 0o600,
    }


def test_the_log_and_an_empty_file_are_kept_small(store: Store, tmp_path: Path) -> None:
    for seq in range(1, 200):
        store.apply(Changes(inserts=((seq, block(EVENT, seq, size=48 << 10)),)))
        store.tidy()
        assert (tmp_path / "outbox.db-wal").stat().st_size < LOG_BYTES + (1 << 20)
    assert (tmp_path / "outbox.db").stat().st_size > 5 << 20
    store.apply(Changes(deletes=((EVENT, (1, 200)),)))
    store.tidy()
    assert (tmp_path / "outbox.db").stat().st_size < 1 << 18


def test_another_file_has_what_was_wanted(store: Store, tmp_path: Path) -> None:
    store.apply(Changes(inserts=tuple((seq, block(EVENT, seq)) for seq in range(1, 10))))
    totals, missing = store.rebuild({EVENT: ((2, 4), (8, 20))}, {}, {(EVENT, 3), (EVENT, 5)})
    assert totals[EVENT].rows == 5
    assert missing == {(EVENT, 5)}
    assert seqs(store, EVENT) == [2, 3, 4, 8, 9]
    assert (tmp_path / "outbox.db.corrupt-1").exists()
    store.apply(Changes(inserts=((30, block(EVENT, 30)),)))
    store.close()
    opened = store.open()
    assert opened.totals[EVENT].rows == 6
    assert not any(opened.corrupt.values())


def test_a_file_of_something_else_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE notes(text)")
    other.close()
    path.chmod(0o600)
    store = Store(str(tmp_path))
    opened = store.open()
    store.close()
    assert opened.quarantined is not None
    assert opened.uncounted
    assert (tmp_path / "outbox.db.corrupt-1").exists()
