"""Orders about policies, from whoever may give them: one path for the control socket and for a gateway.

A policy that is taken is kept, and judges every interface from the moment it carries the packet programs. Where there is
none, or one is without them, the answer to `apply` is an error all the same: it is given of what is true now.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from aegis.errors import PolicyNotEnforced
from aegis.model.policy import AppliedPolicy, Reach

LATER = "each interface that is to be watched is judged as soon as it can be; aegis doctor says what is in the way"


class Enforcer(Protocol):
    """What this needs of the kernel room's enforcer."""

    def apply(
        self, document: bytes, name: str = ..., *, origin: str = ..., trial_ms: int = ...
    ) -> AppliedPolicy: ...
    def remove(self, name: str, *, origin: str | None = ...) -> AppliedPolicy: ...
    def list(self) -> tuple[AppliedPolicy, ...]: ...


class Hooks(Protocol):
    def refresh(self) -> None: ...


class Kernel(Protocol):
    """What this needs of the kernel room."""

    @property
    def enforcer(self) -> Enforcer: ...
    @property
    def hooks(self) -> Hooks: ...
    def reach(self) -> Reach: ...


class PolicyOrders:
    """Each call returns after the change, with what is true then. Raises what the enforcer raises."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def apply(
        self, document: bytes, name: str = "<document>", *, origin: str = "local", trial_ms: int = 0
    ) -> dict[str, Any]:
        """The policy as `list` shows it, enforced on every interface. Raises PolicyNotEnforced: it is kept, and is not.

        With `trial_ms` it is on trial for so long.
        """
        policy = self._kernel.enforcer.apply(document, name, origin=origin, trial_ms=trial_ms)
        self._kernel.hooks.refresh()  # what could not be attached is tried now, not at the next look
        reach = self._kernel.reach()
        content = shown(policy, reach)
        if reach.state == "enforced":
            return content
        partly = reach.state == "partly_enforced"
        where = "in force, but not everywhere" if partly else "not in force"
        raise PolicyNotEnforced(
            policy.name,
            f"kept as generation {policy.generation}, and {where}: {reach.text}",
            partly=partly,
            policy=content,
            hint=LATER,
        )

    def remove(self, name: str, *, origin: str | None = None) -> dict[str, Any]:
        """As it was."""
        policy = self._kernel.enforcer.remove(name, origin=origin)
        return shown(policy, Reach(reason="it is removed"))

    def list(self) -> tuple[dict[str, Any], ...]:
        policies, reach = self._kernel.enforcer.list(), self._kernel.reach()
        return tuple(shown(one, reach) for one in policies)


def shown(policy: AppliedPolicy, reach: Reach) -> dict[str, Any]:
    """The keys of one policy, but the four that every object has: `state` says whether packets are judged by it."""
    content = msgspec.to_builtins(policy)
    found: dict[str, Any] = {"policy": content.pop("name"), "policy_version": content.pop("version")}
    state: dict[str, Any] = {"state": reach.state, "reason": reach.text}
    if reach.text is None:
        state["reason_reason"] = "every interface that is watched is judged"
    found |= state | {"interfaces": list(reach.interfaces)} | content
    return found
