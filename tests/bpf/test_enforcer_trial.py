"""The life of a set of policies on trial: confirmed, undone by hand, by the clock, and by an agent that comes back."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aegis.errors import PolicyNotFound, PolicyOnTrial, PolicyUnenforceable
from aegis.kernel.enforcer import Enforcer
from aegis.kernel.policy_slots import PolicySlots
from aegis.model.flow import Verdict
from aegis.model.net import Direction, address_bytes
from aegis.model.policy import Packet
from tests.support.flows import boottime_ns
from tests.support.policy_kernel import KernelJudge

pytestmark = pytest.mark.require("root", "bpf")

EPOCH_MS = 1_790_000_000_000
ALLOW, DENY = Verdict.ALLOW, Verdict.DENY


def clocks() -> tuple[int, int]:
    boot_ms = boottime_ns() // 1_000_000
    return EPOCH_MS + boot_ms, boot_ms


@pytest.fixture
def kernel() -> Iterator[KernelJudge]:
    with KernelJudge() as judge:
        yield judge


@pytest.fixture
def agent(kernel: KernelJudge, tmp_path: Path) -> Iterator[Callable[[], Enforcer]]:
    """Starts an agent's enforcer, after ending the one before."""
    with contextlib.ExitStack() as stack:

        def start() -> Enforcer:
            stack.close()
            made = Enforcer(tmp_path, PolicySlots.of(kernel.object), clocks=clocks)
            stack.callback(made.close)
            made.start()
            return made

        yield start


def document(name: str, port: int, version: int = 1) -> bytes:
    return (
        f"{{apiVersion: aegis/v1, kind: HostNetworkPolicy, metadata: {{name: {name}, version: {version}}}, spec: "
        f"{{mode: enforce, egressDeny: [{{toPorts: [{{ports: [{{port: {port}, protocol: TCP}}]}}]}}]}}}}"
    ).encode()


def verdicts(kernel: KernelJudge, *ports: int) -> list[Verdict]:
    peer = address_bytes("192.0.2.1")
    asked = [Packet(direction=Direction.EGRESS, peer=peer, protocol=6, port=port) for port in ports]
    return [each.verdict for each in kernel.ask(asked)]


def names(enforcer: Enforcer) -> list[str]:
    return [each.name for each in enforcer.list()]


def test_confirmed(kernel: KernelJudge, agent: Callable[[], Enforcer]) -> None:
    enforcer = agent()
    enforcer.apply(document("telnet", 23))
    applied = enforcer.apply(document("rlogin", 513), trial_ms=60_000)
    state = enforcer.state()
    assert (state.state, state.generation) == ("trial", applied.generation)
    assert state.confirm_by_ms is not None
    assert 0 <= clocks()[0] + 60_000 - state.confirm_by_ms < 5_000
    assert verdicts(kernel, 23, 513) == [DENY, DENY]
    confirmed = enforcer.confirm()
    assert (confirmed.state, confirmed.generation) == ("enforcing", applied.generation)
    assert confirmed.confirm_by_ms is None
    assert verdicts(kernel, 23, 513) == [DENY, DENY]
    with pytest.raises(PolicyNotFound):
        enforcer.confirm()
    again = agent()
    assert names(again) == ["rlogin", "telnet"]
    assert again.state().generation == applied.generation


def test_the_deadline_passes(kernel: KernelJudge, agent: Callable[[], Enforcer]) -> None:
    """The kernel goes back first; the agent takes note when it next looks, and a number is never used twice."""
    enforcer = agent()
    committed = enforcer.apply(document("telnet", 23))
    tried = enforcer.apply(document("rlogin", 513), trial_ms=200)
    assert names(enforcer) == ["rlogin", "telnet"]
    time.sleep(0.25)
    assert verdicts(kernel, 23, 513) == [DENY, ALLOW]
    assert kernel.slots.position().trial, "nobody has looked yet"
    with pytest.raises(PolicyNotFound):
        enforcer.confirm()
    assert not kernel.slots.position().trial
    assert (enforcer.state().state, enforcer.state().generation) == ("enforcing", committed.generation)
    assert names(enforcer) == ["telnet"]
    later = enforcer.apply(document("ftp", 21))
    assert later.generation > tried.generation
    assert later.generation % 2 != committed.generation % 2, "the counts of the two would share a place"
    assert verdicts(kernel, 21, 23, 513) == [DENY, DENY, ALLOW]


@pytest.mark.parametrize("first", [False, True], ids=["after a policy", "the first policy"])
def test_undone_by_hand(
    kernel: KernelJudge, agent: Callable[[], Enforcer], tmp_path: Path, first: bool
) -> None:
    enforcer = agent()
    if not first:
        enforcer.apply(document("telnet", 23))
    enforcer.apply(document("rlogin", 513), trial_ms=60_000)
    assert (tmp_path / "policy/next.json").exists()
    state = enforcer.rollback()
    assert not (tmp_path / "policy/next.json").exists()
    assert state.state == ("none" if first else "enforcing")
    assert names(enforcer) == ([] if first else ["telnet"])
    assert verdicts(kernel, 23, 513) == [ALLOW if first else DENY, ALLOW]
    assert names(agent()) == ([] if first else ["telnet"])


def test_nothing_else_changes_beside_a_trial(kernel: KernelJudge, agent: Callable[[], Enforcer]) -> None:
    enforcer = agent()
    enforcer.apply(document("telnet", 23))
    enforcer.apply(document("rlogin", 513), trial_ms=60_000)
    before = kernel.slots.position()
    with pytest.raises(PolicyOnTrial):
        enforcer.apply(document("ftp", 21))
    with pytest.raises(PolicyOnTrial):
        enforcer.remove("telnet")
    assert kernel.slots.position() == before
    assert enforcer.state().state == "trial"


def test_without_a_clock_there_is_no_trial(kernel: KernelJudge, tmp_path: Path) -> None:
    with contextlib.closing(Enforcer(tmp_path, PolicySlots.of(kernel.object))) as enforcer:
        enforcer.start()
        with pytest.raises(PolicyUnenforceable, match="time"):
            enforcer.apply(document("telnet", 23), trial_ms=1000)


@pytest.mark.parametrize("late", [False, True], ids=["in time", "too late"])
def test_killed_in_the_middle(
    kernel: KernelJudge, agent: Callable[[], Enforcer], tmp_path: Path, late: bool
) -> None:
    """kill -9 of who put it on trial; another agent comes back before the deadline, or after it."""
    agent().apply(document("telnet", 23))
    pid = os.fork()
    if not pid:
        dying = Enforcer(tmp_path, PolicySlots.of(kernel.object), clocks=clocks)
        dying.start()
        dying.apply(document("rlogin", 513), trial_ms=400 if late else 60_000)
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    assert verdicts(kernel, 23, 513) == [DENY, DENY]
    if late:
        time.sleep(0.45)
        assert verdicts(kernel, 23, 513) == [DENY, ALLOW], "with nobody there"
        assert names(agent()) == ["telnet"]
        return
    enforcer = agent()
    assert enforcer.state().state == "trial"
    assert names(enforcer) == ["rlogin", "telnet"]
    enforcer.confirm()
    assert names(agent()) == ["rlogin", "telnet"]
    assert verdicts(kernel, 23, 513) == [DENY, DENY]


def test_an_agent_that_came_back_can_undo(
    kernel: KernelJudge, agent: Callable[[], Enforcer], tmp_path: Path
) -> None:
    agent().apply(document("telnet", 23))
    agent().apply(document("rlogin", 513), trial_ms=60_000)
    enforcer = agent()
    enforcer.rollback()
    assert names(enforcer) == ["telnet"]
    assert verdicts(kernel, 23, 513) == [DENY, ALLOW]


def test_a_boot_does_not_bring_a_trial_back(
    kernel: KernelJudge, agent: Callable[[], Enforcer], tmp_path: Path
) -> None:
    agent().apply(document("telnet", 23))
    agent().apply(document("rlogin", 513), trial_ms=60_000)
    with KernelJudge() as booted:
        enforcer = Enforcer(tmp_path, PolicySlots.of(booted.object), clocks=clocks)
        with contextlib.closing(enforcer):
            enforcer.start()
            assert names(enforcer) == ["telnet"]
            assert verdicts(booted, 23, 513) == [DENY, ALLOW]


def test_back_and_forth_through_the_history(kernel: KernelJudge, agent: Callable[[], Enforcer]) -> None:
    enforcer = agent()
    with pytest.raises(PolicyNotFound):
        enforcer.rollback()
    enforcer.apply(document("telnet", 23))
    enforcer.apply(document("telnet", 24, version=2))
    assert verdicts(kernel, 23, 24) == [ALLOW, DENY]
    enforcer.rollback()
    assert verdicts(kernel, 23, 24) == [DENY, ALLOW]
    told = enforcer.history()
    assert [each.state for each in told] == ["past", "past", "in_force"]
    assert [each.policies[0][1:3] for each in told] == [("telnet", 1), ("telnet", 2), ("telnet", 1)]
    enforcer.apply(document("ftp", 21), trial_ms=60_000)
    assert [each.state for each in enforcer.history()][-2:] == ["in_force", "trial"]
    assert [name for _, name, _ in enforcer.documents()] == ["ftp", "telnet"]
    assert names(agent()) == ["ftp", "telnet"]
