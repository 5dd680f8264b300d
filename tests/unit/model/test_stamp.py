from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis.model.stamp import rfc3339


@pytest.mark.parametrize(
    ("time_ns", "text"),
    [
        (0, "1970-01-01T00:00:00.000000000Z"),
        (1, "1970-01-01T00:00:00.000000001Z"),
        (999_999_999, "1970-01-01T00:00:00.999999999Z"),
        (1_790_000_000_123_456_789, "2026-09-21T14:13:20.123456789Z"),
        (951_782_400_000_000_000, "2000-02-29T00:00:00.000000000Z"),
    ],
)
def test_known_instants(time_ns: int, text: str) -> None:
    assert rfc3339(time_ns) == text


@given(st.integers(0, 4_000_000_000 * 10**9))
def test_it_is_the_instant_it_says(time_ns: int) -> None:
    text = rfc3339(time_ns)
    parsed = dt.datetime.fromisoformat(text[:19] + "+00:00")
    assert int(parsed.timestamp()) * 10**9 + int(text[20:29]) == time_ns
