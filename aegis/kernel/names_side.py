"""Names as one side of a policy: the automaton of a slot beside its image, and the lookups that its commit is due."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from aegis.kernel.names import Names
from aegis.kernel.names_plan import NamePlan
from aegis.model.policy import PolicySet

if TYPE_CHECKING:
    from aegis.kernel.names_resolve import Lookup


class NamesSide:
    """What `aegis.kernel.policy_sides.Side` promises. Borrows `names`."""

    def __init__(self, names: Names, *, committed: Callable[[NamePlan], None] = lambda _: None) -> None:
        """`committed` is told every plan that was put: its `exact` names are known already to a local stub or to a program
        and nobody asks for them again, so they are to be looked up (`names_resolve.look_up`, which blocks) and given to
        `learn`."""
        self._names = names
        self._committed = committed

    def plan(self, policies: PolicySet) -> NamePlan:
        """Raises PolicyUnenforceable."""
        return self._names.plan(policies.names())

    def put(self, slot: int, generation: int, plan: NamePlan, beside: int | None = None) -> None:
        """Raises KernelError; the slot is empty then."""
        self._names.put(slot, plan, beside=beside)
        self._committed(plan)

    def forget(self, slot: int) -> None:
        """Raises KernelError."""
        self._names.clear(slot)


def learn(names: Names, plan: NamePlan, found: Mapping[str, Lookup], now_s: int) -> dict[str, str]:
    """Bind what was found to the classes of the names under `plan`; of each name without an address, why."""
    missing = {}
    for name, lookup in found.items():
        class_ = plan.class_of(name)
        if not lookup.addresses:
            missing[name] = lookup.error
        for address, ttl in lookup.addresses.items() if class_ else ():
            refused = names.bind(address, class_, ttl, now_s)
            if refused is not None:
                missing[name] = f"its address found no room: {refused}"
    return missing
