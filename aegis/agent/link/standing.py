"""How things stand on this host, as a gateway is told: each module, and each condition that holds or just ended."""

from __future__ import annotations

from aegis.agent.link.unsaid import Change
from aegis.model.health import Condition
from aegis.model.module import ModuleStatus
from aegis.model.stamp import rfc3339


def of_module(status: ModuleStatus) -> Change:
    return Change(
        subject=("module", status.name),
        state={
            "what": "module",
            "name": status.name,
            "state": status.state.value,
            "reason": status.reason or None,
            "since": rfc3339(status.since_ns),
            "since_ns": status.since_ns,
        },
    )


def of_condition(condition: Condition, *, holds: bool) -> Change:
    return Change(
        subject=("condition", condition.source, condition.code),
        state={
            "what": "condition",
            "code": condition.code,
            "source": condition.source,
            "holds": holds,
            "since": rfc3339(condition.since_ns),
            "since_ns": condition.since_ns,
            "text": condition.text,
            "hint": condition.hint,
        },
    )
