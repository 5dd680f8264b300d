"""A large set of mixed rules, made without a document: both families, many lengths that nest, ports, ICMP, any peer."""

from __future__ import annotations

import random

from aegis.model.net import Direction
from aegis.model.policy import (
    TCP,
    UDP,
    AddressBlock,
    IcmpType,
    Mode,
    Policy,
    PolicySet,
    Ports,
    Prefix,
    Rule,
)

_LENGTHS4 = (16, 20, 24, 24, 24, 28, 32, 32)
_LENGTHS6 = (32, 48, 56, 64, 64, 128)


def mixed_set(count: int, *, policies: int = 10, seed: int = 1) -> PolicySet:
    """`count` rules in all. Six in ten are about IPv4 prefixes, three about IPv6, one about any peer's service."""
    dice = random.Random(seed)
    made = []
    for number in range(policies):
        rules = tuple(_rule(dice, index, deny=bool(number % 2)) for index in range(count // policies))
        made.append(
            Policy(
                name=f"mixed-{number}",
                version=1,
                mode=Mode.OBSERVE if number % 3 == 2 else Mode.ENFORCE,
                priority=100 * number,
                rules=rules,
            )
        )
    return PolicySet(policies=tuple(made))


def _rule(dice: random.Random, index: int, *, deny: bool) -> Rule:
    direction = dice.choice((Direction.EGRESS, Direction.EGRESS, Direction.INGRESS))
    kind = dice.random()
    blocks: tuple[AddressBlock, ...] = ()
    family = 4
    if kind < 0.6:
        blocks = (AddressBlock(cidr=_prefix(dice, 4, dice.choice(_LENGTHS4))),)
    elif kind < 0.9:
        family = 6
        blocks = (AddressBlock(cidr=_prefix(dice, 6, dice.choice(_LENGTHS6))),)
    ports: tuple[Ports, ...] = ()
    icmps: tuple[IcmpType, ...] = ()
    service = dice.random()
    if service < 0.7 or not blocks:
        first = dice.randint(1, 65535)
        last = min(65535, first + dice.choice((0, 0, 0, 10, 1000)))
        ports = (Ports(protocol=dice.choice((TCP, TCP, UDP, None)), first=first, last=last),)
    elif service < 0.8:
        icmps = (IcmpType(family=family, type=dice.randrange(256)),)
    section = f"{direction.value}{'Deny' if deny else ''}"
    return Rule(
        path=f"{section}[{index}]",
        line=index,
        direction=direction,
        deny=deny,
        blocks=blocks,
        ports=ports,
        icmps=icmps,
    )


def _prefix(dice: random.Random, family: int, length: int) -> Prefix:
    bits = 32 if family == 4 else 128
    address = dice.getrandbits(bits) if family == 4 else (0x2001 << 112) | dice.getrandbits(112)
    return Prefix(family, address >> (bits - length) << (bits - length), length)
