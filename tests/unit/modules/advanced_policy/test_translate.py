"""Verdict records into events: direction, names, owners, and what is absent with its reason."""

from __future__ import annotations

import msgspec

from aegis.model.absent import Absent
from aegis.model.event import encode
from aegis.model.flow import Verdict
from aegis.model.net import Direction, address_bytes
from aegis.model.policy import Mode, RuleName
from aegis.model.process import OwnerLabel
from aegis.modules.advanced_policy.translate import LOST_IMAGE, Record, translate

HERE, THERE = address_bytes("10.0.0.1"), address_bytes("192.0.2.7")
NAME = RuleName(policy="no-telnet", rule="egressDeny[0]", mode=Mode.ENFORCE, deny=True)


def record(
    *, rule: int = 1, verdict: int = 2, initiator: int = 0, index: int = 4, generation: int = 9
) -> Record:
    return (
        7, 1000, 0, HERE, THERE, 40_001, 23, index, 6, 0, 77, generation, 5, 3, rule, verdict, initiator,
    )  # fmt: skip


def events(*records: Record) -> list:
    return translate(
        records,
        rule_of=lambda generation, rule: NAME if (generation, rule) == (9, 1) else None,
        owner_of=lambda owner: OwnerLabel.FORWARDED if owner == 77 else None,
        interface_of=lambda index: "eth0" if index == 4 else None,
        wall_offset_ns=1_000_000,
    )


def test_a_denial_of_what_this_host_began() -> None:
    (event,) = events(record())
    assert (event.verdict, event.policy, event.rule) == (Verdict.DENY, "no-telnet", "egressDeny[0]")
    assert (event.source, event.source_port) == (HERE, 40_001)
    assert (event.destination, event.destination_port) == (THERE, 23)
    assert (event.direction, event.interface, event.owner) == (Direction.EGRESS, "eth0", OwnerLabel.FORWARDED)
    assert (event.time_ns, event.generation, event.suppressed) == (1_001_000, 9, 3)
    shown = msgspec.json.decode(encode(event))
    assert (shown["verdict"], shown["policy"], shown["rule"]) == ("deny", "no-telnet", "egressDeny[0]")
    assert (shown["src"], shown["dst"], shown["dst_port"]) == ("10.0.0.1", "192.0.2.7", 23)


def test_an_audit_of_what_came_in_is_told_from_the_initiator() -> None:
    (event,) = events(record(verdict=1, initiator=1))
    assert (event.verdict, event.direction) == (Verdict.AUDIT, Direction.INGRESS)
    assert (event.source, event.source_port) == (THERE, 23)
    assert (event.destination, event.destination_port) == (HERE, 40_001)


def test_what_cannot_be_named_is_absent_with_a_reason() -> None:
    unknown, lost = events(record(generation=8, index=5), record(rule=0))
    assert isinstance(unknown.policy, Absent)
    assert "generation 8" in unknown.policy.reason
    assert unknown.interface == Absent("interface 5 is gone")
    assert lost.rule == LOST_IMAGE
    shown = msgspec.json.decode(encode(unknown))
    assert shown["policy"] is None
    assert "generation 8" in shown["policy_reason"]


def test_an_owner_nobody_knows() -> None:
    (event,) = translate(
        [record()],
        rule_of=lambda generation, rule: NAME,
        owner_of=lambda owner: None,
        interface_of=lambda index: "eth0",
        wall_offset_ns=0,
    )
    assert event.owner is OwnerLabel.UNKNOWN
