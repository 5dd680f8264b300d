"""The reader of images: where a peer lies, which classes are asked, and when the walk ends."""

from __future__ import annotations

import pytest

from aegis.errors import AbiMismatch
from aegis.kernel.policy_image import NONE, choice, compile_policies
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
        assert (found.first, found.last) == (first, last)


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


@pytest.mark.parametrize("data", [b"", bytes(64), b"AEPI" + bytes(60)])
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(AbiMismatch):
        ImageReader(data)
