"""Damage to the file: no crash, no wrong payload, and what is lost is on the damaged pages and listed."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from aegis.agent.outbox.changes import Changes, Opened
from aegis.agent.outbox.database import LARGEST_SEQ, PAGE
from aegis.agent.outbox.rows import CLASSES
from aegis.agent.outbox.store import Store
from aegis.model.block import Block, BlockClass
from tests.support.outbox import BOOT_ID, record
from tests.support.scale import scaled, seed

EVENT = BlockClass.EVENT
LOSSES = {BlockClass.FLOW: {("ring", "flow", "ring_full"): 3}}


def block(cls: BlockClass, stream: int, first: int, count: int, size: int) -> Block:
    records = b"".join(record(cls, number, size) for number in range(first, first + count))
    return Block(
        cls=cls, stream=stream, first=first, count=count, boot_id=BOOT_ID, base_ns=7, records=records
    )


def fill(directory: Path) -> dict[tuple[BlockClass, int], Block]:
    """A closed file of about 64 KiB: blocks of all classes, large and small, some deleted in front."""
    store = Store(str(directory))
    store.open()
    made: dict[tuple[BlockClass, int], Block] = {}
    for cls in CLASSES:
        first = 0
        for seq in range(1, 9):
            one = block(cls, 5 if seq < 6 else 6, first, seq, (30, 900, 200)[seq % 3])
            first = one.next if seq != 5 else 0
            made[cls, seq] = one
    store.apply(Changes(inserts=tuple((seq, one) for (_, seq), one in made.items())))
    store.apply(Changes(deletes=((EVENT, (1, 2)),), losses=LOSSES))
    del made[EVENT, 1], made[EVENT, 2]
    store.close()
    return made


def look(directory: Path) -> tuple[Opened, dict[tuple[BlockClass, int], Block], dict[BlockClass, int]]:
    """What a store makes of the file: its account, the blocks that open, and records that are found broken."""
    store = Store(str(directory))
    try:
        opened = store.open()
        found: dict[tuple[BlockClass, int], Block] = {}
        broken = dict.fromkeys(CLASSES, 0)
        for cls in CLASSES:
            low = 1
            while rows := store.fetch(cls, low, LARGEST_SEQ, 1 << 16):
                for row in rows:
                    if row.block is None:
                        broken[cls] += row.count
                    else:
                        found[cls, row.seq] = row.block
                low = rows[-1].seq + 1
        store.apply(Changes(inserts=((1 << 40, block(EVENT, 9, 0, 2, 10)),)))  # it can be gone on with
        return opened, found, broken
    finally:
        store.close()


def judge(
    directory: Path, made: dict[tuple[BlockClass, int], Block], where: str, *, most: int | None = None
) -> None:
    opened, found, broken = look(directory)
    for key, one in found.items():
        assert made.get(key) == one, f"{where}: a wrong block at {key}"
    gone = [key for key in made if key not in found]
    for cls in CLASSES:
        lost = sum(made[key].count for key in gone if key[0] is cls)
        told = opened.losses.get(cls, {}).get(("outbox", cls.value, "corrupt"), 0)
        assert told == opened.corrupt[cls]
        if not opened.uncounted:
            assert told + broken[cls] == lost, (
                f"{where}: {cls}: {lost} records lost, {told + broken[cls]} listed"
            )
    assert most is None or len(gone) <= most, f"{where}: {len(gone)} rows lost"


@pytest.fixture
def room() -> Iterator[Path]:
    """In memory where that can be had: nothing here is about flushing."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as directory:
        yield Path(directory)


@pytest.fixture
def spoiled(room: Path) -> tuple[Path, Path, dict[tuple[BlockClass, int], Block]]:
    """A directory to spoil, an unspoiled one, and what is in it."""
    sound = room / "sound"
    sound.mkdir(mode=0o700)
    return room / "spoiled", sound, fill(sound)


def renew(directory: Path, sound: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(directory)
    shutil.copytree(sound, directory)
    directory.chmod(0o700)


def test_the_sound_file_is_read_whole(
    spoiled: tuple[Path, Path, dict[tuple[BlockClass, int], Block]],
) -> None:
    directory, sound, made = spoiled
    renew(directory, sound)
    opened, found, broken = look(directory)
    assert found == made
    assert not any(broken.values())
    assert not any(opened.corrupt.values())
    assert opened.losses == LOSSES
    assert opened.quarantined is None
    assert opened.last_stream == 6


@pytest.mark.timeout(36_000)
def test_one_bit_wrong_anywhere(spoiled: tuple[Path, Path, dict[tuple[BlockClass, int], Block]]) -> None:
    directory, sound, made = spoiled
    content = (sound / "outbox.db").read_bytes()
    assert len(content) > 60_000
    chance = random.Random(seed())
    total = 8 * len(content)
    bits = sorted(chance.sample(range(total), min(scaled(5000, total), total)))
    renew(directory, sound)
    for bit in bits:
        for path in directory.glob("outbox.db*"):
            path.unlink()
        wrong = bytearray(content)
        wrong[bit >> 3] ^= 1 << (bit & 7)
        path = directory / "outbox.db"
        path.write_bytes(wrong)
        path.chmod(0o600)
        # A page has a few of the small rows; every row has parts on the pages it flows over to.
        judge(directory, made, f"bit {bit} (byte {bit >> 3}, page {(bit >> 3) // PAGE})", most=12)


@pytest.mark.timeout(36_000)
def test_cut_short_anywhere(spoiled: tuple[Path, Path, dict[tuple[BlockClass, int], Block]]) -> None:
    directory, sound, made = spoiled
    content = (sound / "outbox.db").read_bytes()
    chance = random.Random(seed())
    offsets = chance.sample(range(len(content)), scaled(500, len(content)))
    renew(directory, sound)
    for offset in offsets:
        for path in directory.glob("outbox.db*"):
            path.unlink()
        path = directory / "outbox.db"
        path.write_bytes(content[:offset])
        path.chmod(0o600)
        judge(directory, made, f"cut at {offset}")
