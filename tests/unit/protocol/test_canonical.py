"""The signed texts, by hand; the whole known answers are in tests/vectors."""

from __future__ import annotations

from aegis.protocol import canonical


def test_texts() -> None:
    assert canonical.authentication("a", "K=", 7, "n") == b"a:K=:7:n"
    assert canonical.message("u", "K=", 7, "n") == b"u:K=:7:n"
    assert canonical.authentication_answer(7, "p") == b":::7:p"
    assert canonical.registration(b"\xff\0", "t", "h\u00e9") == b"\xff\0th\xc3\xa9"
