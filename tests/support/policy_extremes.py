"""Sets of policies at the ends of what an image holds, and packets for each end: no seed decides whether they are asked."""

from __future__ import annotations

import ipaddress
import json
import random
from collections.abc import Iterator
from typing import Any

import msgspec

from aegis.model.net import MAPPED
from aegis.model.policy import Packet, PolicySet, Prefix, Rule
from aegis.model.policy_document import parse_document

# Narrow to wide: the prefix lengths of the levels of `nested_set`.
_LEVELS4, _LEVELS6 = (32, 28, 24, 16, 8), (128, 64, 56, 32, 16)
_NARROW = 3  # of the addresses a wide rule is asked at


def nested_set(dice: random.Random) -> PolicySet:
    """As many rules as an image may have, narrow prefixes first and the widest last, both families.

    Denials and allowances take turns at every level; only the late half of the first level observes. A packet to a
    narrow prefix that no narrow rule names is for a rule of high rank, several classes outward.
    """
    policies = []
    for number in range(10):
        rules = [_nested_rule(dice, number // 2, 6 if index % 3 == 0 else 4) for index in range(100)]
        spec = {"mode": "observe" if number in (1, 6) else "enforce", "priority": number}
        policies.append(_policy(f"nested-{number}", spec | {"egress" if number % 2 else "egressDeny": rules}))
    return PolicySet(policies=tuple(policies))


def _nested_rule(dice: random.Random, level: int, family: int) -> dict[str, Any]:
    """About one of few prefixes of a level. The ports of a level are its own, but for one rule in four."""
    if family == 4:
        tail = dice.choice((0, 15, 16, 255))
        address, bits = f"10.{dice.randrange(3)}.{dice.randrange(3)}.{tail}", _LEVELS4[level]
    else:
        low = dice.choice((0, 1, 0xFFFF))
        address = f"fd00:{dice.randrange(3)}:0:{dice.randrange(3):x}00::{low:x}"
        bits = _LEVELS6[level]
    cidr = str(ipaddress.ip_network((address, bits), strict=False))
    start = (9 if dice.random() < 0.25 else level * 1000) + dice.randint(1, 900)
    port: dict[str, Any] = {"port": start, "protocol": dice.choice(("TCP", "UDP", "ANY"))}
    if dice.random() < 0.3:
        port["endPort"] = start + dice.randrange(90)
    return {"toCIDRSet": [{"cidr": cidr}], "toPorts": [{"ports": [port]}]}


def edge_set() -> PolicySet:
    """Prefixes that begin and end where addresses do, or where another ends."""
    last6 = "ffff:ffff:ffff:ffff:ffff:ffff:ffff"
    denied = [
        *("0.0.0.0/32", "255.255.255.255/32", "192.0.2.128/25", "192.0.2.127/32"),
        *("::/128", f"{last6}:ffff/128", "2001:db8:0:1::/64", "2001:db8:0:0:ffff:ffff:ffff:ffff/128"),
    ]
    allowed = [
        *({"cidr": cidr} for cidr in ("0.0.0.0/1", "192.0.2.0/25", "2001:db8::/64", "8000::/1")),
        {"cidr": "255.255.255.252/30", "except": ["255.255.255.254/31"]},
        {"cidr": f"{last6}:fffc/126", "except": [f"{last6}:fffe/127"]},
        # Exceptions that lie in each other, touch, and are given widest last.
        {"cidr": "198.51.100.0/24", "except": ["198.51.100.64/28", "198.51.100.64/26", "198.51.100.128/26"]},
        {"cidr": "198.18.0.0/15", "except": ["198.18.0.1/32", "198.18.0.3/32", "198.19.255.255/32"]},
    ]
    spec = {
        "mode": "enforce",
        "egressDeny": [{"toCIDRSet": [{"cidr": cidr}]} for cidr in denied],
        "egress": [{"toCIDRSet": [block]} for block in allowed],
    }
    return PolicySet(policies=(_policy("edges", spec),))


def left_set() -> PolicySet:
    """What is left behind the last prefix, behind an exception at an end, and by rules: several defaults, in both modes; ties of origin."""
    last6 = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe"
    denied = [f"{last6}/128", "255.255.255.254/32"]
    carved = {"cidr": "203.0.113.0/24", "except": ["203.0.113.128/25"]}
    rules = {
        "egressDeny": [{"toCIDRSet": [{"cidr": cidr}]} for cidr in denied],
        "egress": [{"toCIDRSet": [carved], "toPorts": [{"ports": [{"port": 443}]}]}],
    }
    tie = {"mode": "enforce", "priority": 5, "egressDeny": [{"toCIDRSet": [{"cidr": "198.18.0.0/15"}]}]}
    both = {"enableDefaultDeny": {"egress": True, "ingress": True}}
    return PolicySet(
        policies=(
            _policy("a", rules | {"mode": "enforce", "priority": 1}),
            _policy("b", both | {"mode": "observe", "priority": 3}),
            _policy("c", {"enableDefaultDeny": {"egress": True}, "mode": "enforce", "priority": 3}),
            _policy("d", both | {"mode": "enforce", "priority": 4}),
            msgspec.structs.replace(_policy("e", tie), origin="gateway"),
            _policy("f", tie),
        )
    )


def packets_at_edges(policies: PolicySet) -> list[Packet]:
    """At and just beyond both ends of every prefix, and at the last address there is, by a service of its rule."""
    found = {
        _to(address, family, rule): None
        for rule in _rules(policies)
        for block in rule.blocks
        for prefix in (block.cidr, *block.exceptions)
        for family, address in _edges(prefix)
    }
    return list(found)


def packets_nested(policies: PolicySet) -> list[Packet]:
    """For each rule of a `nested_set`: its service at some of the narrowest prefixes inside it, and at its own ends."""
    prefixes = {rule.blocks[0].cidr for rule in _rules(policies)}
    narrow = sorted(prefix for prefix in prefixes if prefix.length in (_LEVELS4[0], _LEVELS4[1], 64, 128))
    found: dict[Packet, None] = {}
    for rule in _rules(policies):
        cidr = rule.blocks[0].cidr
        inside = [each for each in narrow if cidr.holds(each)]
        for each in inside[:: max(1, len(inside) // _NARROW)]:
            found[_to(each.address, each.family, rule)] = None
        found[_to(cidr.last, cidr.family, rule)] = None
    return list(found)


def _rules(policies: PolicySet) -> Iterator[Rule]:
    for policy in policies:
        yield from policy.rules


def _edges(prefix: Prefix) -> Iterator[tuple[int, int]]:
    top = (1 << prefix.bits) - 1
    for address in {max(prefix.address - 1, 0), prefix.address, prefix.last, min(prefix.last + 1, top), top}:
        yield prefix.family, address


def _to(address: int, family: int, rule: Rule) -> Packet:
    """A packet that the rule's services match, wherever they may."""
    protocol, port = 6, 443
    if rule.ports:
        protocol, port = rule.ports[0].protocol or 17, rule.ports[0].first or 0
    elif rule.icmps:
        protocol, port = (1 if rule.icmps[0].family == 4 else 58), rule.icmps[0].type << 8
    peer = MAPPED + address.to_bytes(4, "big") if family == 4 else address.to_bytes(16, "big")
    return Packet(direction=rule.direction, peer=peer, protocol=protocol, port=port)


def _policy(name: str, spec: dict[str, Any]) -> Any:
    document = {
        "apiVersion": "aegis/v1",
        "kind": "HostNetworkPolicy",
        "metadata": {"name": name},
        "spec": spec,
    }
    return parse_document(json.dumps(document).encode())
