"""The automaton of patterns over components: what each kind of step means, and its limits."""

from __future__ import annotations

import pytest

from aegis.errors import PolicyUnenforceable
from aegis.kernel import automaton
from aegis.kernel.automaton import ANY, BELOW, DEAD, Automaton, Glob, Pattern, Step, build, glob_of


def steps(text: str) -> Pattern:
    """`a/b*/**`, and `+x` for a repeated step."""
    found = []
    for part in text.split("/"):
        if part == "**":
            found.append(BELOW)
        else:
            found.append(
                Step(glob_of(part.removeprefix("+").encode(), "test"), repeated=part.startswith("+"))
            )
    return tuple(found)


def accepted(made: Automaton, path: str) -> int:
    return made.states[made.walk(part.encode() for part in path.split("/") if part)].accepts


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a", False),
        ("a/b", "a/b/c", False),
        ("a/b/**", "a/b/c/d", True),
        ("a/b/**", "a/b", True),
        ("a/b/**", "a/bc", False),
        ("**/b", "b", True),
        ("**/b", "a/a/b", True),
        ("**/b", "b/b/a", False),
        ("get*@*", "", False),
        ("x*.service", "x.service", True),
        ("x*.service", "x.servic", False),
        ("ab*ba", "aba", False),
        ("ab*ba", "abba", True),
        ("*/b", "anything/b", True),
        ("*/b", "b", False),
        ("+*.slice/a.service/**", "a.service", True),
        ("+*.slice/a.service/**", "x.slice/x-y.slice/a.service/child", True),
        ("+*.slice/a.service/**", "x.slice/other/a.service", False),
        ("+*.slice/a.service/**", "user@1.service/a.service", False),
    ],
)
def test_what_a_pattern_matches(pattern: str, path: str, matches: bool) -> None:
    if pattern == "get*@*":
        with pytest.raises(PolicyUnenforceable, match="more than one"):
            steps(pattern)
        return
    assert accepted(build([steps(pattern)]), path) == matches


def test_each_pattern_has_its_bit() -> None:
    made = build([steps("a/**"), steps("a/b*"), steps("a/bc"), steps("**")])
    assert accepted(made, "a/bc") == 0b1111
    assert accepted(made, "a/bd") == 0b1011
    assert accepted(made, "a/bc/d") == 0b1001
    assert accepted(made, "") == 0b1000


def test_what_matches_nothing_any_more_is_dead() -> None:
    made = build([steps("a/b")])
    assert made.walk([b"x"]) == DEAD
    assert made.walk([b"a", b"b", b"c"]) == DEAD
    assert made.states[DEAD].accepts == 0
    assert made.step(DEAD, b"a") == DEAD
    assert build([]).start == DEAD


def test_affixes_that_overlap_in_a_short_component() -> None:
    made = build([steps("aba*"), steps("*aba"), steps("ab*ba")])
    assert accepted(made, "aba") == 0b011
    assert accepted(made, "abaaba") == 0b111
    assert accepted(made, "abba") == 0b100
    partly = build([steps("aab*"), steps("*bcc"), steps("aab*bcc")])
    assert accepted(partly, "aabcc") == 0b011
    assert accepted(partly, "aabbcc") == 0b111


def test_an_exact_component_beside_affixes() -> None:
    made = build([steps("ssh*"), steps("sshd"), steps("*d")])
    assert accepted(made, "sshd") == 0b111
    assert accepted(made, "sshx") == 0b001
    assert accepted(made, "xd") == 0b100


def test_limits_are_named() -> None:
    with pytest.raises(PolicyUnenforceable, match="more than 3 states") as caught:
        build([steps("a/b/c")], "spec.subject.cgroup", most=3)
    assert caught.value.path == "spec.subject.cgroup"
    many = [steps(f"p{number}x*") for number in range(automaton.AFFIXES + 1)]
    with pytest.raises(PolicyUnenforceable, match="more than 64 patterns"):
        build(many)
    assert len(build(many[:-1]).states[1].affixes) == automaton.AFFIXES


def test_globs() -> None:
    assert glob_of(b"abc", "p") == Glob(b"abc")
    assert glob_of(b"*", "p") == ANY
    assert glob_of(b"a*c", "p") == Glob(b"a", b"c", open=True)
