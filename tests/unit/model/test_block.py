"""Blocks: the content is the CBOR of the design, comes back as it went, and anything else is refused in words."""

from __future__ import annotations

from contextlib import suppress

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis.model.block import Block, BlockClass, Encoded, end_of, head, parse

RECORDS = [[1, 0, "kernel"], [7, -5, "ring", "exec", "ring_full", 3]]
BLOCK = Block(
    cls=BlockClass.EVENT,
    stream=3,
    first=70_000,
    count=2,
    boot_id=bytes(range(16)),
    base_ns=1_790_000_000_000_000_000,
    records=b"".join(map(cbor2.dumps, RECORDS)),
    losses=(("outbox", "event", "cap", 12),),
)


def test_the_first_class_goes_first() -> None:
    assert [one.value for one in BlockClass] == ["finding", "verdict", "event", "flow", "sample"]


def test_a_run_is_as_long_as_it_says() -> None:
    assert len(Encoded(BlockClass.FLOW, 0, 17, b"")) == 17


def test_content_is_the_array_of_the_design() -> None:
    assert cbor2.loads(BLOCK.content()) == [
        1,
        "event",
        3,
        70_000,
        bytes(range(16)),
        1_790_000_000_000_000_000,
        RECORDS,
        [["outbox", "event", "cap", 12]],
    ]
    assert BLOCK.next == 70_002


@given(
    st.builds(
        Block,
        cls=st.sampled_from(BlockClass),
        stream=st.integers(0, 2**63 - 1),
        first=st.integers(0, 2**63 - 1),
        count=st.just(300),
        boot_id=st.binary(min_size=16, max_size=16),
        base_ns=st.integers(-(2**63), 2**63 - 1),
        records=st.sampled_from(("x", 70_000, [1, {"a": b"b"}], None)).map(
            lambda one: cbor2.dumps(one) * 300
        ),
        losses=st.lists(st.tuples(st.text(), st.text(), st.text(), st.integers(0, 2**64 - 1))).map(tuple),
    )
)
def test_it_comes_back_as_it_went(block: Block) -> None:
    assert parse(block.content()) == block


@pytest.mark.parametrize("value", [0, 23, 24, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**64 - 1])
def test_heads_are_the_shortest(value: int) -> None:
    assert head(0, value) == cbor2.dumps(value)


def test_a_number_too_large_for_a_head() -> None:
    with pytest.raises(OverflowError):
        head(0, 2**64)


def test_cut_short_anywhere_is_refused() -> None:
    content = BLOCK.content()
    for size in range(len(content)):
        with pytest.raises(ValueError):
            parse(content[:size])


@pytest.mark.parametrize(
    ("at", "value", "words"),
    [
        (0, 2, "format 2"),
        (1, "news", "news"),
        (2, -1, "stream"),
        (2, "1", "stream"),
        (3, 2**63, "first"),
        (4, b"short", "boot id"),
        (5, 1.5, "base_ns"),
        (5, 2**63, "base_ns"),
        (6, 3, "array"),
        (7, [["a", "b", "c", "d"]], "losses"),
        (7, 1, "losses"),
    ],
)
def test_what_is_no_block(at: int, value: object, words: str) -> None:
    members = cbor2.loads(BLOCK.content())
    members[at] = value
    with pytest.raises(ValueError, match=words):
        parse(cbor2.dumps(members))


def test_bytes_behind_the_block() -> None:
    with pytest.raises(ValueError, match="1 bytes behind"):
        parse(BLOCK.content() + b"\0")


def test_the_end_of_items_is_found() -> None:
    assert end_of(b"\x00\x82\x01\x02\x03", 1, 1) == 4
    with pytest.raises(ValueError, match="not CBOR"):
        end_of(b"\x00\x82\x01", 1, 1)


@given(st.binary(max_size=64))
def test_noise_raises_nothing_but_value_errors(noise: bytes) -> None:
    for content in (noise, BLOCK.content()[:9] + noise, BLOCK.content()[:-9] + noise):
        with suppress(ValueError):
            assert parse(content).content(), "what is taken can be written again"
