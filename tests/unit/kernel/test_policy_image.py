"""The compiler's parts, one by one: carving, keys, limits, and the shape of the image."""

from __future__ import annotations

import ipaddress

import pytest

from aegis.errors import PolicyUnenforceable
from aegis.kernel import abi
from aegis.kernel.policy_image import DEPTH, compile_policies, networks, service_key, services
from aegis.kernel.policy_walk import ImageReader
from aegis.model.net import Direction, address_bytes
from aegis.model.policy import (
    AddressBlock,
    IcmpType,
    Mode,
    Packet,
    Policy,
    PolicySet,
    Ports,
    Prefix,
    Rule,
)


def prefix(text: str) -> Prefix:
    network = ipaddress.ip_network(text)
    return Prefix(network.version, int(network.network_address), network.prefixlen)


def rule(*blocks: AddressBlock, number: int = 0, deny: bool = True, ports: tuple[Ports, ...] = ()) -> Rule:
    section = "egressDeny" if deny else "egress"
    return Rule(
        path=f"{section}[{number}]", line=7, direction=Direction.EGRESS, deny=deny, blocks=blocks, ports=ports
    )


def policies(*rules: Rule, mode: Mode = Mode.ENFORCE) -> PolicySet:
    return PolicySet(policies=(Policy(name="p", version=1, mode=mode, priority=5, rules=rules),))


@pytest.mark.parametrize(
    ("cidr", "exceptions"),
    [
        ("10.0.0.0/8", ["10.1.0.0/16"]),
        ("10.0.0.0/8", ["10.0.0.0/32", "10.255.255.255/32"]),
        ("10.0.0.0/8", ["10.0.0.0/9"]),
        ("10.0.0.0/8", ["10.4.0.0/16", "10.4.7.0/24", "10.4.0.0/14"]),
        ("0.0.0.0/0", ["255.255.255.255/32"]),
        ("fd00::/8", ["fd00::/64", "fdff:ffff::/32"]),
        ("::/0", ["::1/128", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128"]),
    ],
)
def test_exceptions_are_carved_exactly(cidr: str, exceptions: list[str]) -> None:
    """As the standard library carves them."""
    left = [ipaddress.ip_network(cidr)]
    for text in exceptions:
        gone = ipaddress.ip_network(text)
        left = [
            piece
            for each in left
            if not each.subnet_of(gone)  # type: ignore[arg-type]
            for piece in (each.address_exclude(gone) if gone.subnet_of(each) else (each,))  # type: ignore[arg-type]
        ]
    block = AddressBlock(cidr=prefix(cidr), exceptions=tuple(map(prefix, exceptions)))
    found = networks((block,), prefix(cidr).family)
    assert sorted(found) == sorted((int(each.network_address), each.prefixlen) for each in left)


def test_a_rule_without_addresses_is_about_both_families() -> None:
    assert networks((), 4) == networks((), 6) == [(0, 0)]
    block = AddressBlock(cidr=prefix("10.0.0.0/8"))
    assert networks((block,), 6) == []


def test_the_services_of_a_rule() -> None:
    def key(protocol: int, port: int, *, fragment: bool = False) -> int:
        return service_key(Direction.EGRESS, protocol, port, fragment=fragment)

    assert services(rule(), 4) == [(key(0, 0), key(255, 65535, fragment=True))]
    web = (Ports(protocol=6, first=80, last=81),)
    assert services(rule(ports=web, deny=False), 4) == [(key(6, 80), key(6, 81))]
    assert services(rule(ports=web), 4) == [
        (key(6, 80), key(6, 81)),
        (key(6, 0, fragment=True), key(6, 65535, fragment=True)),
    ]
    whole = services(rule(ports=(Ports(protocol=17),), deny=False), 4)
    assert whole == [
        (key(17, 0), key(17, 65535)),
        (key(17, 0, fragment=True), key(17, 65535, fragment=True)),
    ]
    icmp = Rule(
        path="egress[0]",
        line=1,
        direction=Direction.EGRESS,
        deny=False,
        icmps=(IcmpType(family=4, type=8), IcmpType(family=6, type=128)),
    )
    assert services(icmp, 4) == [(key(1, 8 << 8), key(1, 8 << 8 | 255))]
    assert services(icmp, 6) == [(key(58, 128 << 8), key(58, 128 << 8 | 255))]
    assert service_key(Direction.INGRESS, 0, 0, fragment=False) == key(255, 65535, fragment=True) + 1


def nested(count: int) -> PolicySet:
    return policies(
        *(rule(AddressBlock(cidr=prefix(f"10.0.0.0/{8 + depth}")), number=depth) for depth in range(count))
    )


def test_as_many_nested_prefixes_as_the_kernel_walks() -> None:
    compile_policies(nested(DEPTH))
    with pytest.raises(PolicyUnenforceable, match=r"10\.0\.0\.0/24") as caught:
        compile_policies(nested(DEPTH + 1))
    assert caught.value.path == f"spec.egressDeny[{DEPTH}]"
    assert caught.value.line == 7


def test_more_rules_than_a_host_may_have() -> None:
    one = policies(*(rule(number=number) for number in range(600)))
    other = tuple(rule(number=number) for number in range(401))
    both = one.with_policy(Policy(name="q", version=1, mode=Mode.OBSERVE, priority=9, rules=other))
    with pytest.raises(PolicyUnenforceable, match="1001 rules") as caught:
        compile_policies(both)
    assert caught.value.path == "spec.egressDeny[400]"


def test_an_image_larger_than_a_slot() -> None:
    """1,000 rules, each with many prefixes of its own: more bytes than a slot has, so refused whole."""
    many = [
        rule(
            *(AddressBlock(cidr=Prefix(6, (number << 96) | (block << 65), 64)) for block in range(40)),
            number=number,
            ports=(Ports(protocol=6, first=number + 1, last=number + 1),),
        )
        for number in range(1000)
    ]
    with pytest.raises(PolicyUnenforceable, match="bytes"):
        compile_policies(policies(*many))


def test_prefixes_with_the_same_rules_share_a_class() -> None:
    block = AddressBlock(cidr=prefix("::/0"), exceptions=(prefix("2001:db8::1/128"),))
    image = compile_policies(policies(rule(block)))
    header = abi.unpack("aegis_image_header", image.data)
    assert header.class_count == 2
    assert header.v6_count == 3


def test_an_empty_set_allows() -> None:
    image = compile_policies(PolicySet())
    reader = ImageReader(image.data)
    assert (reader.rules, reader.enforced) == (0, 0)
    for peer in ("0.0.0.0", "255.255.255.255", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"):
        packet = Packet(direction=Direction.INGRESS, peer=address_bytes(peer), protocol=6, port=22)
        assert reader.judge(packet).any is None
