"""The entries of the management path, without a kernel; with one: tests/bpf/test_management.py."""

from __future__ import annotations

import pytest

from aegis.errors import PolicyInvalid
from aegis.kernel import abi
from aegis.kernel.management import Managed, parse_allowed, to_host, unpack
from aegis.model.net import Direction

GOOD = (
    ("ingress:tcp:192.0.2.0/24:22", Direction.INGRESS, 6, "192.0.2.0/24", 22),
    ("egress:UDP:[2001:db8::123/128]:123", Direction.EGRESS, 17, "2001:db8::123/128", 123),
    ("egress:sctp:192.0.2.1:65535", Direction.EGRESS, 132, "192.0.2.1/32", 65535),
    ("ingress:tcp:[::/0]:22", Direction.INGRESS, 6, "::/0", 22),
)


@pytest.mark.parametrize("row", GOOD, ids=lambda row: row[0])
def test_an_entry_is_read_and_comes_back_from_the_kernels_form(
    row: tuple[str, Direction, int, str, int],
) -> None:
    text, direction, protocol, network, port = row
    (found,) = parse_allowed((text,))
    assert found == Managed(direction=direction, protocol=protocol, network=network, port=port)
    packed = found.pack()
    assert len(packed) == abi.struct("aegis_management_entry").size
    assert unpack(packed) == found


def test_one_host() -> None:
    assert to_host("192.0.2.1", 6, 443) == parse_allowed(("egress:tcp:192.0.2.1/32:443",))[0]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "22",
        "ingress:tcp:192.0.2.0/24",
        "ingress:tcp:192.0.2.1/24:22",
        "ingress:tcp:192.0.2.0/24:0",
        "ingress:tcp:192.0.2.0/24:65536",
        "ingress:tcp:192.0.2.0/24:+22",
        "both:tcp:192.0.2.0/24:22",
        "ingress:icmp:192.0.2.0/24:22",
        "ingress:tcp:2001:db8::/32:22",
        "ingress:tcp:[192.0.2.0/24]:22",
        "ingress:tcp:host.example:22",
    ],
)
def test_what_is_no_entry_is_named(text: str) -> None:
    with pytest.raises(PolicyInvalid, match=r"management_allow\[1\]"):
        parse_allowed(("ingress:tcp:192.0.2.0/24:22", text))
