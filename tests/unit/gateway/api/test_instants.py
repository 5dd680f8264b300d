from __future__ import annotations

import pytest

from aegis.errors import QueryInvalid
from aegis.gateway.api.instants import instant_ns, rfc3339_ns, span_s

NOW = 1_763_900_000_000_000_000


@pytest.mark.parametrize(
    ("text", "seconds"), [("5s", 5), ("500ms", 0.5), ("5", 5), ("1m", 60), ("0s", 0), ("1.5s", 1.5)]
)
def test_spans(text: str, seconds: float) -> None:
    assert span_s(text, name="wait", most=60) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s",
        "-1s",
        "61s",
        "2m",
        "5 s",
        "1e3s",
        "\N{ARABIC-INDIC DIGIT FIVE}s",
        "inf",
        "nan",
        "5s\n",
        "9" * 99,
    ],
)
def test_what_is_no_span(text: str) -> None:
    with pytest.raises(QueryInvalid, match="wait"):
        span_s(text, name="wait", most=60)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("5m", NOW - 300 * 10**9),
        ("1763900000000000001", NOW + 1),
        ("2025-11-23T12:13:20Z", NOW),
        ("2025-11-23T13:13:20.000001+01:00", NOW + 1000),
        ("1970-01-01T00:00:00Z", 0),
    ],
)
def test_instants(text: str, found: int) -> None:
    assert instant_ns(text, name="since", now_ns=NOW) == found


@pytest.mark.parametrize(
    "text",
    ["", "now", "5", "2025-11-23", "2025-11-23T12:13:20", "1969-12-31T23:59:59Z", "9999-12-31T23:59:59Z",
     "0001-01-01T00:00:00+14:00", "100000000d", "9223372036854775807"],
)  # fmt: skip
def test_what_is_no_instant(text: str) -> None:
    with pytest.raises(QueryInvalid, match="since"):
        instant_ns(text, name="since", now_ns=NOW)


def test_an_instant_loses_no_microsecond() -> None:
    assert rfc3339_ns("2286-11-20T17:46:39.999999Z", name="x") == 9_999_999_999_999_999_000
