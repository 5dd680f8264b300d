from __future__ import annotations

import random

import pytest

from aegis.errors import PolicyUnenforceable
from aegis.kernel import abi, names_plan
from aegis.kernel.automaton import Glob
from aegis.kernel.names_plan import (
    STATES,
    NamePlan,
    accepted,
    affix_row,
    build_names,
    class_table,
    selectors_of,
)
from aegis.model.policy_selectors import NameSelector

WWW, WILD, BELOW, ALL = (
    NameSelector("www.example.com"),
    NameSelector("*.example.com", True),
    NameSelector("**.example.com", True),
    NameSelector("*", True),
)


def walked(selectors: list[NameSelector], name: str) -> set[NameSelector]:
    automaton = build_names(selectors)
    state = automaton.walk(label.encode() for label in reversed(name.split(".")))
    return set(selectors_of(automaton.states[state].accepts, selectors))


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("www.example.com", {WWW, WILD, BELOW, ALL}),
        ("a.example.com", {WILD, BELOW, ALL}),
        ("a.b.example.com", {BELOW, ALL}),
        ("example.com", {ALL}),
        ("www.example.com.org", {ALL}),
    ],
)
def test_the_automaton_finds_every_selector(name: str, found: set[NameSelector]) -> None:
    assert walked([WWW, WILD, BELOW, ALL], name) == found
    assert walked([WWW, WILD, BELOW], name) == found - {ALL}


def test_as_the_language_says() -> None:
    rng = random.Random(7)
    labels = ("a", "ab", "b", "com")
    for _ in range(200):
        texts = [
            ".".join(rng.choice((*labels, "*", "a*", "*b")) for _ in range(rng.randrange(1, 4)))
            for _ in "123"
        ]
        selectors = [NameSelector(text, "*" in text) for text in sorted(set(texts))]
        name = ".".join(rng.choice(labels) for _ in range(rng.randrange(1, 4)))
        assert walked(selectors, name) == {each for each in selectors if each.matches(name)}, (texts, name)


def test_rows_belong_to_their_slot() -> None:
    automaton = build_names([WWW, NameSelector("api-*.test", True)])
    plan = NamePlan(automaton=automaton, classes={1: 5, 2: 6}, table=())
    rows = list(plan.rows(2))
    states = {
        int.from_bytes(key, "little"): abi.unpack("aegis_name_state", value)
        for table, key, value in rows
        if table == "aegis_name_states"
    }
    assert set(states) == {2 * STATES + number for number in range(len(automaton.states))}
    assert {row.class_ for row in states.values()} == {0, 5, 6}
    assert all(row.otherwise // STATES == 2 for row in states.values())
    edges = [abi.unpack("aegis_name_edge", key) for table, key, _ in rows if table == "aegis_name_edges"]
    assert {edge.state // STATES for edge in edges} == {2}
    assert {edge.size for edge in edges} == {3, 7, 4}  # www and com, example, test
    (branch,) = [
        abi.unpack("aegis_name_branch", key) for table, key, _ in rows if table == "aegis_name_branches"
    ]
    assert (branch.state // STATES, branch.matched) == (2, 1)
    assert plan.root == automaton.start


def test_without_selectors_there_is_no_root() -> None:
    automaton = build_names([])
    assert NamePlan(automaton=automaton, classes={}, table=()).root == 0
    assert accepted(automaton) == frozenset()


def test_an_affix_is_left_and_right_aligned() -> None:
    row = abi.unpack("aegis_name_affix", affix_row(Glob(b"ab", b"yz", open=True)))
    assert bytes(abi.buffer(row))[:3] == b"ab\0"
    assert bytes(abi.buffer(row))[64:67] == b"\xff\xff\0"
    assert bytes(abi.buffer(row))[128 + 61 : 192] == b"\0yz"
    assert bytes(abi.buffer(row))[192 + 61 : 256] == b"\0\xff\xff"
    assert row.least == 4


def test_what_the_tables_have_no_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names_plan, "AFFIXES", 2)
    wild = [NameSelector(f"{letter}*.{letter}.test", True) for letter in "abc"]
    build_names(wild[:2])
    with pytest.raises(PolicyUnenforceable, match="need 3 places, 2 are there"):
        build_names(wild)
    monkeypatch.setattr(names_plan, "STATES", 5)
    with pytest.raises(PolicyUnenforceable, match="toFQDNs"):
        build_names([NameSelector("a.b.c.d.e.f")])


def test_a_class_stands_for_what_is_left_of_it() -> None:
    sets = {1: frozenset({WWW}), 2: frozenset({WWW, WILD}), 4: frozenset({BELOW}), 7: frozenset({ALL})}
    assert class_table(sets, [WILD, WWW, BELOW]) == ((1,), (0, 1), (), (2,))
    assert class_table(sets, [NameSelector("other.test")]) == ()
