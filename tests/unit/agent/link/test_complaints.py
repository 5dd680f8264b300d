"""Complaints about a peer's frames."""

from __future__ import annotations

from typing import Any

from aegis.agent.link.complaints import EVERY_NS, Complaints


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
