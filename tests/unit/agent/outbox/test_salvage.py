"""Damage to the file: no crash, no wrong payload, and what is lost is on the damaged page and listed."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from aegis.agent.outbox.changes import Changes, Opened
from aegis.agent.outbox.database import LARGEST_SEQ, PAGE
from aegis.agent.outbox.pages import Pages
from aegis.agent.outbox.rows import CLASSES, Key
from aegis.agent.outbox.store import Store
from aegis.model.block import Block, BlockClass
from tests.support.outbox import BOOT_ID, record
from tests.support.scale import scaled, seed

EVENT = BlockClass.EVENT
LOSSES = {BlockClass.FLOW: {("ring", "flow", "ring_full"): 3}}


Made = dict[tuple[BlockClass, int], Block]
Places = dict[int, set[tuple[BlockClass, int]]]


def block(cls: BlockClass, stream: int, first: int, count: int, size: int) -> Block:
    records = b"".join(record(cls, number, size) for number in range(first, first + count))
    return Block(
        cls=cls, stream=stream, first=first, count=count, boot_id=BOOT_ID, base_ns=7, records=records
    )


def fill(directory: Path) -> Made:
    """A closed file of all there is in one: small rows on a page, one that fills it and one that flows over to two more,
    rows deleted in front with their page, and rows that came behind the last deletion."""
    store = Store(str(directory))
    store.open()
    made: Made = {}
    first = dict.fromkeys(CLASSES, 0)
    for cls in CLASSES:
        large = 3600 if cls is EVENT else 6000 if cls is BlockClass.VERDICT else 40
        for seq, size in enumerate((large, 30, 200, 90, 60), 1):
            count = 1 if size == large else seq
            made[cls, seq] = block(cls, 5 if seq < 4 else 6, first[cls], count, size)
            first[cls] = made[cls, seq].next if seq != 3 else 0
    store.apply(Changes(inserts=tuple((seq, one) for (_, seq), one in made.items())))
    store.apply(Changes(deletes=((EVENT, (1, 2)),), losses=LOSSES))
    del made[EVENT, 1], made[EVENT, 2]
    for cls in CLASSES:
        made[cls, 6] = block(cls, 6, first[cls], 3, 20)
        store.apply(Changes(inserts=((6, made[cls, 6]),)))
    store.close()
    return made


def places(directory: Path) -> Places:
    """The rows that have bytes on each page."""
    found: Places = {}
    pages = Pages(str(directory / "outbox.db"))
    for cls, seq, spot in pages.rows(Key((directory / "outbox.key").read_bytes())):
        for number in pages.spots(spot):
            found.setdefault(number, set()).add((cls, seq))
    pages.close()
    return found


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
    directory: Path, made: Made, where: str, *, within: set[tuple[BlockClass, int]] | None = None
) -> None:
    """`within` are the rows that may be gone, any when None: then they may be uncounted too."""
    opened, found, broken = look(directory)
    for key, one in found.items():
        assert made.get(key) == one, f"{where}: a wrong block at {key}"
    gone = {key for key in made if key not in found}
    for cls in CLASSES:
        lost = sum(made[key].count for key in gone if key[0] is cls)
        told = opened.losses.get(cls, {}).get(("outbox", cls.value, "corrupt"), 0)
        assert told == opened.corrupt[cls]
        if within is not None or not opened.uncounted:
            assert told + broken[cls] == lost, (
                f"{where}: {cls}: {lost} records lost, {told + broken[cls]} listed"
            )
    if within is not None:
        assert gone <= within, f"{where}: lost {sorted(gone - within)}, which is elsewhere"


@pytest.fixture
def room() -> Iterator[Path]:
    """In memory where that can be had: nothing here is about flushing."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as directory:
        yield Path(directory)


@pytest.fixture
def sound(room: Path) -> tuple[Path, Made]:
    """A directory with a sound file, and what is in it."""
    directory = room / "sound"
    directory.mkdir(mode=0o700)
    return directory, fill(directory)


def judged(kind: str, directory: Path, made: Made, pages: Places, offsets: range | list[int]) -> int:
    """Each of the offsets, in a directory of its own. Gives how many they were."""
    content = (directory / "outbox.db").read_bytes()
    with tempfile.TemporaryDirectory(dir=directory.parent) as name:
        spoiled = Path(name)
        shutil.copyfile(directory / "outbox.key", spoiled / "outbox.key")
        (spoiled / "outbox.key").chmod(0o600)
        for offset in offsets:
            for old in spoiled.glob("outbox.db*"):
                old.unlink()
            path = spoiled / "outbox.db"
            if kind == "bit":
                wrong = bytearray(content)
                wrong[offset >> 3] ^= 1 << (offset & 7)
                number = (offset >> 3) // PAGE + 1
                where = f"bit {offset} (byte {offset >> 3}, page {number})"
            else:
                wrong, where = bytearray(content[:offset]), f"cut at {offset}"
            path.write_bytes(wrong)
            path.chmod(0o600)
            judge(spoiled, made, where, within=pages.get(number, set()) if kind == "bit" else None)
    return len(offsets)


def judged_by_all(kind: str, sound: tuple[Path, Made], most: int, sample: int, least: int = 0) -> None:
    """As `judged`, of so many offsets from `least` to below `most`, on all processors when they are many."""
    directory, made = sound
    offsets = random.Random(seed()).sample(range(least, most), min(sample, most - least))
    hands = len(os.sched_getaffinity(0)) if len(offsets) > 20_000 else 1
    pages = places(directory)
    if hands == 1:
        assert judged(kind, directory, made, pages, offsets) == len(offsets)
        return
    with ProcessPoolExecutor(hands, mp_context=get_context("fork")) as pool:
        shares = [
            pool.submit(judged, kind, directory, made, pages, offsets[at :: 8 * hands])
            for at in range(8 * hands)
        ]
        assert sum(share.result() for share in shares) == len(offsets)


def test_the_sound_file_is_read_whole_and_has_all_that_can_break(sound: tuple[Path, Made]) -> None:
    directory, made = sound
    content = (directory / "outbox.db").read_bytes()
    pages = places(directory)
    opened, found, broken = look(directory)
    assert found == made
    assert not any(broken.values())
    assert not any(opened.corrupt.values())
    assert opened.losses == LOSSES
    assert opened.quarantined is None
    assert opened.last_stream == 6
    kinds = Counter(content[PAGE:][::PAGE])
    assert kinds[5] == 1  # an inner page
    assert kinds[13] > 4  # leaves, one of them free
    assert set().union(*pages.values()) == made.keys()
    assert max(map(len, pages.values())) > 4
    assert sum(pages[number] == {(BlockClass.VERDICT, 1)} for number in pages) > 0  # it flows over
    assert int.from_bytes(content[36:40], "big") > 0


@pytest.mark.timeout(36_000)
def test_one_bit_wrong_anywhere(sound: tuple[Path, Made]) -> None:
    """What is gone has bytes on that page, and is listed, neither less nor more."""
    bits = 8 * (sound[0] / "outbox.db").stat().st_size
    judged_by_all("bit", sound, bits, scaled(5000, bits))


@pytest.mark.timeout(36_000)
def test_each_bit_of_the_pages_that_lead_to_others(sound: tuple[Path, Made]) -> None:
    """Where one bit may hide everything: the inner page, the list of free pages, the fronts of all others."""
    directory, made = sound
    content = (directory / "outbox.db").read_bytes()
    fronts = [8 * at + bit for at in range(0, len(content), PAGE) for bit in range(8 * 20)]
    inner = [8 * at + bit for at in inner_bytes(content) for bit in range(8)]
    assert judged("bit", directory, made, places(directory), sorted({*fronts, *inner})) > 1500


def inner_bytes(content: bytes) -> Iterator[int]:
    """Where the bytes of the inner page's offsets and cells are."""
    at = next(at for at in range(PAGE, len(content), PAGE) if content[at] == 5)
    cells = int.from_bytes(content[at + 3 : at + 5], "big")
    begin = int.from_bytes(content[at + 5 : at + 7], "big")
    yield from range(at, at + 12 + 2 * cells)
    yield from range(at + begin, at + PAGE)


@pytest.mark.timeout(36_000)
def test_cut_short_anywhere(sound: tuple[Path, Made]) -> None:
    size = (sound[0] / "outbox.db").stat().st_size
    judged_by_all("cut", sound, size, scaled(500, size), least=1)  # an empty file is a fresh one


@pytest.mark.parametrize("size", [1, 99, 511, 512, 513, PAGE - 1, PAGE])
def test_a_file_cut_to_less_than_its_first_pages_is_no_fresh_one(sound: tuple[Path, Made], size: int) -> None:
    directory, made = sound
    assert judged("cut", directory, made, {}, [size]) == 1
    os.truncate(directory / "outbox.db", size)
    opened, _, _ = look(directory)
    assert opened.quarantined is not None
    assert opened.uncounted
