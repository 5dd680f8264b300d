"""Each program stays inside its budget of the verifier's time and instructions."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator

import pytest

from aegis.errors import KernelError
from aegis.kernel import verifier
from aegis.kernel.constants import Constants
from aegis.kernel.object import BpfObject, read_object
from aegis.kernel.verifier import BUDGETS, Budget, Cost, measure

pytestmark = pytest.mark.require("root", "bpf", "tracing")

CONSTANTS = Constants(agent_tgid=0, ring_bytes=1 << 20, ring_reserved_bytes=1 << 17)
TRIES = 15  # a busy neighbour still shares caches and memory: the best of a few counts


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """The kernel gives wall time: other processes must not run in between. Left alone where that is not allowed."""
    policy, parameter = os.sched_getscheduler(0), os.sched_getparam(0)
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameter)


@functools.cache
def costs(name: str) -> dict[str, Cost]:
    """The least each program took, once all are inside their budgets or the tries are used up."""
    allowed = {each.program: each.milliseconds for each in BUDGETS if each.object == name}
    best: dict[str, Cost] = {}
    for _ in range(TRIES):
        with undisturbed():
            measured = measure(name, CONSTANTS)
        for cost in measured:
            if cost.program not in best or cost.milliseconds < best[cost.program].milliseconds:
                best[cost.program] = cost
        if all(best[program].milliseconds <= most for program, most in allowed.items() if program in best):
            break
    return best


@pytest.mark.parametrize("name", ["core", "observe"])
def test_every_program_has_a_budget(name: str) -> None:
    with BpfObject.open(name) as opened:
        programs = opened.program_names()
    assert sorted(programs) == sorted(each.program for each in BUDGETS if each.object == name)


@pytest.mark.parametrize("budget", BUDGETS, ids=lambda budget: f"{budget.object}.{budget.program}")
def test_program_is_inside_its_budget(budget: Budget) -> None:
    cost = costs(budget.object)[budget.program]
    assert 0 < cost.instructions <= budget.instructions
    assert 0 < cost.milliseconds <= budget.milliseconds


def test_figures_are_the_kernels_own() -> None:
    """A longer program costs more; one that does nothing costs its two instructions."""
    found = {cost.program: cost for cost in measure("probe_loader", CONSTANTS)}
    assert found["probe_tc_drop"].instructions == 2
    assert found["probe_tc_count"].instructions > found["probe_tc_drop"].instructions


def test_no_figure_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without statistics in the log there is no time, and none is made up."""
    monkeypatch.setattr(verifier, "LOG_STATISTICS", 0)
    with pytest.raises(KernelError, match="no verification time"):
        measure("probe_loader", CONSTANTS, data=read_object("probe_loader"))
