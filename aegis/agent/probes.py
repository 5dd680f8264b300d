"""`/healthz` and `/readyz` of the agent: what a supervisor of processes asks over HTTP. They say ok or not, and no more."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from aegis.model.module import ModuleState, ModuleStatus
from aegis.model.policy import EnforcementState

PATHS = ("/healthz", "/readyz")


def answer(method: str, target: str, ready: Callable[[], bool]) -> tuple[int, str]:
    """Status and text. `/healthz`: this loop turns. `/readyz`: what was asked of the agent is done."""
    path = target.partition("?")[0]
    if path not in PATHS:
        return 404, "not found\n"
    if method not in {"GET", "HEAD"}:
        return 405, "method not allowed\n"
    return (200, "ok\n") if path == "/healthz" or ready() else (503, "not ready\n")


def is_ready(modules: Iterable[ModuleStatus], state: EnforcementState) -> bool:
    """Every module that is to run does, and the policies there are judge packets. Having none of either is no fault."""
    unsettled = {ModuleState.DECLARED, ModuleState.STARTING, ModuleState.FAILED}
    if any(one.state in unsettled for one in modules):
        return False
    return state.state != "stale" and (state.state != "unavailable" or state.mode is None)
