"""Packets by hand, byte for byte: each function returns one header in front of what it carries."""

from __future__ import annotations

import ipaddress
import struct

TCP, UDP, SCTP, ICMP, ICMPV6 = 6, 17, 132, 1, 58
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION = 0, 43, 44, 51, 60
IPV4, IPV6, ARP, VLAN, QINQ = 0x0800, 0x86DD, 0x0806, 0x8100, 0x88A8
_MACS = bytes.fromhex("020000000002020000000001")


def ethernet(kind: int, carried: bytes, *, macs: bytes = _MACS) -> bytes:
    return macs + struct.pack("!H", kind) + carried


def tag(identifier: int, kind: int, carried: bytes) -> bytes:
    """A VLAN tag's second half: identifier and the type of what follows (the type of the tag stands before it)."""
    return struct.pack("!HH", identifier, kind) + carried


def address(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


def checksum(data: bytes) -> bytes:
    """The Internet checksum (RFC 1071) of data in which its own field is left out or zero."""
    total = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)


def ipv4(
    source: str,
    destination: str,
    protocol: int,
    carried: bytes,
    *,
    options: bytes = b"",
    fragment: int = 0,
    length: int | None = None,
    version: int = 4,
    words: int | None = None,
) -> bytes:
    """`fragment`: flags and offset as they stand in the header; `length` and `words` override the true ones."""
    header = 5 + len(options) // 4
    total = header * 4 + len(carried) if length is None else length
    first = version << 4 | (header if words is None else words)
    ends = address(source) + address(destination)
    fixed = struct.pack("!BBHHHBB", first, 0, total, 7, fragment, 64, protocol)
    return fixed + checksum(fixed + ends + options) + ends + options + carried


def ipv6(
    source: str,
    destination: str,
    following: int,
    carried: bytes,
    *,
    length: int | None = None,
    version: int = 6,
) -> bytes:
    """`following` is the type of the first header in `carried`."""
    size = len(carried) if length is None else length
    return (
        struct.pack("!IHBB", version << 28, size, following, 64)
        + address(source)
        + address(destination)
        + carried
    )


def extension(following: int, carried: bytes, *, units: int = 0) -> bytes:
    """Hop-by-hop, routing or destination header of 8 + 8 * `units` bytes."""
    return struct.pack("!BB", following, units) + bytes(6 + 8 * units) + carried


def authentication(following: int, carried: bytes, *, words: int = 4) -> bytes:
    """Authentication header of (`words` + 2) * 4 bytes."""
    return struct.pack("!BB", following, words) + bytes((words + 2) * 4 - 2) + carried


def fragment6(following: int, offset: int, more: bool, carried: bytes) -> bytes:
    """Fragment header; `offset` in units of 8 bytes."""
    return struct.pack("!BBHI", following, 0, offset << 3 | more, 9) + carried


def tcp(
    source: int, destination: int, flags: int, carried: bytes = b"", *, words: int = 5, options: bytes = b""
) -> bytes:
    header = struct.pack("!HHIIBBHHH", source, destination, 1, 1, words << 4, flags, 1024, 0, 0)
    return header + options + carried


def udp(source: int, destination: int, carried: bytes = b"", *, length: int | None = None) -> bytes:
    size = 8 + len(carried) if length is None else length
    return struct.pack("!HHHH", source, destination, size, 0) + carried


def checked_udp(source: str, destination: str, datagram: bytes) -> bytes:
    """The datagram with its checksum, which a receiver over IPv6 wants."""
    pseudo = address(source) + address(destination) + struct.pack("!IHH", len(datagram), 0, UDP)
    return datagram[:6] + checksum(pseudo + datagram) + datagram[8:]


def sctp(source: int, destination: int, carried: bytes = b"") -> bytes:
    return struct.pack("!HHII", source, destination, 5, 0) + carried


def icmp(kind: int, code: int, identifier: int = 0, carried: bytes = b"") -> bytes:
    return struct.pack("!BBHHH", kind, code, 0, identifier, 1) + carried
