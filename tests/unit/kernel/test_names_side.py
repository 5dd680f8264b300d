from __future__ import annotations

from typing import Any, cast

from aegis.kernel.names import Names
from aegis.kernel.names_plan import NamePlan, build_names
from aegis.kernel.names_resolve import Lookup
from aegis.kernel.names_side import NamesSide, learn
from aegis.model.policy import PolicySet
from aegis.model.policy_selectors import NameSelector
from tests.support import dns

ONE, TWO = dns.mapped("192.0.2.1"), dns.mapped("2001:db8::1")
PLAN = NamePlan(
    automaton=build_names([NameSelector("a.test"), NameSelector("*.b.test", True)]),
    classes={1: 4, 2: 9},
    table=(),
    exact=("a.test",),
)


class Tables:
    """In place of `Names`; remembers what was asked of it."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def plan(self, selectors: Any) -> NamePlan:
        self.calls.append(("plan", selectors))
        return PLAN

    def put(self, slot: int, plan: NamePlan, *, beside: int | None = None) -> None:
        self.calls.append(("put", slot, plan))

    def clear(self, slot: int) -> None:
        self.calls.append(("clear", slot))

    def bind(self, address: bytes, class_: int, ttl: int, now: int) -> str | None:
        self.calls.append(("bind", address, class_, ttl, now))
        return "table_full" if address == TWO else None


def test_a_side_fills_and_empties_slots() -> None:
    tables = Tables()
    put: list[NamePlan] = []
    side = NamesSide(cast("Names", tables), committed=put.append)
    assert side.plan(PolicySet()) is PLAN
    assert put == []
    side.put(2, 77, PLAN)
    side.forget(1)
    assert tables.calls == [("plan", ()), ("put", 2, PLAN), ("clear", 1)]
    assert put == [PLAN]


def test_what_was_found_is_bound_to_the_class_of_its_name() -> None:
    tables = Tables()
    found = {
        "A.test.": Lookup(addresses={ONE: 30}),
        "x.b.test": Lookup(addresses={TWO: 5}),
        "of.no.interest": Lookup(addresses={ONE: 30}),
        "c.test": Lookup(error="no resolver answered"),
    }
    missing = learn(cast("Names", tables), PLAN, found, 100)
    assert tables.calls == [("bind", ONE, 4, 30, 100), ("bind", TWO, 9, 5, 100)]
    assert missing == {"x.b.test": "its address found no room: table_full", "c.test": "no resolver answered"}
