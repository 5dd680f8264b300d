"""The count of brackets agrees with a parser that recurses."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis.protocol.depth import is_deeper

_STRINGS = st.text(alphabet='ab[]{}"\\/\n\u00e9', max_size=8)
VALUES = st.recursive(
    st.none() | st.integers() | _STRINGS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_STRINGS, inner, max_size=4),
    max_leaves=30,
)


def depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


@given(VALUES, st.integers(0, 6), st.booleans())
def test_any_json(value: Any, most: int, spaced: bool) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=1 if spaced else None).encode()
    assert is_deeper(text, most) == (depth(value) > most)


@pytest.mark.parametrize("levels", [0, 1, 31, 32, 33, 34, 1000, 100_000])
def test_one_inside_the_other(levels: int) -> None:
    dice = random.Random(levels)
    opened = [dice.choice("[{") for _ in range(levels)]
    text = "".join('{"k":' if each == "{" else "[" for each in opened) + "0"
    text += "".join("}" if each == "{" else "]" for each in reversed(opened))
    assert is_deeper(text.encode(), 32) == (levels > 32)


def test_brackets_of_strings_do_not_hide_any() -> None:
    hidden = b"[" * 40 + b'"' + b"]" * 39 + b'",0,"' + b"[" * 39 + b'"' + b"]" * 40
    assert json.loads(hidden)
    assert is_deeper(hidden, 32)


def test_many_beside_each_other_are_not_deep() -> None:
    assert not is_deeper(b"[" + b",".join([b'{"a":["x]","\\\\"]}'] * 5000) + b"]", 3)
    assert is_deeper(b"[" + b",".join([b'{"a":["x]","\\\\"]}'] * 5000) + b"]", 2)
