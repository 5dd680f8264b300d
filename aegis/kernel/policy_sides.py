"""What a policy needs in the kernel beside its image: tables of subjects and of names, filled for a slot before it is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from aegis.kernel.policy_image import NameClasses
from aegis.kernel.subject_patterns import CompiledSubjects, compile_subjects
from aegis.model.net import Direction
from aegis.model.policy import PolicySet
from aegis.model.policy_selectors import Feature

if TYPE_CHECKING:
    from aegis.kernel.subject_tables import SubjectTables


class Side(Protocol):
    """One feature's tables. One writer at a time: the agent."""

    def plan(self, policies: PolicySet) -> Any:
        """What a slot needs for these policies. Raises PolicyUnenforceable; changes nothing that is in force."""

    def put(self, slot: int, generation: int, plan: Any, beside: int | None = None) -> None:
        """Fill a slot that no state word names; `beside`: the slot that a trial of it would go back to.

        Raises KernelError or PolicyUnenforceable.
        """

    def forget(self, slot: int) -> None:
        """Empty a slot that no packet uses any more. Raises KernelError."""


class SubjectSide:
    """Subjects, by their tables. `unknown_denied`: who cannot be told counts as everybody's subject."""

    def __init__(self, tables: SubjectTables, *, unknown_denied: bool = False) -> None:
        self._tables, self._unknown_denied = tables, unknown_denied

    def plan(self, policies: PolicySet) -> CompiledSubjects:
        receives = any(
            each.subject is not None
            and (
                Direction.INGRESS in each.default_deny
                or any(rule.direction is Direction.INGRESS for rule in each.rules)
            )
            for each in policies
        )
        return compile_subjects(policies.subjects(), receives=receives)

    def put(self, slot: int, generation: int, plan: CompiledSubjects, beside: int | None = None) -> None:
        self._tables.prepare(slot, generation, plan, unknown_denied=self._unknown_denied)

    def forget(self, slot: int) -> None:
        self._tables.forget(slot)


@dataclass(frozen=True, slots=True, kw_only=True)
class SidePlan:
    """By feature what its side planned; `name_classes` as `compile_policies` takes them."""

    plans: Mapping[Feature, Any]
    name_classes: NameClasses


class Sides:
    """Every side this kernel has."""

    def __init__(self, sides: Mapping[Feature, Side] | None = None) -> None:
        self._sides = dict(sides or {})

    @property
    def features(self) -> frozenset[Feature]:
        """What policies may use."""
        return frozenset(self._sides)

    def plan(self, policies: PolicySet) -> SidePlan:
        """Raises PolicyUnenforceable."""
        plans = {feature: side.plan(policies) for feature, side in self._sides.items()}
        names = plans.get(Feature.NAMES)
        return SidePlan(plans=plans, name_classes=() if names is None else names.table)

    def put(self, slot: int, generation: int, plan: SidePlan, beside: int | None = None) -> None:
        """Fill every side's slot. Raises KernelError or PolicyUnenforceable; the slot is not used then."""
        for feature, side in self._sides.items():
            side.put(slot, generation, plan.plans[feature], beside)

    def forget(self, slot: int) -> None:
        """Empty every side's slot. Raises KernelError."""
        for side in self._sides.values():
            side.forget(slot)
