"""What `/healthz` and `/readyz` say."""

from __future__ import annotations

import pytest

from aegis.agent.probes import answer, is_ready
from aegis.model.module import ModuleState, ModuleStatus
from aegis.model.policy import EnforcementState, Mode

NONE = EnforcementState(state="none", generation=0)


@pytest.mark.parametrize(
    ("method", "target", "ready", "status"),
    [
        ("GET", "/healthz", False, 200),
        ("HEAD", "/healthz", False, 200),
        ("GET", "/readyz", True, 200),
        ("GET", "/readyz?x=1", True, 200),
        ("GET", "/readyz", False, 503),
        ("POST", "/readyz", True, 405),
        ("GET", "/", True, 404),
        ("GET", "/metrics", True, 404),
    ],
)
def test_answers(method: str, target: str, ready: bool, status: int) -> None:
    assert answer(method, target, lambda: ready)[0] == status


def module(state: ModuleState) -> ModuleStatus:
    return ModuleStatus(name="m", state=state, reason="", since_ns=0, restarts=0)


@pytest.mark.parametrize("state", list(ModuleState))
def test_every_module_that_is_to_run_does(state: ModuleState) -> None:
    wanted = state not in {ModuleState.DECLARED, ModuleState.STARTING, ModuleState.FAILED}
    assert is_ready([module(ModuleState.RUNNING), module(state)], NONE) == wanted


@pytest.mark.parametrize(
    ("state", "mode", "ready"),
    [
        ("none", None, True),
        ("observing", Mode.OBSERVE, True),
        ("enforcing", Mode.ENFORCE, True),
        ("stale", None, False),
        ("unavailable", None, True),  # no BPF, and no policy that waits for it
        ("unavailable", Mode.ENFORCE, False),
    ],
)
def test_policies_that_are_there_judge_packets(state: str, mode: Mode | None, ready: bool) -> None:
    found = EnforcementState(state=state, generation=1, mode=mode)  # type: ignore[arg-type]
    assert is_ready([], found) == ready
