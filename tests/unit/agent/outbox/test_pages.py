"""Rows by page: all that are there, none that was deleted, under the place their seal says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from aegis.agent.outbox.changes import Changes
from aegis.agent.outbox.database import PAGE
from aegis.agent.outbox.pages import Pages
from aegis.agent.outbox.rows import Key
from aegis.agent.outbox.store import Store
from aegis.model.block import Block, BlockClass

EVENT, SAMPLE = BlockClass.EVENT, BlockClass.SAMPLE
SIZES = (0, 1, 300, 3900, 3999, 4000, 4400, 4500, 8000, 8192, 12_400, 60_000)


def block(cls: BlockClass, seq: int, size: int) -> Block:
    return Block(
        cls=cls, stream=seq, first=1 << 40, count=7, boot_id=bytes(16), base_ns=0, records=bytes(size)
    )


@pytest.fixture
def made(tmp_path: Path) -> dict[tuple[BlockClass, int], Block]:
    """Rows of many sizes, about the ones where they flow over; a whole leaf of others was deleted."""
    store = Store(str(tmp_path))
    store.open()
    rows = {(cls, seq): block(cls, seq, size) for cls in (EVENT, SAMPLE) for seq, size in enumerate(SIZES, 1)}
    store.apply(Changes(inserts=tuple((seq, one) for (_, seq), one in rows.items())))
    store.apply(Changes(inserts=tuple((seq, block(BlockClass.FINDING, seq, 20)) for seq in range(1, 200))))
    store.apply(Changes(deletes=((BlockClass.FINDING, (1, 199)), (EVENT, (2, 3)))))
    store.close()
    return {key: one for key, one in rows.items() if key not in {(EVENT, 2), (EVENT, 3)}}


def found(path: Path) -> list[tuple[BlockClass, int]]:
    pages = Pages(str(path / "outbox.db"))
    try:
        return [(cls, seq) for cls, seq, _ in pages.rows(key_of(path))]
    finally:
        pages.close()


def key_of(path: Path) -> Key:
    return Key((path / "outbox.key").read_bytes())


def change(path: Path, how: Callable[[bytearray], None]) -> None:
    content = bytearray((path / "outbox.db").read_bytes())
    how(content)
    (path / "outbox.db").write_bytes(content)


def test_every_row_is_found_once_with_its_block_and_its_pages(
    tmp_path: Path, made: dict[tuple[BlockClass, int], Block]
) -> None:
    pages = Pages(str(tmp_path / "outbox.db"))
    key = key_of(tmp_path)
    rows = list(pages.rows(key))
    blocks = {}
    for cls, seq, spot in rows:
        row = pages.row(key, spot)
        assert row is not None
        assert row[:2] == (cls, seq)
        blocks[cls, seq] = row[2]
        size = len(row[2].records)
        assert len(pages.spots(spot)) == len(set(pages.spots(spot)))
        assert (len(pages.spots(spot)) - 1) * PAGE >= size - PAGE + 100
    pages.close()
    assert len(rows) == len(blocks)
    assert blocks == made


def test_the_tree_is_not_asked(tmp_path: Path, made: dict[tuple[BlockClass, int], Block]) -> None:
    def spoil(content: bytearray) -> None:
        for at in range(PAGE, len(content), PAGE):
            if content[at] == 5:
                content[at : at + PAGE] = bytes(PAGE)

    change(tmp_path, spoil)
    assert set(found(tmp_path)) == made.keys()


def test_what_was_deleted_stays_so(tmp_path: Path, made: dict[tuple[BlockClass, int], Block]) -> None:
    def forget(content: bytearray) -> None:
        content[32:40] = bytes(8)

    def break_list(content: bytearray) -> None:
        content[39] ^= 1

    whole = (tmp_path / "outbox.db").read_bytes()
    change(tmp_path, forget)
    assert len(found(tmp_path)) > len(made)  # so much for the list of free pages
    (tmp_path / "outbox.db").write_bytes(whole)
    change(tmp_path, break_list)
    assert found(tmp_path) == []


def test_a_row_is_found_where_its_seal_says_whatever_its_id(
    tmp_path: Path, made: dict[tuple[BlockClass, int], Block]
) -> None:
    def rename(content: bytearray) -> None:
        at = content.index(
            b"\x82\x80\x80\x80\x80\x80\x80\x80\x01"
        )  # seq 1 of SAMPLE; the first byte has the class
        content[at] = 0x81

    change(tmp_path, rename)
    assert set(found(tmp_path)) == made.keys()


@pytest.mark.parametrize("size", [0, 100, PAGE, PAGE + 1])
def test_a_file_that_is_no_database_has_none(tmp_path: Path, size: int) -> None:
    (tmp_path / "outbox.key").write_bytes(bytes(32))
    (tmp_path / "outbox.db").write_bytes(b"\x0d" * size)
    if size < PAGE:
        with pytest.raises(ValueError, match="no page 1"):
            found(tmp_path)
    else:
        assert found(tmp_path) == []
