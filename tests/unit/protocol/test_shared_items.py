"""What an item stands for that names members it has in common with others."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis.errors import EnvelopeInvalid
from aegis.protocol.shared_items import expand, named, sizes

ANCESTORS = b'{"ancestors":[{"pid":1}]}'
OWNER = b'{"pid":7,"shared":0}'


def test_an_item_has_the_members_of_all_it_names() -> None:
    assert expand(b'{"type":"exec","shared":1}', [ANCESTORS, OWNER]) == (
        b'{"type":"exec","pid":7,"ancestors":[{"pid":1}]}'
    )
    assert expand(b'{"type":"exec","shared":0}', [ANCESTORS, OWNER]) == (
        b'{"type":"exec","ancestors":[{"pid":1}]}'
    )


@pytest.mark.parametrize(
    "item",
    [
        b"{}",
        b'{"a":1}',
        b'{"shared":0,"a":1}',
        b'{"a":{"b":1,"shared":0}}',
        b'{"a":1, "shared":0}',
        b'{"a":1,"shared": 0}',
        b'{"a":1,"shared":0.0}',
        b'{"a":1,"shared":-0}',
        b'{"a":1,"shared":"0"}',
        b'{"a":1,"shared":[0]}',
        b'{"a":1,"shared":12345}',
        b'{"a":1,"Shared":0}',
        b'{"a":"x,\\"shared\\":0}"}',
        b'{"a,\\"shared":0}',
    ],
)
def test_anything_else_stays_as_it_is(item: bytes) -> None:
    assert json.loads(item) is not None
    assert named(item) is None
    assert expand(item, [ANCESTORS]) == item


def test_where_nothing_is_shared_nothing_is_named() -> None:
    assert expand(b'{"a":1,"shared":0}', []) == b'{"a":1,"shared":0}'


@pytest.mark.parametrize(
    ("item", "shared", "whole"),
    [
        (b'{"shared":0}', [b'{"a":1}'], {"a": 1}),
        (b'{"shared":0}', [b"{}"], {}),
        (b'{"a":1,"shared":0}', [b"{ }"], {"a": 1}),
        (b'{"a":1,"shared":1}', [b'{"b":2}', b'{"shared":0}'], {"a": 1, "b": 2}),
        (b'{"a":1,"shared":0}', [b'{ "b":2 }'], {"a": 1, "b": 2}),
    ],
)
def test_objects_without_members_of_their_own(item: bytes, shared: list[bytes], whole: Any) -> None:
    assert json.loads(expand(item, shared)) == whole


@pytest.mark.parametrize(
    ("item", "shared"),
    [
        (b'{"a":1,"shared":1}', [b"{}"]),
        (b'{"a":1,"shared":9999}', [b"{}"]),
        (b'{"a":1,"shared":0}', [b'{"b":1,"shared":0}']),
        (b'{"a":1,"shared":0}', [b'{"b":1,"shared":1}', b"{}"]),
        (b'{"a":1,"shared":1}', [b'{"b":1,"shared":1}', b'{"b":1,"shared":0}']),
    ],
)
def test_what_is_named_is_there_and_goes_round_in_no_circle(item: bytes, shared: list[bytes]) -> None:
    with pytest.raises(EnvelopeInvalid):
        expand(item, shared)


def test_sizes_are_those_with_all_that_is_named() -> None:
    shared = [b'{"a":1}', b'{"b":2,"shared":0}', b'{"c":3}', b'{"d":4,"shared":1}']
    found = sizes(shared)
    assert found == [7, 18 + 7, 7, 18 + 18 + 7]
    for place, size in enumerate(found):
        item = b'{"x":1,"shared":%d}' % place
        assert len(expand(item, shared)) <= len(item) + size


@pytest.mark.parametrize(
    "shared", [[OWNER], [b"{}", b'{"a":1,"shared":1}'], [b'{"a":1,"shared":1}', b"{}"], [b'{"shared":9999}']]
)
def test_an_object_names_one_before_it(shared: list[bytes]) -> None:
    with pytest.raises(EnvelopeInvalid, match=r"^shared: \d names \d+, which is not before it"):
        sizes(shared)


def test_sizes_of_a_long_chain() -> None:
    """Each is named by the next; what that adds up to is a number, and nobody writes it out."""
    assert sizes([b"{}", *(b'{"shared":%d}' % place for place in range(1023))])[-1] < 20_000


values = st.recursive(
    st.none() | st.integers() | st.text(), lambda each: st.lists(each) | st.dictionaries(st.text(), each)
)
objects = st.dictionaries(st.text().filter(lambda key: key != "shared"), values, max_size=4)


@given(st.lists(st.tuples(objects, st.integers(0, 8)), min_size=1, max_size=5), objects)
def test_members_add_up(shared: list[tuple[dict[str, Any], int]], own: dict[str, Any]) -> None:
    """Members of any names and values, by chance."""
    whole: list[dict[str, Any]] = []
    written: list[bytes] = []
    for members, below in shared:
        names = {"shared": below} if below < len(written) else {}
        whole.append((whole[below] if names else {}) | members)
        written.append(json.dumps(members | names, separators=(",", ":"), ensure_ascii=False).encode())
    item = json.dumps(own | {"shared": len(written) - 1}, separators=(",", ":"), ensure_ascii=False).encode()
    found = json.loads(expand(item, written), object_pairs_hook=list)
    keys = {key for key, _ in found}
    assert keys == set(whole[-1]) | set(own)
    for key, value in own.items():
        if key not in whole[-1]:
            assert json.loads(expand(item, written))[key] == value
