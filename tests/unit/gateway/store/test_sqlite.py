from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
from pathlib import Path

import pytest

from aegis.errors import StorageError
from aegis.gateway.store.base import Query
from aegis.gateway.store.sqlite import FILE, SqliteStore
from tests.support.gateway_store import prepared
from tests.unit.gateway.store.test_base import UID, agent, batch, nexts


async def test_the_file_is_ours_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = SqliteStore(str(tmp_path))
        await store.open()
        await store.save_agent(agent(UID))
        modes = {stat.S_IMODE(os.stat(tmp_path / name).st_mode) for name in os.listdir(tmp_path)}
        await store.close()
    finally:
        os.umask(before)
    assert modes == {0o600}


async def test_a_commit_is_synced(tmp_path: Path) -> None:
    """What was acknowledged must survive the loss of power: FULL, and a WAL."""
    store = SqliteStore(str(prepared(tmp_path)))
    await store.open()
    found = await store._writer.run(
        lambda connection: [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("synchronous", "journal_mode")
        ]
    )
    await store.close()
    assert found == [2, "wal"]


async def test_writes_that_wait_together_share_a_commit(tmp_path: Path) -> None:
    store = SqliteStore(str(prepared(tmp_path)))
    await store.open()
    await store.save_agent(agent(UID))
    begun = 0
    before = store._writer._begin

    def count(connection: object) -> None:
        nonlocal begun
        begun += 1
        before(connection)  # type: ignore[arg-type]

    import sqlalchemy as sa

    sa.event.remove(store._writer._engine, "begin", before)
    sa.event.listen(store._writer._engine, "begin", count)
    await asyncio.gather(*(store.append([batch(0, [n], stream=n)]) for n in range(200)))
    await store.close()
    assert begun <= 20


async def test_a_writer_that_cannot_says_so_and_recovers(tmp_path: Path) -> None:
    store = SqliteStore(str(prepared(tmp_path)))
    await store.open()
    await store.save_agent(agent(UID))
    assert nexts(await store.append([batch(0, [1])])) == [1]
    await store._writer.run(lambda connection: connection.exec_driver_sql("PRAGMA query_only = ON") and None)
    with pytest.raises(StorageError):
        await store.append([batch(1, [2])])
    # The connection that failed is gone with its state; what it had not kept is taken now.
    assert nexts(await store.append([batch(1, [2])])) == [2]
    assert len((await store.items(Query())).items) == 2
    await store.close()


async def test_no_database_at_all(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"this is no database" * 100)
    store = SqliteStore(str(tmp_path))
    with pytest.raises(StorageError) as caught:
        await store.open()
    await store.close()
    assert caught.value.hint is not None
    assert "backup" in caught.value.hint


async def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / FILE).symlink_to(tmp_path / "elsewhere" / "x.db")
    store = SqliteStore(str(tmp_path))
    with pytest.raises(StorageError):
        await store.open()
    await store.close()
    assert list((tmp_path / "elsewhere").iterdir()) == []


async def test_a_kill_between_commits_leaves_what_was_acknowledged(tmp_path: Path) -> None:
    """A copy of the files while the store is open is what a killed process leaves."""
    store = SqliteStore(str(prepared(tmp_path / "a")))
    await store.open()
    await store.save_agent(agent(UID))
    for n in range(10):
        await store.append([batch(n, [n])])
    (tmp_path / "b").mkdir()
    for path in (tmp_path / "a").iterdir():
        if not path.name.endswith("-shm"):
            (tmp_path / "b" / path.name).write_bytes(path.read_bytes())
    await store.close()
    with sqlite3.connect(tmp_path / "b" / FILE) as left:
        assert left.execute("SELECT sum(count) FROM batches").fetchone() == (10,)
        assert left.execute("SELECT next FROM cursors").fetchone() == (10,)
    left.close()
