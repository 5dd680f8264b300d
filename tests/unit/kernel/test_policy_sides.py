"""Sides: every feature is planned, put and forgotten; names say which classes there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aegis.kernel.policy_sides import Sides
from aegis.model.policy import PolicySet
from aegis.model.policy_selectors import Feature


@dataclass
class Planned:
    table: tuple[tuple[int, ...], ...]


class Noted:
    def __init__(self, feature: Feature, calls: list[tuple[Any, ...]]) -> None:
        self.feature, self.calls = feature, calls

    def plan(self, policies: PolicySet) -> Planned:
        self.calls.append(("plan", self.feature, policies))
        return Planned(table=((1,), (0, 1)))

    def put(self, slot: int, generation: int, plan: Any, beside: int | None = None) -> None:
        self.calls.append(("put", self.feature, slot, generation, plan))

    def forget(self, slot: int) -> None:
        self.calls.append(("forget", self.feature, slot))


def test_every_side_is_asked() -> None:
    calls: list[tuple[Any, ...]] = []
    sides = Sides({each: Noted(each, calls) for each in Feature})
    assert sides.features == set(Feature)
    plan = sides.plan(PolicySet())
    assert plan.name_classes == ((1,), (0, 1))
    sides.put(2, 9, plan)
    sides.forget(1)
    assert [call[:2] for call in calls] == [
        (verb, each) for verb in ("plan", "put", "forget") for each in Feature
    ]
    assert calls[2][2:] == (2, 9, plan.plans[Feature.SUBJECTS])
    assert calls[5][2] == 1


def test_without_sides_nothing_is_asked_and_no_name_has_a_class() -> None:
    plan = Sides().plan(PolicySet())
    assert (Sides().features, plan.name_classes) == (frozenset(), ())
    Sides().put(0, 1, plan)
