"""The filter grammar: what holds, what is refused and by which words."""

from __future__ import annotations

import click
import pytest

from aegis.cli.selection import parse_filter, parse_filters, pick, split_names, value_at

ROW = {"type": "exec", "pid": 1234, "unit": None, "ok": True, "agent": {"id": "edge"}, "args": ["curl", "-s"]}


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("pid==1234", True),
        ("pid=1234", True),
        ("pid != 1234", False),
        ("pid>=1234", True),
        ("pid>1234", False),
        ("pid<=1233", False),
        ("pid<99999", True),
        ("pid==abc", False),
        ("pid!=abc", True),
        ("type==exec", True),
        ("type~^ex", True),
        ("type!~^ex", False),
        ("unit==", True),
        ("unit!=", False),
        ("unit~.", False),
        ("ok==true", True),
        ("agent.id==edge", True),
        ("agent.nothing==", True),
        ("args~-s", True),
    ],
)
def test_filter_decides(expression: str, expected: bool) -> None:
    assert parse_filter(expression)(ROW) is expected


@pytest.mark.parametrize("expression", ["", "pid", "==3", "pid 3", "type~("])
def test_unreadable_filter_is_refused(expression: str) -> None:
    with pytest.raises(click.UsageError):
        parse_filter(expression)


def test_unknown_field_lists_the_known() -> None:
    with pytest.raises(click.UsageError, match="known: pid, type"):
        parse_filter("pdi==3", frozenset(("pid", "type")))


def test_all_filters_must_hold() -> None:
    both = parse_filters(["pid==1234", "type==exit"])
    assert not both(ROW)
    assert parse_filters([])(ROW)


def test_pick_and_exclude() -> None:
    assert pick(ROW, ("agent.id", "nothing"), ()) == {"agent.id": "edge", "nothing": None}
    assert "args" not in pick(ROW, (), ("args",))
    assert pick(ROW, (), ()) is ROW


def test_names_split_by_commas_and_repeats() -> None:
    assert split_names(["a,b", " c ", ""]) == ("a", "b", "c")


def test_value_at_stops_at_a_scalar() -> None:
    assert value_at(ROW, "pid.low") is None
