from __future__ import annotations

import os

import pytest

from aegis.agent.outbox.rows import CLASSES, RANK, ROW_BYTES, Key, associated, row_bytes, stored_bytes
from aegis.errors import SpoolCorrupt
from aegis.model.block import Block, BlockClass

BLOCK = Block(
    cls=BlockClass.FLOW,
    stream=7,
    first=99,
    count=3,
    boot_id=bytes(16),
    base_ns=-5,
    records=b"\x01\x02\x03",
    losses=(("ring", "exec", "ring_full", 4),),
)


def test_the_classes_are_in_the_order_they_go() -> None:
    assert [cls.value for cls in CLASSES] == ["finding", "verdict", "event", "flow", "sample"]
    assert RANK[BlockClass.FINDING] == 0


def test_a_row_opens_under_its_place_only() -> None:
    key = Key(os.urandom(32))
    sealed = key.seal(BLOCK, 5, 1234)
    assert key.open(BlockClass.FLOW, 5, 7, 99, sealed) == (BLOCK, 1234)
    assert BLOCK.records not in sealed
    for cls, seq, stream, first in (
        (BlockClass.EVENT, 5, 7, 99),
        (BlockClass.FLOW, 6, 7, 99),
        (BlockClass.FLOW, 5, 8, 99),
        (BlockClass.FLOW, 5, 7, 98),
        (BlockClass.FLOW, 5, -1, 99),
    ):
        with pytest.raises(SpoolCorrupt):
            key.open(cls, seq, stream, first, sealed)
    with pytest.raises(SpoolCorrupt):
        Key(os.urandom(32)).open(BlockClass.FLOW, 5, 7, 99, sealed)


def test_each_byte_counts() -> None:
    key = Key(os.urandom(32))
    sealed = key.seal(BLOCK, 5, 0)
    for number in range(len(sealed)):
        wrong = bytearray(sealed)
        wrong[number] ^= 1
        with pytest.raises(SpoolCorrupt):
            key.open(BlockClass.FLOW, 5, 7, 99, bytes(wrong))
        with pytest.raises(SpoolCorrupt):
            key.open(BlockClass.FLOW, 5, 7, 99, sealed[:number])


def test_no_two_seals_are_alike() -> None:
    key = Key(bytes(32))
    assert key.seal(BLOCK, 1, 0)[:24] != key.seal(BLOCK, 1, 0)[:24]


def test_the_size_is_known_before_sealing() -> None:
    assert stored_bytes(BLOCK) == row_bytes(len(Key(bytes(32)).seal(BLOCK, 1, 0))) > ROW_BYTES


def test_the_state_is_no_block() -> None:
    key = Key(bytes(32))
    assert key.open_state(key.seal_state(b"x")) == b"x"
    with pytest.raises(SpoolCorrupt):
        key.open_state(key.seal(BLOCK, 1, 0))
    with pytest.raises(ValueError, match="32 bytes"):
        Key(b"short")


@pytest.mark.parametrize(
    ("size", "change", "why"),
    [
        (48, {}, "cut short"),
        (0, {}, "format"),
        (99, {0: 2}, "format 02"),
        (60, {}, "cut short in its losses"),
        (99, {50: 0xFF}, "losses"),
        (99, {49: ord("x")}, "losses"),
    ],
)
def test_what_another_agent_sealed_is_refused_in_words(size: int, change: dict[int, int], why: str) -> None:
    """The seal holds, and what is inside is no row of this version."""
    key = Key(bytes(32))
    place = associated(BLOCK.cls, BLOCK.stream, BLOCK.first)
    plain = bytearray(key._opened(key.seal(BLOCK, 5, 6), place)[:size])
    for at, byte in change.items():
        plain[at] = byte
    with pytest.raises(SpoolCorrupt, match=why):
        key.open(BLOCK.cls, 5, BLOCK.stream, BLOCK.first, key._sealed(bytes(plain), place))


def test_a_row_says_itself_where_it_belongs() -> None:
    key = Key(os.urandom(32))
    sealed = key.seal(BLOCK, 5, 1234)
    for likely in (None, *CLASSES):
        assert key.find(likely, 7, 99, sealed) == (BlockClass.FLOW, 5, BLOCK, 1234)
    for stream, first in ((8, 99), (7, 98), (-1, 99)):
        with pytest.raises(SpoolCorrupt):
            key.find(BlockClass.FLOW, stream, first, sealed)
