from __future__ import annotations

import pytest

from aegis.runtime.counters import Counters, balanced, relations


def test_an_identity_is_parsed_into_its_sides() -> None:
    assert relations("a = b + c; d<=e") == (((("a",), ("b", "c")), "="), ((("d",), ("e",)), "<="))


@pytest.mark.parametrize(("middle", "holds"), [(2, False), (3, True), (5, True), (6, False)])
def test_a_sum_may_lie_between_two_readings(middle: int, holds: bool) -> None:
    assert balanced("before <= x + y <= after", {"before": 3, "x": middle, "y": 0, "after": 5}) is holds


@pytest.mark.parametrize(
    ("terms", "holds"),
    [
        ({"a": 7, "b": 3, "c": 4, "d": 3}, True),
        ({"a": 7, "b": 3, "c": 3, "d": 3}, False),
        ({"a": 7, "b": 3, "c": 4, "d": 4}, False),
    ],
)
def test_every_equation_must_hold(terms: dict[str, int], holds: bool) -> None:
    assert balanced("a = b + c; b = d", terms) is holds


def test_a_term_nobody_read_is_a_bug() -> None:
    with pytest.raises(KeyError):
        balanced("a = b", {"a": 1})


def test_stages_come_and_go() -> None:
    counters, lost = Counters(), [0]
    with counters.count("in = out", lambda: {"x": {"in": 5, "out": 5 - lost[0]}, "y": {"in": 0, "out": 0}}):
        assert [(one.stage, one.balanced) for one in counters.read()] == [("x", True), ("y", True)]
        lost[0] = 1
        first = counters.read()[0]
        assert (first.stage, first.balanced, first.terms["out"]) == ("x", False, 4)
    assert counters.read() == ()
