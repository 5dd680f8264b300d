from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis.model.net import MAPPED, PROTOCOL_NUMBERS, PROTOCOLS, address_bytes, address_text, protocol_name


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (bytes(16), "::"),
        (bytes(15) + b"\x01", "::1"),
        (MAPPED + bytes([192, 0, 2, 1]), "192.0.2.1"),
        (MAPPED + bytes(4), "0.0.0.0"),
        (bytes.fromhex("20010db8000000000000000000000001"), "2001:db8::1"),
    ],
)
def test_known_addresses(address: bytes, text: str) -> None:
    assert address_text(address) == text
    assert address_bytes(text) == address


@given(st.ip_addresses())
def test_text_and_bytes_are_the_same_address(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    packed = address_bytes(str(address))
    assert len(packed) == 16
    mapped = getattr(address, "ipv4_mapped", None)
    assert ipaddress.ip_address(address_text(packed)) == (mapped or address)


@pytest.mark.parametrize("address", [b"", bytes(4), bytes(15), bytes(17), MAPPED])
def test_other_lengths_are_refused(address: bytes) -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        address_text(address)


def test_protocols() -> None:
    assert protocol_name(6) == "tcp"
    assert protocol_name(58) == "icmpv6"
    assert protocol_name(253) == "253"
    assert {PROTOCOL_NUMBERS[name]: name for name in PROTOCOL_NUMBERS} == PROTOCOLS
