"""DNS messages by hand, right and wrong: each function returns bytes."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Sequence

A, NS, CNAME, TXT, AAAA, DNAME, RRSIG, IN, CH = 1, 2, 5, 16, 28, 39, 46, 1, 3
HEADER = 12
RESPONSE = 0x8180  # QR, RD, RA
EDNS = b"\0" + struct.pack("!HHIH", 41, 1232, 0, 0)


def labels(text: str) -> bytes:
    """A name without compression; `text` has no final dot, "" is the root."""
    return b"".join(bytes([len(part)]) + part.encode() for part in text.split(".") if part) + b"\0"


def pointer(to: int) -> bytes:
    return struct.pack("!H", 0xC000 | to)


def header(number: int, flags: int, *counts: int) -> bytes:
    """`counts` of question, answer, authority and additional; those left out are 0."""
    return struct.pack("!6H", number, flags, *[*counts, 0, 0, 0, 0][:4])


def question(name: str | bytes, kind: int = A, number: int = IN) -> bytes:
    raw = labels(name) if isinstance(name, str) else name
    return raw + struct.pack("!HH", kind, number)


def query(
    name: str | bytes, kind: int = A, *, number: int = 7, edns: bool = False, flags: int = 0x0100
) -> bytes:
    return header(number, flags, 1, 0, 0, int(edns)) + question(name, kind) + (EDNS if edns else b"")


def record(
    owner: str | bytes, kind: int, data: bytes, *, ttl: int = 300, number: int = IN, length: int | None = None
) -> bytes:
    raw = labels(owner) if isinstance(owner, str) else owner
    return raw + struct.pack("!HHIH", kind, number, ttl, len(data) if length is None else length) + data


def address_record(owner: str | bytes, address: str, *, ttl: int = 300) -> bytes:
    packed = ipaddress.ip_address(address).packed
    return record(owner, A if len(packed) == 4 else AAAA, packed, ttl=ttl)


def alias(owner: str | bytes, target: str | bytes, *, ttl: int = 300) -> bytes:
    return record(owner, CNAME, labels(target) if isinstance(target, str) else target, ttl=ttl)


def answer(
    name: str | bytes,
    records: Sequence[bytes],
    kind: int = A,
    *,
    number: int = 7,
    flags: int = RESPONSE,
    count: int | None = None,
    questions: int = 1,
    behind: bytes = b"",
) -> bytes:
    """`count` overrides the number of records told; `behind` stands after the answer section."""
    told = len(records) if count is None else count
    return header(number, flags, questions, told) + question(name, kind) + b"".join(records) + behind


def mapped(address: str) -> bytes:
    packed = ipaddress.ip_address(address).packed
    return packed if len(packed) == 16 else bytes(10) + b"\xff\xff" + packed
