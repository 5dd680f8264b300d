"""What is answered to orders about policies: never that one is enforced where no packet is judged by it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from aegis.agent.policy_orders import PolicyOrders
from aegis.errors import PolicyNotEnforced, PolicyUnenforceable
from aegis.model.policy import AppliedPolicy, Mode, Reach

EVERYWHERE = Reach(interfaces=("eth0",))
NOWHERE = Reach()
PARTLY = Reach(interfaces=("eth0",), unattached=(("eth1", "attach eth1: Device or resource busy"),))


def applied(name: str = "p", generation: int = 3) -> AppliedPolicy:
    return AppliedPolicy(
        name=name,
        version=1,
        mode=Mode.ENFORCE,
        priority=5,
        origin="local",
        generation=generation,
        digest="d",
        rules=(),
    )


class Kernel:
    """An enforcer that takes all but one document, and hooks that reach where `reaches` says after each look."""

    def __init__(self, *reaches: Reach) -> None:
        self.enforcer: Any = self
        self.hooks: Any = SimpleNamespace(refresh=self._look)
        self.kept: list[str] = []
        self._reaches = list(reaches)

    def _look(self) -> None:
        if len(self._reaches) > 1:
            del self._reaches[0]

    def reach(self) -> Reach:
        return self._reaches[0]

    def apply(
        self, document: bytes, name: str = "", *, origin: str = "local", trial_ms: int = 0
    ) -> AppliedPolicy:
        if document == b"impossible":
            raise PolicyUnenforceable("spec", "no kernel can")
        self.kept.append(origin if not trial_ms else f"{origin} for {trial_ms} ms")
        return applied()

    def remove(self, name: str, *, origin: str | None = None) -> AppliedPolicy:
        return applied(name)

    def list(self) -> tuple[AppliedPolicy, ...]:
        return (applied("a"), applied("b"))


def test_a_policy_that_is_enforced_everywhere() -> None:
    kernel = Kernel(EVERYWHERE)
    found = PolicyOrders(kernel).apply(b"{}", origin="gateway")
    assert (found["policy"], found["policy_version"], found["generation"]) == ("p", 1, 3)
    assert (found["state"], found["reason"], found["interfaces"]) == ("enforced", None, ["eth0"])
    assert found["reason_reason"]
    assert kernel.kept == ["gateway"]


def test_a_policy_on_trial() -> None:
    kernel = Kernel(EVERYWHERE)
    PolicyOrders(kernel).apply(b"{}", trial_ms=5000)
    assert kernel.kept == ["local for 5000 ms"]


@pytest.mark.parametrize(
    ("reach", "code", "state", "said"),
    [
        (NOWHERE, "policy_not_enforced", "not_enforced", "not in force: no interface carries"),
        (
            Reach(absent=("eth7",)),
            "policy_not_enforced",
            "not_enforced",
            "not in force: no interface carries the packet programs; there is no eth7",
        ),
        (
            Reach(interfaces=("eth0",), reason="no BPF"),
            "policy_not_enforced",
            "not_enforced",
            "not in force: no BPF",
        ),
        (
            PARTLY,
            "policy_partly_enforced",
            "partly_enforced",
            "in force, but not everywhere: not judged: eth1: attach eth1: Device or resource busy",
        ),
    ],
)
def test_a_policy_that_is_not_enforced_is_kept_and_an_error(
    reach: Reach, code: str, state: str, said: str
) -> None:
    kernel = Kernel(reach)
    with pytest.raises(PolicyNotEnforced, match="kept as generation 3") as refused:
        PolicyOrders(kernel).apply(b"{}")
    assert kernel.kept == ["local"]
    assert refused.value.code == code
    assert said in str(refused.value)
    assert refused.value.hint
    assert (refused.value.policy["state"], refused.value.policy["generation"]) == (state, 3)


def test_what_could_not_be_attached_is_tried_before_the_answer() -> None:
    assert PolicyOrders(Kernel(PARTLY, EVERYWHERE)).apply(b"{}")["state"] == "enforced"
    with pytest.raises(PolicyNotEnforced):
        PolicyOrders(Kernel(EVERYWHERE, NOWHERE)).apply(b"{}")


def test_an_interface_that_is_not_there_has_no_packets_to_judge() -> None:
    found = PolicyOrders(Kernel(Reach(interfaces=("eth0",), absent=("eth7",)))).apply(b"{}")
    assert (found["state"], found["reason"]) == ("enforced", "there is no eth7")
    assert "reason_reason" not in found


def test_what_the_enforcer_refuses_is_its_own_error() -> None:
    kernel = Kernel(NOWHERE)
    with pytest.raises(PolicyUnenforceable):
        PolicyOrders(kernel).apply(b"impossible")


def test_a_list_says_of_each_policy_whether_it_is_enforced() -> None:
    found = PolicyOrders(Kernel(NOWHERE)).list()
    assert [(one["policy"], one["state"]) for one in found] == [("a", "not_enforced"), ("b", "not_enforced")]
    assert all("no interface" in one["reason"] for one in found)
    assert PolicyOrders(Kernel(EVERYWHERE)).list()[0]["state"] == "enforced"


def test_a_policy_that_is_removed_is_not_enforced_any_more() -> None:
    found = PolicyOrders(Kernel(EVERYWHERE)).remove("p")
    assert (found["policy"], found["state"], found["reason"]) == ("p", "not_enforced", "it is removed")
