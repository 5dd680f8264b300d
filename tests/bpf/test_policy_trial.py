"""A policy on trial: the kernel itself goes back to the one before it, with nobody there."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from aegis.errors import MapAccessFailed
from aegis.kernel import abi
from aegis.kernel.policy_image import CompiledImage, compile_policies
from aegis.kernel.policy_slots import PolicySlots, Position
from aegis.model.policy import PolicySet
from aegis.model.policy_document import parse_document
from tests.support import packets as p
from tests.support.flows import DROPPED, PASSED, Table, boottime_ns, open_table

pytestmark = pytest.mark.require("root", "bpf")

HERE, THERE = "192.0.2.1", "198.51.100.7"


@pytest.fixture
def table() -> Iterator[Table]:
    with open_table("core") as found:
        yield found


@pytest.fixture
def slots(table: Table) -> Iterator[PolicySlots]:
    with contextlib.closing(PolicySlots.of(table.core)) as found:
        yield found


def image(**spec: Any) -> CompiledImage:
    document = {
        "apiVersion": "aegis/v1",
        "kind": "HostNetworkPolicy",
        "metadata": {"name": "p"},
        "spec": {"mode": "enforce", **spec},
    }
    return compile_policies(PolicySet().with_policy(parse_document(json.dumps(document).encode())))


def denying(port: int) -> CompiledImage:
    return image(ingressDeny=[{"toPorts": [{"ports": [{"port": port, "protocol": "UDP"}]}]}])


def incoming(port: int) -> bytes:
    return p.ethernet(p.IPV4, p.ipv4(THERE, HERE, p.UDP, p.udp(40000, port)))


def sent_until(table: Table, end_ns: int, port: int = 53) -> list[tuple[int, int, int]]:
    """The verdicts of a flow that never pauses, each between two readings of the clock."""
    seen = []
    while boottime_ns() < end_ns:
        start = boottime_ns()
        verdict = table.send("ingress", incoming(port))
        seen.append((start, boottime_ns(), verdict))
    return seen


@pytest.mark.parametrize("before", ["nothing", "another"])
def test_a_flow_that_never_pauses_meets_the_deadline(table: Table, slots: PolicySlots, before: str) -> None:
    """At the deadline, by a flow whose verdict is cached, and though nobody writes the state word."""
    if before == "another":
        slots.switch(denying(99), 4)
    assert table.send("ingress", incoming(53)) == PASSED
    deadline = boottime_ns() + 300_000_000
    position = slots.switch(denying(53), 5, deadline_ns=deadline)
    seen = sent_until(table, deadline + 200_000_000)
    assert {verdict for _, stop, verdict in seen if stop < deadline} == {DROPPED}
    assert {verdict for start, _, verdict in seen if start >= deadline} == {PASSED}
    assert sum(stop < deadline for _, stop, _ in seen) > 10
    assert slots.position() == position, "the kernel keeps the time, and nobody wrote"
    assert table.send("ingress", incoming(99)) == (DROPPED if before == "another" else PASSED)
    (row, _) = sorted(table.changed(), key=lambda each: each.local_port)
    assert row.generation == (4 if before == "another" else 0)
    assert row.verdict == abi.VERDICT_ALLOW


def test_the_deadline_holds_when_who_set_it_was_killed(table: Table) -> None:
    """The process that put the policy on trial is gone by SIGKILL; nothing of it is needed."""
    deadline = boottime_ns() + 700_000_000
    pid = os.fork()
    if not pid:
        PolicySlots.of(table.core).switch(denying(53), 1, deadline_ns=deadline)
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    seen = sent_until(table, deadline + 100_000_000)
    assert {verdict for _, stop, verdict in seen if stop < deadline} == {DROPPED}
    assert {verdict for start, _, verdict in seen if start >= deadline} == {PASSED}


def test_confirmed_is_the_same_image_of_the_same_generation_without_a_deadline(
    table: Table, slots: PolicySlots
) -> None:
    slots.switch(denying(99), 1)
    deadline = boottime_ns() + 300_000_000
    tried = slots.switch(denying(53), 2, deadline_ns=deadline)
    trial = slots.trial()
    assert trial is not None
    assert (trial.deadline_ns, trial.previous) == (deadline, Position(generation=1, slot=0))
    confirmed = slots.confirm(denying(53), lambda: False)
    assert confirmed == Position(generation=2, slot=2)
    assert tried == Position(generation=2, slot=1, trial=True)
    assert slots.trial() is None
    time.sleep(0.35)
    assert table.send("ingress", incoming(53)) == DROPPED
    assert table.send("ingress", incoming(99)) == PASSED
    assert slots.holds(denying(53))
    slots.switch(denying(7), 3)
    assert table.send("ingress", incoming(53)) == PASSED


def test_too_late_to_confirm_changes_nothing(table: Table, slots: PolicySlots) -> None:
    slots.switch(denying(99), 1)
    tried = slots.switch(denying(53), 2, deadline_ns=boottime_ns() + 50_000_000)
    time.sleep(0.06)
    assert slots.confirm(denying(53), lambda: True) is None
    assert slots.position() == tried
    assert table.send("ingress", incoming(53)) == PASSED
    assert table.send("ingress", incoming(99)) == DROPPED


def test_undone_by_hand_is_what_the_deadline_does(table: Table, slots: PolicySlots) -> None:
    before = slots.switch(denying(99), 1)
    slots.switch(denying(53), 2, deadline_ns=boottime_ns() + 60_000_000_000)
    assert table.send("ingress", incoming(53)) == DROPPED
    assert slots.revert() == before
    assert slots.position() == before
    assert table.send("ingress", incoming(53)) == PASSED
    assert table.send("ingress", incoming(99)) == DROPPED
    assert slots.last_generation() == 2, "the number is used up: verdicts of it may be cached"


def test_nothing_is_put_beside_a_trial(slots: PolicySlots) -> None:
    """A third policy would leave the one to go back to without a slot of its own, or a deadline without a meaning."""
    tried = slots.switch(denying(53), 2, deadline_ns=boottime_ns() + 60_000_000_000)
    with pytest.raises(MapAccessFailed, match="on trial"):
        slots.switch(denying(7), 3)
    assert slots.position() == tried
