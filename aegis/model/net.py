"""Addresses, ports and protocols as the kernel's records give them, and as people read them."""

from __future__ import annotations

import enum
import ipaddress

MAPPED = bytes(10) + b"\xff\xff"  # ::ffff:0:0/96, RFC 4291 section 2.5.5.2

# IANA protocol numbers that have a name here; any other prints as its number.
PROTOCOLS: dict[int, str] = {
    1: "icmp",
    2: "igmp",
    4: "ipip",
    6: "tcp",
    17: "udp",
    41: "ipv6",
    47: "gre",
    50: "esp",
    51: "ah",
    58: "icmpv6",
    89: "ospf",
    132: "sctp",
    136: "udplite",
}
PROTOCOL_NUMBERS: dict[str, int] = {name: number for number, name in PROTOCOLS.items()}


class Direction(enum.StrEnum):
    """As seen from this host."""

    EGRESS = "egress"
    INGRESS = "ingress"


def protocol_name(number: int) -> str:
    """`tcp` for 6; the number itself where it has no name here."""
    return PROTOCOLS.get(number) or str(number)


def address_text(address: bytes) -> str:
    """An address of 16 bytes in network order, IPv4 mapped, in its canonical text (RFC 5952).

    Raises ValueError for another length.
    """
    if address[:12] == MAPPED and len(address) == 16:
        return f"{address[12]}.{address[13]}.{address[14]}.{address[15]}"
    if len(address) != 16:
        raise ValueError(f"an address has 16 bytes, not {len(address)}")
    return str(ipaddress.IPv6Address(address))


def address_bytes(text: str) -> bytes:
    """The 16 bytes of an IPv4 or IPv6 address, IPv4 mapped. Raises ValueError."""
    address = ipaddress.ip_address(text)
    return MAPPED + address.packed if address.version == 4 else address.packed
