from __future__ import annotations

from typing import Any

import msgspec
import pytest

from aegis.gateway.standing import LONGEST, MOST, Standing, Standings


def module(name: str, **more: Any) -> dict[str, Any]:
    return {"what": "module", "name": name, "state": "running", **more}


def condition(code: str, *, holds: bool = True, source: str = "kernel") -> dict[str, Any]:
    return {"what": "condition", "source": source, "code": code, "holds": holds}


def shown(standing: Standing, what: str) -> list[dict[str, Any]]:
    return [msgspec.json.decode(one) for one in standing.of(what)]


def test_the_last_word_of_each_counts() -> None:
    all_, one = Standings(), Standing()
    for state in (
        module("b"),
        module("a"),
        module("b", state="stopped"),
        condition("x"),
        condition("x", source="s"),
    ):
        all_.told(one, state)
    assert shown(one, "module") == [module("a"), module("b", state="stopped")]
    assert shown(one, "condition") == [condition("x"), condition("x", source="s")]
    all_.told(one, condition("x", holds=False))
    assert shown(one, "condition") == [condition("x", source="s")]
    all_.begin(one)
    assert (one.of("module"), one.of("condition"), all_.held_bytes) == ([], [], 0)


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"what": "module"},
        {"what": "module", "name": ""},
        {"what": "module", "name": ["a"]},
        {"what": ["module"], "name": "a"},
        {"what": "weather", "name": "a"},
        {"what": "condition", "code": "x"},
    ],
)
def test_what_names_nothing_is_not_kept(state: dict[str, Any]) -> None:
    all_, one = Standings(), Standing()
    all_.told(one, state)
    assert (all_.held_bytes, one.of("module"), one.of("condition")) == (0, [], [])


def test_an_agent_that_tells_without_end_is_kept_within_bounds() -> None:
    all_, one, other = Standings(), Standing(), Standing()
    for number in range(3 * MOST):
        all_.told(one, module(f"m{number:04}"))
    assert len(one.of("module")) == MOST
    all_.told(one, module("m0001", state="stopped"))  # those that are there still change
    assert shown(one, "module")[1]["state"] == "stopped"
    all_.told(one, module("m0001", text="x" * LONGEST))
    assert len(one.of("module")) == MOST - 1  # the old word would be wrong
    all_.told(other, module("a"))
    assert len(other.of("module")) == 1


def test_all_agents_together_are_kept_within_bounds() -> None:
    all_ = Standings(most_bytes=100)
    ones = [Standing() for _ in range(5)]
    for one in ones:
        all_.told(one, module("a"))
    held = [len(b"".join(bytes(said) for said in one.of("module"))) for one in ones]
    assert sum(held) == all_.held_bytes <= 100
    assert [bool(size) for size in held] == [True, True, False, False, False]
    all_.begin(ones[0])
    all_.told(ones[4], module("a"))
    assert ones[4].of("module")
