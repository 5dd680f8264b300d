"""Random policies and the packets that are likely to find a fault in them. Everything follows from a seed."""

from __future__ import annotations

import ipaddress
import json
import random
from collections.abc import Iterable
from typing import Any

import msgspec

from aegis.errors import PolicyInvalid, PolicyUnenforceable
from aegis.kernel.policy_image import CompiledImage, compile_policies
from aegis.model.net import MAPPED, Direction
from aegis.model.policy import Packet, PolicySet
from aegis.model.policy_document import parse_document

PROTOCOLS = (1, 6, 17, 47, 58, 132)
_WORDS = {"TCP": (6,), "UDP": (17,), "SCTP": (132,), "ANY": (6, 17, 132)}
# Few prefixes that nest and touch, so that random rules overlap.
_ROOTS4 = ("0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "192.0.2.0/24", "255.255.255.0/24")
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
_ROOTS6 = ("::/0", "fd00::/8", "fd00:1::/32", "fd00:1:0:1::/64", "2001:db8::/32", "ff00::/8")


EPOCH_MS = 1_790_000_000_000  # Unix time at which the boot clock of the tests was 0
_INSTANTS = {"2026-10-01T00:00:00Z": 1_790_812_800_000, "2026-11-01T00:00:00.5Z": 1_793_491_200_500}
_SUBJECTS: tuple[dict[str, Any], ...] = (
    {"unit": ["getty@*.service"]},
    {"unit": ["web.service"], "user": "www-data"},
    {"exe": "/usr/bin/curl", "cgroup": ["/user.slice", "/system.slice/*.service"]},
)
_HOSTS = ("example.com", "www.example.com", "a.b.example.com", "mail.example.org", "example.org")
_SELECTORS: tuple[dict[str, str], ...] = (
    {"matchName": "example.com"},
    {"matchName": "WWW.example.com."},
    {"matchPattern": "*.example.com"},
    {"matchPattern": "**.example.com"},
    {"matchPattern": "m*l.example.org"},
    {"matchPattern": "*"},
)


def random_set(dice: random.Random, *, policies: int = 4, rules: int = 8, plain: bool = False) -> PolicySet:
    """Between one and `policies` policies with up to `rules` rules in each section, that nest no deeper than allowed.

    `plain`: of addresses and services only, without subjects, names, defaults and expiry.
    """
    while True:
        found = PolicySet()
        for number in range(dice.randint(1, policies)):
            try:
                policy = parse_document(random_document(dice, f"p{number}", rules=rules, plain=plain))
            except PolicyInvalid:  # an allowance that a denial takes whole
                continue
            origin = dice.choice(("local", "local", "gateway"))
            found = found.with_policy(msgspec.structs.replace(policy, origin=origin))
        try:
            compile_policies(found)
        except PolicyUnenforceable:
            continue
        if found.policies:
            return found


def compiled(policies: PolicySet) -> CompiledImage:
    """The image of a set, with the classes that the names of the tests fall into."""
    return compile_policies(policies, name_classes=name_classes(policies), boot_epoch_ms=EPOCH_MS)


def name_classes(policies: PolicySet) -> tuple[tuple[int, ...], ...]:
    """Which selectors the names of the tests match together, each combination once."""
    selectors = policies.names()
    found = {tuple(number for number, each in enumerate(selectors) if each.matches(host)) for host in _HOSTS}
    return tuple(sorted(found - {()}))


def random_document(dice: random.Random, name: str, *, rules: int = 8, plain: bool = False) -> bytes:
    """A valid document as JSON."""
    spec: dict[str, Any] = {"priority": dice.choice((0, 5, 5, 7, 1000))}
    if dice.random() < 0.8:
        spec["mode"] = dice.choice(("observe", "enforce"))
    sections = ("egress", "ingress", "egressDeny", "ingressDeny")
    for section in dice.sample(sections, dice.randint(1, len(sections))):
        spec[section] = [_rule(dice, section, plain=plain) for _ in range(dice.randint(1, rules))]
    if plain:
        return _document(name, spec)
    if dice.random() < 0.5:
        spec["subject"] = dice.choice(_SUBJECTS)
    if dice.random() < 0.4:
        spec["enableDefaultDeny"] = {way: dice.random() < 0.5 for way in ("egress", "ingress")}
    if dice.random() < 0.3:
        spec["expiresAt"] = dice.choice(tuple(_INSTANTS))
    return _document(name, spec)


def _document(name: str, spec: dict[str, Any]) -> bytes:
    document = {
        "apiVersion": "aegis/v1",
        "kind": "HostNetworkPolicy",
        "metadata": {"name": name},
        "spec": spec,
    }
    return json.dumps(document).encode()


def large_set(dice: random.Random) -> PolicySet:
    """As many rules as an image may have: allow and deny in turn by priority, each with its own prefix and port."""
    policies = []
    for number in range(10):
        rules = [
            {
                "toCIDRSet": [{"cidr": f"10.{number}.{index}.0/24"}],
                "toPorts": [{"ports": [{"port": dice.randint(1, 65535), "protocol": "TCP"}]}],
            }
            for index in range(100)
        ]
        document = {
            "apiVersion": "aegis/v1",
            "kind": "HostNetworkPolicy",
            "metadata": {"name": f"large-{number}"},
            "spec": {"mode": "enforce", "priority": number, "egressDeny" if number % 2 else "egress": rules},
        }
        policies.append(parse_document(json.dumps(document).encode()))
    return PolicySet(policies=tuple(policies))


def packets_at(policies: PolicySet) -> list[Packet]:
    """One packet for each rule of a `large_set`, at the middle of what it names: no rank goes unasked."""
    return [
        Packet(
            direction=rule.direction,
            peer=MAPPED + (rule.blocks[0].cidr.address + 77).to_bytes(4, "big"),
            protocol=6,
            port=rule.ports[0].first or 0,
        )
        for policy in policies
        for rule in policy.rules
    ]


def packets_about(dice: random.Random, policies: PolicySet, count: int) -> list[Packet]:
    """Packets at and just beyond the ends of what the rules name, and some anywhere."""
    addresses = [bytes(16), b"\xff" * 16, MAPPED + bytes(4), MAPPED + b"\xff" * 4]
    ports = [0, 1, 65535]
    for policy in policies:
        for rule in policy.rules:
            for block in rule.blocks:
                for prefix in (block.cidr, *block.exceptions):
                    addresses += _around(prefix.family, prefix.address, prefix.last)
            for each in rule.ports:
                if each.first is not None and each.last is not None:
                    ports += [each.first - 1, each.first, each.last, min(each.last + 1, 65535)]
    return [_packet(dice, addresses, ports, policies) for _ in range(count)]


def _packet(dice: random.Random, addresses: list[bytes], ports: list[int], policies: PolicySet) -> Packet:
    peer = dice.choice(addresses)
    if dice.random() < 0.2:
        peer = MAPPED + dice.randbytes(4) if dice.random() < 0.5 else dice.randbytes(16)
    protocol = dice.choice(PROTOCOLS) if dice.random() < 0.9 else dice.randrange(256)
    fragment = dice.random() < 0.15
    port = dice.choice(ports) if dice.random() < 0.8 else dice.randrange(65536)
    if protocol in (1, 58):
        port = dice.choice((0, 3, 8, 128, 129, 255)) << 8 | dice.choice((0, 1, 255))
    elif protocol not in (6, 17, 132):
        port = 0
    return Packet(
        direction=dice.choice(tuple(Direction)),
        peer=peer,
        protocol=protocol,
        port=0 if fragment else port,
        fragment=fragment,
        subjects=dice.randrange(16) | 1,
        names=tuple(dice.sample(_HOSTS, dice.choice((0, 0, 1, 2, 4)))),
        now_ms=dice.choice((EPOCH_MS, *(at + step for at in _INSTANTS.values() for step in (-1, 0, 1)))),
    )


def _around(family: int, first: int, last: int) -> Iterable[bytes]:
    top = (1 << (32 if family == 4 else 128)) - 1
    for address in {max(first - 1, 0), first, (first + last) // 2, last, min(last + 1, top)}:
        yield MAPPED + address.to_bytes(4, "big") if family == 4 else address.to_bytes(16, "big")


def _rule(dice: random.Random, section: str, *, plain: bool) -> dict[str, Any]:
    rule: dict[str, Any] = {}
    families: tuple[int, ...] = (4, 6)
    if not plain and section.startswith("egress") and dice.random() < 0.2:
        rule["toFQDNs"] = dice.sample(_SELECTORS, dice.randint(1, 3))
    elif dice.random() < 0.9:
        blocks = [_block(dice) for _ in range(dice.randint(1, 3))]
        families = tuple({4 if "." in block["cidr"] else 6 for block in blocks})
        rule["toCIDRSet" if section.startswith("egress") else "fromCIDRSet"] = blocks
    kind = dice.random()
    if kind < 0.6:
        rule["toPorts"] = [{"ports": [_ports(dice) for _ in range(dice.randint(1, 3))]}]
    elif kind < 0.8:
        fields = [
            {"family": f"IPv{dice.choice(families)}", "type": dice.choice((0, 3, 8, 128, 129, 255))}
            for _ in range(dice.randint(1, 2))
        ]
        rule["icmps"] = [{"fields": fields}]
    return rule


def _block(dice: random.Random) -> dict[str, Any]:
    root = ipaddress.ip_network(dice.choice(_ROOTS4 + _ROOTS6))
    network = _inside(dice, root) if dice.random() < 0.6 else root
    block: dict[str, Any] = {"cidr": str(network)}
    if dice.random() < 0.4 and network.prefixlen < network.max_prefixlen - 4:
        exceptions = [_inside(dice, network) for _ in range(dice.randint(1, 3))]
        left = ipaddress.collapse_addresses(exceptions)  # type: ignore[type-var]  # all of one family
        if list(left) != [network]:
            block["except"] = [str(each) for each in exceptions]
    return block


def _inside(
    dice: random.Random, root: ipaddress.IPv4Network | ipaddress.IPv6Network
) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """A smaller prefix; every third has the root's own first or last address."""
    length = dice.randint(min(root.prefixlen + 1, root.max_prefixlen), root.max_prefixlen)
    if root.version == 6 and dice.random() < 0.3:
        length = dice.choice((length, 64, 65, 63, 128)) if root.prefixlen < 63 else length
    where = dice.random()
    if where < 0.2:
        address = root.network_address
    elif where < 0.35:
        address = root.broadcast_address
    else:
        address = root[dice.randrange(root.num_addresses)]
    found = ipaddress.ip_network((address, length), strict=False)
    if isinstance(found, ipaddress.IPv6Network) and found.subnet_of(
        _MAPPED
    ):  # is refused: IPv4 in other words
        return _inside(dice, root)
    return found


def _ports(dice: random.Random) -> dict[str, Any]:
    entry: dict[str, Any] = {}
    if dice.random() < 0.8:
        entry["protocol"] = dice.choice(tuple(_WORDS))
    if dice.random() < 0.8 or not entry:
        first = dice.choice((1, 22, 23, 80, 443, 8000, 65535, dice.randint(1, 65535)))
        entry["port"] = first
        if dice.random() < 0.4:
            entry["endPort"] = min(65535, first + dice.choice((0, 1, 99, 65535)))
    return entry
