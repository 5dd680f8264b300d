from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from aegis.errors import StorageError
from aegis.gateway.nonces import FILES, Nonces
from aegis.protocol import v1
from aegis.protocol.replay import ReplayCache
from aegis.runtime.clock import SystemClock

KEY = bytes(32)


class Kept:
    """A store that has room for nonces, or none."""

    def __init__(self) -> None:
        self.rows: dict[bytes, int] = {}
        self.fails = False
        self.saves = 0

    async def save_nonces(self, nonces: Iterable[tuple[bytes, int]], now_s: int) -> None:
        self.saves += 1
        if self.fails:
            raise StorageError("no")
        self.rows |= dict(nonces)

    async def nonces(self) -> list[tuple[bytes, int]]:
        return list(self.rows.items())


class Process:
    """A gateway's cache and its files. To end it without a word, forget it."""

    begun: ClassVar[list[Process]] = []

    def __init__(self, directory: Path, store: Kept) -> None:
        self.begun.append(self)
        self.clock = SystemClock()
        self.cache = ReplayCache()
        self.nonces = Nonces(str(directory), store, self.clock)  # type: ignore[arg-type]

    async def begin(self) -> Process:
        await self.nonces.load(self.cache)
        return self

    def use(self, nonce: str) -> None:
        self.nonces.keep(self.cache.remember(KEY, nonce, self.clock.monotonic_ns()))

    def used(self, *nonces: str) -> list[bool]:
        return [self.cache.seen(KEY, each, self.clock.monotonic_ns()) for each in nonces]


@pytest.fixture(autouse=True)
def files_are_closed() -> Iterator[None]:
    yield
    while Process.begun:
        Process.begun.pop().nonces.close()


def sizes(directory: Path) -> list[int]:
    return [(directory / name).stat().st_size for name in FILES]


async def test_it_is_kept_at_once(tmp_path: Path) -> None:
    """Without a save, without a goodbye."""
    store = Kept()
    one = await Process(tmp_path, store).begin()
    one.use("a")
    one.use("b")
    assert store.rows == {}
    two = await Process(tmp_path, store).begin()
    assert two.used("a", "b", "c") == [True, True, False]
    assert len(store.rows) == 2
    assert sizes(tmp_path) == [0, 0]
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in FILES] == [0o600, 0o600]


async def test_each_is_told_the_store_once(tmp_path: Path) -> None:
    store = Kept()
    one = await Process(tmp_path, store).begin()
    for n in range(5):
        one.use(str(n))
        await one.nonces.save()
        assert (len(store.rows), sizes(tmp_path)) == (n + 1, [0, 0])
    saves = store.saves
    await one.nonces.save()
    assert store.saves == saves
    assert (await Process(tmp_path, store).begin()).used("0", "4") == [True, True]


async def test_what_comes_while_the_store_writes_stays_in_its_file(tmp_path: Path) -> None:
    store = Kept()
    one = await Process(tmp_path, store).begin()
    save = store.save_nonces

    async def slow(nonces: Any, now_s: int) -> None:
        one.use("meanwhile")
        await save(nonces, now_s)

    store.save_nonces = slow  # type: ignore[method-assign]
    one.use("before")
    await one.nonces.save()
    store.save_nonces = save  # type: ignore[method-assign]
    assert len(store.rows) == 1
    assert sorted(sizes(tmp_path)) == [0, 24]
    assert (await Process(tmp_path, store).begin()).used("before", "meanwhile") == [True, True]


async def test_a_store_that_fails_loses_none(tmp_path: Path) -> None:
    store = Kept()
    one = await Process(tmp_path, store).begin()
    store.fails = True
    for n in range(4):
        one.use(str(n))
        with pytest.raises(StorageError):
            await one.nonces.save()
    one.use("4")
    store.fails = False
    assert (await Process(tmp_path, Kept()).begin()).used(*"01234") == [True] * 5


async def test_after_the_store_failed_all_of_them_are_saved(tmp_path: Path) -> None:
    store = Kept()
    one = await Process(tmp_path, store).begin()
    store.fails = True
    for n in range(4):
        one.use(str(n))
        with pytest.raises(StorageError):
            await one.nonces.save()
    store.fails = False
    await one.nonces.save()
    assert len(store.rows) == 4
    one.use("4")
    await one.nonces.save()
    assert (len(store.rows), sizes(tmp_path)) == (5, [0, 0])


async def test_no_room_is_no_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece of a record is taken back, so that the next one is whole."""
    store = Kept()
    one = await Process(tmp_path, store).begin()
    one.use("a")
    real = os.write
    monkeypatch.setattr(os, "write", lambda number, data: real(number, data[:7]))
    with pytest.raises(StorageError):
        one.use("b")
    monkeypatch.undo()
    assert sorted(sizes(tmp_path)) == [0, 24]
    one.use("c")
    assert (await Process(tmp_path, store).begin()).used("a", "b", "c") == [True, False, True]


async def test_a_disk_that_takes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = await Process(tmp_path, Kept()).begin()

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StorageError, match="No space left"):
        one.use("a")


async def test_what_the_file_holds_may_be_anything(tmp_path: Path) -> None:
    now_s = SystemClock().wall_ns() // 1_000_000_000
    good = bytes(16) + (now_s + v1.REPLAY_S).to_bytes(8, "big")
    old = bytes(15) + b"o" + (now_s - 1).to_bytes(8, "big")
    (tmp_path / FILES[1]).write_bytes(good + old + b"\xff" * 24 + good[:11])
    one = await Process(tmp_path, Kept()).begin()
    assert len(one.cache) == 1
    assert sizes(tmp_path) == [0, 0]


async def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / FILES[0]).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match=FILES[0]):
        await Process(tmp_path, Kept()).begin()


async def test_a_probe_says_whether_there_is_room_and_leaves_nothing(tmp_path: Path) -> None:
    one = await Process(tmp_path, Kept()).begin()
    one.use("a")
    before = sizes(tmp_path)
    one.nonces.probe()
    assert sizes(tmp_path) == before
    full, files = os.open("/dev/full", os.O_RDWR), one.nonces._files
    files[one.nonces._now], kept = full, files[one.nonces._now]
    with pytest.raises(StorageError, match="No space left"):
        one.nonces.probe()
    files[one.nonces._now] = kept
    os.close(full)
    two = await Process(tmp_path, Kept()).begin()
    assert two.used("a") == [True]
