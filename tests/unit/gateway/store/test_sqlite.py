from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
import stat
import time
from pathlib import Path

import msgspec
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


class Disk:
    """Notes each flush of the WAL; fails while `broken`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.broken = False
        self.noted: list[str] = []
        self._flush = os.fdatasync
        monkeypatch.setattr(os, "fdatasync", self)

    def __call__(self, number: int) -> None:
        assert os.readlink(f"/proc/self/fd/{number}").endswith(f"{FILE}-wal")
        time.sleep(0.05)
        if self.broken:
            self.noted.append("failed")
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self._flush(number)
        self.noted.append("flushed")


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


async def test_followers_hear_of_a_commit_and_agents_of_the_flush(tmp_path: Path, disk: Disk) -> None:
    store = SqliteStore(str(prepared(tmp_path)))
    await store.open()
    await store.save_agent(agent(UID))
    query = Query(after=await store.place())

    async def follow() -> None:
        await store.more(query, 5)
        assert len((await store.items(query)).items) == 1
        disk.noted.append("followed")

    follower = asyncio.create_task(follow())
    await asyncio.sleep(0)
    disk.noted.clear()
    await store.append([batch(0, [1])])
    disk.noted.append("acknowledged")
    await follower
    assert disk.noted == ["followed", "flushed", "acknowledged"]
    await store.close()


async def test_everything_that_is_written_is_flushed_before_it_is_done(tmp_path: Path, disk: Disk) -> None:
    store = SqliteStore(str(tmp_path))
    await store.open()  # its tables
    for write in (
        lambda: store.save_agent(agent(UID)),
        lambda: store.save_nonces([(b"n" * 16, 1)], 0),
        lambda: store.append([batch(0, [1])]),
        store.probe,
    ):
        assert disk.noted
        disk.noted.clear()
        await write()
    assert disk.noted == ["flushed"]
    settings = await store._writer.run(
        lambda connection: [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("synchronous", "journal_mode")
        ]
    )
    await store.close()
    assert settings == [1, "wal"]  # SQLite flushes around each checkpoint


async def test_a_flush_that_failed_acknowledges_nothing_until_the_bytes_are_written_again(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SqliteStore(str(prepared(tmp_path)))
    await store.open()
    await store.save_agent(agent(UID))
    disk.broken = True
    for _ in range(2):
        with pytest.raises(StorageError, match="flushed to the disk"):
            await store.append([batch(0, [1])])
    with pytest.raises(StorageError):
        await store.probe()
    wal = tmp_path / f"{FILE}-wal"
    before, written = wal.read_bytes(), bytearray()
    write = os.pwrite

    def pwrite(number: int, piece: bytes, at: int) -> int:
        assert at == len(written)
        written.extend(piece)
        return write(number, piece, at)

    monkeypatch.setattr(os, "pwrite", pwrite)
    disk.broken = False
    disk.noted.clear()
    assert await store.append([batch(0, [1])]) == [(1, 0)]  # it is there, and now on the disk
    assert bytes(written) == before
    assert disk.noted == ["flushed", "flushed"]
    assert await store.append([batch(1, [2])]) == [(2, 1)]
    assert bytes(written) == before  # once
    assert len((await store.items(Query())).items) == 2
    await store.close()


async def test_a_store_whose_disk_is_gone_can_be_closed(tmp_path: Path, disk: Disk) -> None:
    store = SqliteStore(str(prepared(tmp_path)))
    await store.open()
    disk.broken = True
    with pytest.raises(StorageError):
        await store.save_agent(agent(UID))
    await store.close()


async def test_a_number_that_a_loss_of_power_took_away_is_not_given_again(tmp_path: Path) -> None:
    """A follower that was told of what is gone would take what has its number for that."""
    store = SqliteStore(str(prepared(tmp_path / "a")))
    await store.open()
    await store.save_agent(agent(UID))
    await store.append([batch(0, [0])])
    (tmp_path / "b").mkdir()
    for path in (tmp_path / "a").iterdir():
        if not path.name.endswith("-shm"):
            (tmp_path / "b" / path.name).write_bytes(path.read_bytes())
    await store.append([batch(1, [1]), batch(2, [2])])
    place = await store.place()
    await store.close()
    left = SqliteStore(str(tmp_path / "b"))
    await left.open()
    await left.append([batch(0, [7], stream=2)])
    assert [
        msgspec.json.decode(each.json)["time_ns"] for each in (await left.items(Query(after=place))).items
    ] == [7]
    await left.close()


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
