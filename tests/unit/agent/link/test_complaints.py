"""Complaints about a peer's frames."""

from __future__ import annotations

from typing import Any

import pytest

from aegis.agent.link.complaints import EVERY_NS, Complaints, escaped


def test_the_first_of_each_kind_a_minute_and_the_number_of_the_others() -> None:
    told: list[tuple[str, dict[str, Any]]] = []
    now = [0]
    complaints = Complaints(lambda event, **fields: told.append((event, fields)), lambda: now[0])
    for _ in range(1000):
        complaints.add("refused", "envelope_invalid", "x")
    complaints.add("refused", "other", "y")
    assert [(event, fields["code"]) for event, fields in told] == [
        ("refused", "envelope_invalid"),
        ("refused", "other"),
    ]
    now[0] = EVERY_NS
    complaints.add("refused", "envelope_invalid", "z")
    assert told[-1] == ("refused", {"code": "envelope_invalid", "text": "z", "like_it_untold": 999})


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no room, come back in 5 s", "no room, come back in 5 s"),
        ("\x1b[2Jgone\r\n", "\\x1b[2Jgone\\r\\n"),
        ("\x9b31m\u202egnp", "\\x9b31m\\u202egnp"),
        ("Größe \ud800", "Größe \\ud800"),
    ],
)
def test_words_of_a_stranger_steer_no_terminal(text: str, shown: str) -> None:
    assert escaped(text) == shown
    assert escaped(shown) == shown


def test_words_of_a_stranger_are_few() -> None:
    assert (escaped("\x1b" * 1000), len(escaped("\x1b" * 1000, 8))) == ("\\x1b" * 50, 8)
