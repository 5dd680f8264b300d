"""The compiler's parts, one by one: carving, keys, limits, and the shape of the image."""

from __future__ import annotations

import ipaddress

import msgspec
import pytest

from aegis.errors import PolicyUnenforceable
from aegis.kernel import abi
from aegis.kernel.policy_image import DEPTH, compile_policies, names_of, service_key
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
from aegis.model.policy_selectors import Feature, NameSelector, Subject


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
    apart = tuple(AddressBlock(cidr=prefix(str(each))) for each in left)
    assert compile_policies(policies(rule(block))).data == compile_policies(policies(rule(*apart))).data


def test_a_rule_without_addresses_is_about_both_families() -> None:
    everywhere = ImageReader(compile_policies(policies(rule())).data)
    v4 = ImageReader(compile_policies(policies(rule(AddressBlock(cidr=prefix("10.0.0.0/8"))))).data)
    for peer, denied in (("10.0.0.1", True), ("11.0.0.1", False), ("fd00::1", False)):
        packet = Packet(direction=Direction.EGRESS, peer=address_bytes(peer), protocol=6, port=1)
        assert everywhere.judge(packet).enforced_denies
        assert v4.judge(packet).enforced_denies is denied


@pytest.mark.parametrize(
    ("deny", "ports", "keys"),
    [
        (True, (), {(0, 0, False), (255, 65535, True), (6, 80, False)}),
        (False, (Ports(protocol=6, first=80, last=81),), {(6, 80, False), (6, 81, False)}),
        (True, (Ports(protocol=6, first=80, last=81),), {(6, 80, False), (6, 0, True), (6, 65535, True)}),
        (False, (Ports(protocol=17),), {(17, 0, False), (17, 65535, False), (17, 0, True)}),
        (False, (Ports(protocol=None, first=9, last=9),), {(6, 9, False), (17, 9, False), (132, 9, False)}),
        (False, (Ports(protocol=None),), {(0, 0, False), (47, 0, True)}),
    ],
)
def test_the_services_of_a_rule(
    deny: bool, ports: tuple[Ports, ...], keys: set[tuple[int, int, bool]]
) -> None:
    reader = ImageReader(compile_policies(policies(rule(deny=deny, ports=ports))).data)
    beside = {(6, 79, False), (6, 82, False), (16, 80, False), (6, 81, True), (5, 65535, True), (7, 0, True)}
    for protocol, port, fragment in keys | beside:
        packet = Packet(
            direction=Direction.EGRESS, peer=bytes(16), protocol=protocol, port=port, fragment=fragment
        )
        wide = not ports or ports[0] == Ports(protocol=None)
        matches = wide or (protocol, port, fragment) in keys or (deny and fragment and protocol == 6)
        assert (reader.judge(packet).any is not None) is matches, packet
    other = Packet(direction=Direction.INGRESS, peer=bytes(16), protocol=6, port=80)
    assert reader.judge(other).any is None


def test_icmp_means_something_else_in_the_other_family() -> None:
    types = (IcmpType(family=4, type=8), IcmpType(family=6, type=128))
    icmp = Rule(path="egress[0]", line=1, direction=Direction.EGRESS, deny=False, icmps=types)
    reader = ImageReader(compile_policies(policies(icmp)).data)
    for peer, protocol, number, matches in (
        ("10.0.0.1", 1, 8, True),
        ("10.0.0.1", 58, 128, False),
        ("fd00::1", 58, 128, True),
        ("fd00::1", 1, 8, False),
    ):
        packet = Packet(
            direction=Direction.EGRESS, peer=address_bytes(peer), protocol=protocol, port=number << 8 | 255
        )
        assert (reader.judge(packet).any is not None) is matches


def test_the_key_of_a_service() -> None:
    last = service_key(Direction.EGRESS, 255, 65535, fragment=True)
    assert service_key(Direction.INGRESS, 0, 0, fragment=False) == last + 1


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
    most = abi.MAX_RULES
    one = policies(*[rule(number=7)] * (most - 2))
    compile_policies(one)
    other = tuple(rule(number=number) for number in range(2))
    both = one.with_policy(
        Policy(
            name="q",
            version=1,
            mode=Mode.OBSERVE,
            priority=9,
            rules=other,
            default_deny=(Direction.EGRESS,),
            default_line=3,
        )
    )
    with pytest.raises(PolicyUnenforceable, match=f"{most + 1} rules") as caught:
        compile_policies(both)
    assert (caught.value.path, caught.value.line) == ("spec.default.egress", 3)


def test_an_image_larger_than_a_slot() -> None:
    """20,000 rules, each with many prefixes of its own: more bytes than a slot has, so refused whole."""
    many = [
        rule(
            *(AddressBlock(cidr=Prefix(6, (number << 96) | (block << 65), 64)) for block in range(20)),
            number=number,
            ports=(Ports(protocol=6, first=number + 1, last=number + 1),),
        )
        for number in range(20_000)
    ]
    with pytest.raises(PolicyUnenforceable, match="bytes"):
        compile_policies(policies(*many))


def subject(number: int) -> Policy:
    return Policy(
        name=f"s{number}",
        version=1,
        mode=Mode.ENFORCE,
        priority=5,
        rules=(rule(),),
        subject=Subject(unit=(f"u{number}.service",)),
        subject_line=4,
    )


def test_more_subjects_instants_and_parts_than_an_image_has() -> None:
    few = [subject(number) for number in range(63)]
    assert len(compile_policies(PolicySet(policies=tuple(few))).subjects) == 63
    with pytest.raises(PolicyUnenforceable, match="64 different subjects") as caught:
        compile_policies(PolicySet(policies=(*few, subject(63))))
    assert caught.value.path == "spec.subject"
    timed = [
        msgspec.structs.replace(subject(0), name=f"t{number}", expires_ms=number) for number in range(65)
    ]
    compile_policies(PolicySet(policies=tuple(timed[:64])))
    with pytest.raises(PolicyUnenforceable, match="65 different instants"):
        compile_policies(PolicySet(policies=tuple(timed)))
    both = [
        msgspec.structs.replace(subject(number % 43), name=f"b{number}", expires_ms=number % 3)
        for number in range(129)
    ]
    with pytest.raises(PolicyUnenforceable, match="130 different pairs"):
        compile_policies(PolicySet(policies=tuple(both)))


def test_what_the_kernel_side_lacks_is_refused() -> None:
    with pytest.raises(PolicyUnenforceable, match="subjects are not supported") as caught:
        compile_policies(PolicySet(policies=(subject(1),)), features={Feature.NAMES})
    assert (caught.value.path, caught.value.line) == ("spec.subject", 4)
    named = msgspec.structs.replace(rule(), names=(NameSelector("example.com"),))
    with pytest.raises(PolicyUnenforceable, match="domain name") as caught:
        compile_policies(policies(named), features={Feature.SUBJECTS})
    assert (caught.value.path, caught.value.line) == ("spec.egressDeny[0].toFQDNs", 7)
    compile_policies(policies(named), features=set(Feature))


def test_the_names_of_a_peer_are_told_as_their_classes() -> None:
    one, other = NameSelector("*.example.com", pattern=True), NameSelector("example.org")
    named = [msgspec.structs.replace(rule(number=at), names=(each,)) for at, each in enumerate((one, other))]
    image = compile_policies(policies(*named), name_classes=[(0,), (1,)])
    assert image.names == (one, other)
    assert names_of(image, ("example.org", "no.example", "a.example.com")) == 2 | 1 << 32
    reader = ImageReader(image.data)
    packet = Packet(direction=Direction.EGRESS, peer=bytes(16), protocol=6, port=1)
    assert [reader.judge(packet, names=names).enforced for names in (0, 1, 2, 3)] == [None, 0, 1, None]


def test_a_name_with_more_rules_than_a_list_takes() -> None:
    named = msgspec.structs.replace(rule(), names=tuple(NameSelector(f"n{at}") for at in range(65)))
    compile_policies(policies(named), name_classes=[tuple(range(64))])
    with pytest.raises(PolicyUnenforceable, match="about one name"):
        compile_policies(policies(named), name_classes=[tuple(range(65))])


def test_prefixes_with_the_same_rules_share_a_class() -> None:
    block = AddressBlock(cidr=prefix("::/0"), exceptions=(prefix("2001:db8::1/128"),))
    image = compile_policies(policies(rule(block)))
    assert abi.unpack("aegis_image_header", image.data).class_count == 2
    reader = ImageReader(image.data)
    ends = {
        reader.walk(Packet(direction=Direction.EGRESS, peer=address_bytes(peer), protocol=6)).parts[0][2:]
        for peer in ("2001:db8::", "2001:db8::1", "2001:db8::2")
    }
    assert len(ends) == 3


def test_an_empty_set_allows() -> None:
    image = compile_policies(PolicySet())
    reader = ImageReader(image.data)
    assert (reader.rules, reader.enforced) == (0, 0)
    for peer in ("0.0.0.0", "255.255.255.255", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"):
        packet = Packet(direction=Direction.INGRESS, peer=address_bytes(peer), protocol=6, port=22)
        assert reader.judge(packet).any is None
