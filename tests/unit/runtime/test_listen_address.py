from __future__ import annotations

import pytest

from aegis.runtime.listen_address import parse, problem


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("127.0.0.1:9100", ("127.0.0.1", 9100)),
        ("0.0.0.0:0", ("0.0.0.0", 0)),
        ("[::1]:65535", ("::1", 65535)),
    ],
)
def test_what_is_taken(text: str, found: tuple[str, int]) -> None:
    assert parse(text) == found
    assert problem(text) is None


@pytest.mark.parametrize(
    "text",
    ["", "9100", ":9100", "localhost:9100", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1:\u0661",
     "::1:9100", "[127.0.0.1]:9100", "[::1]", "127.0.0.1:9100 ", "127.0.0.1:" + "1" * 5000],
)  # fmt: skip
def test_what_is_not(text: str) -> None:
    assert parse(text) is None
    assert "ADDR:PORT" in str(problem(text))
