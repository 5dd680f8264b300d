"""The reader of images: where a peer lies, which classes are asked, and when the walk ends."""

from __future__ import annotations

import pytest

from aegis.errors import AbiMismatch
from aegis.kernel.policy_image import NONE, compile_policies
from aegis.kernel.policy_walk import ImageReader, Walk
from aegis.model.net import Direction, address_bytes
from aegis.model.policy import Packet, PolicySet
from aegis.model.policy_document import parse_document


def reader(*specs: str) -> ImageReader:
    found = PolicySet()
    for number, spec in enumerate(specs):
        text = f"apiVersion: aegis/v1\nkind: HostNetworkPolicy\nmetadata: {{name: p{number}}}\nspec: {{{spec}}}\n"
        found = found.with_policy(parse_document(text.encode()))
    return ImageReader(compile_policies(found).data)


def walk(image: ImageReader, peer: str, port: int = 80) -> Walk:
    return image.walk(Packet(direction=Direction.EGRESS, peer=address_bytes(peer), protocol=6, port=port))


def choice(rank: int, *, deny: bool) -> int:
    return rank << 1 | deny


INNER = "toCIDRSet: [{cidr: 10.1.0.0/16}], toPorts: [{ports: [{port: 23}]}]"
OUTER = "toCIDRSet: [{cidr: 10.0.0.0/8}]"


def test_a_peer_lies_between_the_ends_of_its_interval() -> None:
    image = reader(f"mode: enforce, egressDeny: [{{{INNER}}}, {{{OUTER}}}]")
    for peer, first, last in (
        ("9.255.255.255", "0.0.0.0", "9.255.255.255"),
        ("10.0.0.0", "10.0.0.0", "10.0.255.255"),
        ("10.1.0.0", "10.1.0.0", "10.1.255.255"),
        ("10.255.255.255", "10.2.0.0", "10.255.255.255"),
        ("11.0.0.0", "11.0.0.0", "255.255.255.255"),
        ("fd00::1", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ):
        found = walk(image, peer)
        assert found.parts == ((0, 0, first, last),)


def test_the_walk_ends_where_no_wider_prefix_can_decide_better() -> None:
    image = reader(f"mode: enforce, egressDeny: [{{{INNER}}}, {{{OUTER}}}]")
    hit = walk(image, "10.1.2.3", 23)
    assert [(step.enforced, step.ends) for step in hit.steps] == [(choice(0, deny=True), True)]
    miss = walk(image, "10.1.2.3", 80)
    assert [(step.enforced, step.ends) for step in miss.steps] == [
        (NONE, False),
        (choice(1, deny=True), True),
    ]
    assert miss.judgement.enforced == 1
    reverse = reader(f"mode: enforce, egressDeny: [{{{OUTER}}}, {{{INNER}}}]")
    assert [step.ends for step in walk(reverse, "10.1.2.3", 23).steps] == [False, True]


def test_an_observed_match_does_not_end_the_search_for_an_enforced_one() -> None:
    image = reader(f"priority: 1, egressDeny: [{{{INNER}}}]", f"mode: enforce, egressDeny: [{{{OUTER}}}]")
    found = walk(image, "10.1.2.3", 23)
    assert (found.judgement.any, found.judgement.enforced) == (0, 1)
    assert len(found.steps) == 2


@pytest.mark.parametrize("data", [b"", bytes(96), b"AEPI" + bytes(92)])
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(AbiMismatch):
        ImageReader(data)


def test_parts_are_asked_by_subject_and_time() -> None:
    """A subject's part only for its own packets, and one that ends only until then."""
    image = reader(
        "mode: enforce, subject: {unit: a.service}, egressDeny: [{}]",
        "mode: enforce, expiresAt: '1970-01-01T00:00:02Z', priority: 1, egress: [{}]",
    )

    def asked(mask: int, now_ms: int) -> tuple[tuple[int, int], ...]:
        packet = Packet(
            direction=Direction.EGRESS, peer=bytes(16), protocol=6, port=1, subjects=mask, now_ms=now_ms
        )
        found = image.walk(packet)
        assert found.timed is ((0, 1) in [part[:2] for part in found.parts])
        return tuple(part[:2] for part in found.parts)

    assert asked(1, 0) == asked(1, 1999) == ((0, 0), (0, 1))
    assert asked(3, 1999) == ((0, 0), (0, 1), (1, 0))
    assert asked(3, 2000) == ((0, 0), (1, 0))
    assert asked(4, 2000) == ((0, 0),)


def test_a_default_is_behind_every_rule() -> None:
    image = reader(
        "mode: enforce, enableDefaultDeny: {egress: true}, egress: [{toPorts: [{ports: [{port: 80}]}]}]"
    )
    assert walk(image, "192.0.2.1", 80).judgement.enforced_denies is False
    left = walk(image, "192.0.2.1", 81).judgement
    assert (left.enforced, left.enforced_denies) == (1, True)
    other = Packet(direction=Direction.INGRESS, peer=bytes(16), protocol=6, port=81)
    assert image.judge(other).any is None
