"""What a set of policies says about a packet, by reading the rules from first to last.

The definition that the compiled image and the kernel are compared with: slow, and written without the compiler's
ideas (no ranking key, no intervals, no prefixes to walk).
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from aegis.model.flow import Verdict
from aegis.model.policy import (
    ANY_WITH_PORTS,
    ICMP,
    ICMPV6,
    AddressBlock,
    Mode,
    Packet,
    Policy,
    PolicySet,
    Ports,
    Rule,
)


class Decider(msgspec.Struct, frozen=True, kw_only=True):
    """A rule by its names, and whether it denies."""

    policy: str
    rule: str
    deny: bool


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """First match among the enforcing policies and first match among all; None: nothing matches."""

    enforced: Decider | None
    any: Decider | None

    @property
    def verdict(self) -> Verdict:
        if self.enforced is not None and self.enforced.deny:
            return Verdict.DENY
        if self.any is not None and self.any.deny:
            return Verdict.AUDIT
        return Verdict.ALLOW


def judge(policies: PolicySet, packet: Packet) -> Outcome:
    """Judge one packet: by the first rule that matches, and where none does by the first default."""
    about = [policy for policy in policies if _applies(policies, policy, packet)]
    first: Decider | None = None
    for policy, found in (*_matching(about, packet), *_defaults(about, packet)):
        if first is None:
            first = found
        if policy.mode is Mode.ENFORCE:
            return Outcome(enforced=found, any=first)
    return Outcome(enforced=None, any=first)


def _applies(policies: PolicySet, policy: Policy, packet: Packet) -> bool:
    """Whether the policy says anything of packets of these subjects at this time."""
    if policy.expires_ms is not None and policy.expires_ms <= packet.now_ms:
        return False
    if policy.subject is None:
        return True
    return bool(packet.subjects & (2 << policies.subjects().index(policy.subject)))


def _matching(policies: list[Policy], packet: Packet) -> Iterator[tuple[Policy, Decider]]:
    for policy, rule in _in_order(policies):
        if matches(rule, packet):
            yield policy, Decider(policy=policy.name, rule=rule.path, deny=rule.deny)


def _defaults(policies: list[Policy], packet: Packet) -> Iterator[tuple[Policy, Decider]]:
    """Policies that deny by default what goes in the packet's direction, in the order of rules."""
    for policy in sorted(policies, key=lambda each: (each.priority, each.origin == "gateway", each.name)):
        if packet.direction in policy.default_deny:
            name = f"default.{packet.direction.value}"
            yield policy, Decider(policy=policy.name, rule=name, deny=True)


def matches(rule: Rule, packet: Packet) -> bool:
    """Whether the rule is about this packet."""
    if rule.direction is not packet.direction:
        return False
    if rule.blocks and not any(_within(block, packet) for block in rule.blocks):
        return False
    if rule.names and not any(each.matches(name) for each in rule.names for name in packet.names):
        return False
    if rule.ports:
        return any(_served(ports, packet, deny=rule.deny) for ports in rule.ports)
    if rule.icmps:
        family, _ = packet.peer_number
        protocol = ICMP if family == 4 else ICMPV6
        of_family = [each.type for each in rule.icmps if each.family == family]
        if packet.protocol != protocol or not of_family:
            return False
        return rule.deny if packet.fragment else packet.port >> 8 in of_family
    return True


def _in_order(policies: list[Policy]) -> Iterator[tuple[Policy, Rule]]:
    """Rules by priority; of one priority the denying ones first; then local ones, by name and place."""
    for priority in sorted({policy.priority for policy in policies}):
        level = [policy for policy in policies if policy.priority == priority]
        level.sort(key=lambda policy: policy.name)
        level.sort(key=lambda policy: policy.origin, reverse=True)  # local before gateway
        for deny in (True, False):
            for policy in level:
                for rule in policy.rules:
                    if rule.deny == deny:
                        yield policy, rule


def _within(block: AddressBlock, packet: Packet) -> bool:
    family, address = packet.peer_number

    def holds(network: int, length: int) -> bool:
        spare = (32 if family == 4 else 128) - length
        return address >> spare == network >> spare

    if block.cidr.family != family or not holds(block.cidr.address, block.cidr.length):
        return False
    return not any(holds(each.address, each.length) for each in block.exceptions)


def _served(ports: Ports, packet: Packet, *, deny: bool) -> bool:
    """Later fragments carry no port: a denial takes them by protocol, an allowance only if it covers every port."""
    if ports.first is None or ports.last is None:
        return ports.protocol is None or ports.protocol == packet.protocol
    protocols = ANY_WITH_PORTS if ports.protocol is None else (ports.protocol,)
    if packet.protocol not in protocols:
        return False
    return deny if packet.fragment else ports.first <= packet.port <= ports.last
