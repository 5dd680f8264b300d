"""Policies as values: sets, the order of rules, and what a judgement means."""

from __future__ import annotations

import itertools

import pytest

from aegis.errors import PolicyNotFound
from aegis.model.flow import Verdict
from aegis.model.net import Direction, address_bytes
from aegis.model.policy import Judgement, Mode, Packet, Policy, PolicySet, Prefix, Probe, Rule


def policy(name: str, priority: int, *deny: bool, mode: Mode = Mode.ENFORCE, origin: str = "local") -> Policy:
    """A policy with one rule for each `deny`."""
    rules = tuple(
        Rule(
            path=f"{'egressDeny' if each else 'egress'}[{place}]",
            line=1,
            direction=Direction.EGRESS,
            deny=each,
        )
        for place, each in enumerate(deny)
    )
    return Policy(name=name, version=1, mode=mode, priority=priority, rules=rules, origin=origin)


def test_the_order_is_priority_then_denial_then_local_then_name_then_place() -> None:
    policies = [
        policy("b", 5, False, True),
        policy("a", 5, False, True, True),
        policy("0", 5, True, origin="gateway"),
        policy("c", 4, False),
        policy("d", 6, True),
    ]
    expected = [
        ("c", "egress[0]"),
        ("a", "egressDeny[1]"),
        ("a", "egressDeny[2]"),
        ("b", "egressDeny[1]"),
        ("0", "egressDeny[0]"),
        ("a", "egress[0]"),
        ("b", "egress[0]"),
        ("d", "egressDeny[0]"),
    ]
    for order in itertools.permutations(policies):
        ranked = PolicySet(policies=order).ranked()
        assert [(each.policy.name, each.rule.path) for each in ranked] == expected


def test_a_set_has_each_name_once() -> None:
    one, other = policy("a", 1, True), policy("a", 2, True)
    both = PolicySet().with_policy(one).with_policy(policy("b", 1, True)).with_policy(other)
    assert [(each.name, each.priority) for each in both] == [("a", 2), ("b", 1)]
    assert [each.name for each in both.without("a")] == ["b"]
    with pytest.raises(PolicyNotFound):
        both.without("c")


@pytest.mark.parametrize(
    ("enforced", "any_", "enforced_denies", "any_denies", "verdict", "decider"),
    [
        (None, None, False, False, Verdict.ALLOW, None),
        (3, 3, True, True, Verdict.DENY, 3),
        (3, 3, False, False, Verdict.ALLOW, 3),
        (None, 1, False, True, Verdict.AUDIT, 1),
        (3, 1, False, True, Verdict.AUDIT, 1),  # enforced lets it pass, an observed rule would not
        (3, 1, True, False, Verdict.DENY, 3),  # an observed allowance changes nothing
        (3, 1, True, True, Verdict.DENY, 3),
        (None, 1, False, False, Verdict.ALLOW, 1),
        (3, 1, False, False, Verdict.ALLOW, 3),
    ],
)
def test_what_two_first_matches_mean(
    enforced: int | None,
    any_: int | None,
    enforced_denies: bool,
    any_denies: bool,
    verdict: Verdict,
    decider: int | None,
) -> None:
    judgement = Judgement(enforced=enforced, any=any_, enforced_denies=enforced_denies, any_denies=any_denies)
    assert judgement.verdict is verdict
    assert judgement.decider == decider


def test_a_probe_is_judged_by_its_initiator() -> None:
    out = Probe(
        direction=Direction.EGRESS,
        protocol=6,
        source=address_bytes("10.0.0.1"),
        source_port=40_001,
        destination=address_bytes("192.0.2.7"),
        destination_port=23,
    )
    assert out.packet == Packet(
        direction=Direction.EGRESS, peer=address_bytes("192.0.2.7"), protocol=6, port=23
    )
    into = Probe(
        direction=Direction.INGRESS,
        protocol=6,
        source=address_bytes("2001:db8::7"),
        source_port=40_001,
        destination=address_bytes("2001:db8::1"),
        destination_port=22,
        fragment=True,
    )
    assert into.packet == Packet(
        direction=Direction.INGRESS, peer=address_bytes("2001:db8::7"), protocol=6, fragment=True
    )


def test_prefixes() -> None:
    ten = Prefix(4, 10 << 24, 8)
    assert ten.text == "10.0.0.0/8"
    assert ten.last == (11 << 24) - 1
    assert ten.holds(Prefix(4, (10 << 24) + 256, 24))
    assert not ten.holds(Prefix(4, 11 << 24, 24))
    assert not ten.holds(Prefix(6, 10 << 24, 128))
    assert Prefix(6, 0, 0).last == (1 << 128) - 1


def test_packets_in_words() -> None:
    packet = Packet(direction=Direction.EGRESS, peer=address_bytes("192.0.2.7"), protocol=1, port=8 << 8)
    assert packet.text == "egress icmp to 192.0.2.7 type 8 code 0"
    assert packet.peer_number == (4, (192 << 24) | (2 << 8) | 7)
    later = Packet(direction=Direction.INGRESS, peer=address_bytes("::1"), protocol=6, fragment=True)
    assert later.text == "ingress tcp from ::1 (later fragment)"
    assert later.peer_number == (6, 1)
