"""Answers that are right, odd or hostile, with what each must teach: the same for the reference and the kernel.

The question is always the one of `ASKED` (or of the case) with the id 7; WWW is of interest, so is everything under DEEP.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from aegis.kernel.names_reference import Count
from tests.support import dns
from tests.support.dns import AAAA, CNAME, A, address_record, alias, answer, pointer, record

WWW = "www.example.com"
DEEP = "deep.test"  # and every name below it
START = dns.HEADER  # where the name of the question begins
SELF = pointer(START)
BEHIND = START + len(dns.labels(WWW)) + 4  # of the first record of an answer about WWW
SIX = "2001:db8::1"
LONGEST = ".".join(["a" * 63] * 3 + ["b" * 51, DEEP])  # 255 bytes with lengths and the end
TOO_LONG = ".".join(["a" * 63] * 3 + ["b" * 52, DEEP])
MOST_LABELS = ".".join(["a"] * 122 + [DEEP])  # as many steps as a name can have with this end


@dataclass(frozen=True, slots=True, kw_only=True)
class Vector:
    """An answer to a question of `name` and `kind`; `teaches` are addresses with their TTLs."""

    message: bytes
    count: Count
    teaches: tuple[tuple[str, int], ...] = ()
    name: str = WWW
    kind: int = A
    number: int = 7  # id of the question
    others: dict[str, object] = field(default_factory=dict)  # where the answer comes from instead


def _good(message: bytes, *teaches: tuple[str, int], name: str = WWW, kind: int = A) -> Vector:
    return Vector(message=message, count=Count.LEARNT, teaches=teaches, name=name, kind=kind)


def _bad(count: Count, message: bytes, *, name: str = WWW, kind: int = A) -> Vector:
    return Vector(message=message, count=count, name=name, kind=kind)


ONE = address_record(SELF, "192.0.2.1")
_PLAIN = answer(WWW, [ONE])
_MANY = [address_record(SELF, f"192.0.2.{number}") for number in range(1, 34)]
_TWO_STEPS = [
    alias(SELF, "a.cdn.test"),
    alias("a.cdn.test", "b.cdn.test", ttl=20),
    address_record("b.cdn.test", "192.0.2.5", ttl=40),
]
# Aliases of a hundred labels each: more steps than are taken.
_LONG = [".".join(["x"] * 100 + [f"n{number}"]) for number in range(5)]
_STAIRS = [
    alias(SELF, _LONG[0]),
    *[alias(_LONG[number], _LONG[number + 1]) for number in range(4)],
    address_record(_LONG[4], "192.0.2.1"),
]

VECTORS: dict[str, Vector] = {
    # What is right.
    "one address": _good(_PLAIN, ("192.0.2.1", 300)),
    "an owner without compression": _good(
        answer(WWW, [address_record(WWW, "192.0.2.1")]), ("192.0.2.1", 300)
    ),
    "IPv6": _good(answer(WWW, [address_record(SELF, SIX)], AAAA), (SIX, 300), kind=AAAA),
    "several addresses": _good(
        answer(WWW, _MANY[:3]), *[(f"192.0.2.{number}", 300) for number in range(1, 4)]
    ),
    "as many addresses as are taken": _good(
        answer(WWW, _MANY[:32]), *[(f"192.0.2.{number}", 300) for number in range(1, 33)]
    ),
    "upper case in the question": _good(answer("WwW.eXaMpLe.CoM", [ONE]), ("192.0.2.1", 300)),
    "upper case in the owner": _good(
        answer(WWW, [address_record("www.EXAMPLE.com", "192.0.2.1")]), ("192.0.2.1", 300)
    ),
    "an alias": _good(
        answer(WWW, [alias(SELF, "b.test", ttl=60), address_record("b.test", "192.0.2.4")]), ("192.0.2.4", 60)
    ),
    "two aliases: the least TTL of all": _good(answer(WWW, _TWO_STEPS), ("192.0.2.5", 20)),
    "an alias whose end points back": _good(
        answer(
            WWW,
            [
                alias(SELF, b"\x01b" + pointer(START + 4)),
                address_record(pointer(BEHIND + 12), "192.0.2.6"),
            ],
        ),
        ("192.0.2.6", 300),
    ),
    "a pointer to a pointer": _good(
        answer(WWW, [ONE, address_record(pointer(BEHIND), "192.0.2.2")]),
        ("192.0.2.1", 300),
        ("192.0.2.2", 300),
    ),
    "EDNS behind the answers": _good(answer(WWW, [ONE], behind=dns.EDNS), ("192.0.2.1", 300)),
    "what is behind the answers is not read": _good(
        answer(WWW, [ONE], behind=b"\xff" * 40), ("192.0.2.1", 300)
    ),
    "a signature beside": _good(
        answer(WWW, [record(SELF, dns.RRSIG, b"\xc0" * 30), ONE]), ("192.0.2.1", 300)
    ),
    "DNAME before its alias": _good(
        answer(
            WWW,
            [
                record(pointer(START + 4), dns.DNAME, dns.labels("d.test")),
                alias(SELF, "www.d.test"),
                address_record("www.d.test", "192.0.2.9"),
            ],
        ),
        ("192.0.2.9", 300),
    ),
    "text of class CH beside": _good(
        answer(WWW, [record("other.test", dns.TXT, b"\x01x", number=dns.CH), ONE]), ("192.0.2.1", 300)
    ),
    "an address of the other family beside": _good(
        answer(WWW, [address_record(SELF, SIX), ONE]), ("192.0.2.1", 300)
    ),
    "a TTL of zero": _good(answer(WWW, [address_record(SELF, "192.0.2.1", ttl=0)]), ("192.0.2.1", 0)),
    "a TTL with its highest bit": _good(
        answer(WWW, [address_record(SELF, "192.0.2.1", ttl=1 << 31)]), ("192.0.2.1", 0)
    ),
    "a TTL of years": _good(
        answer(WWW, [address_record(SELF, "192.0.2.1", ttl=(1 << 31) - 1)]), ("192.0.2.1", 604_800)
    ),
    "the longest name": _good(
        answer(LONGEST, [address_record(SELF, "192.0.2.1")]), ("192.0.2.1", 300), name=LONGEST
    ),
    "the most labels": _good(
        answer(MOST_LABELS, [address_record(SELF, "192.0.2.1")]), ("192.0.2.1", 300), name=MOST_LABELS
    ),
    "the last byte of a label is any byte": _good(
        answer(b"\x03\x00\xff\x80" + dns.labels(DEEP), [ONE]), ("192.0.2.1", 300), name="\0\xff\x80." + DEEP
    ),
    "an address behind NAT64": _good(
        answer(WWW, [address_record(SELF, "64:ff9b::c000:201")], AAAA), ("64:ff9b::c000:201", 300), kind=AAAA
    ),
    # Not the answer to what was asked.
    "another id": Vector(message=answer(WWW, [ONE], number=8), count=Count.UNSOLICITED),
    "another name": _bad(Count.MISMATCH, answer("ww.example.com", [ONE])),
    "a name that goes on": _bad(Count.MISMATCH, answer(WWW + ".evil.org", [ONE])),
    "a name with another start": _bad(Count.MISMATCH, answer("notwww.example.com", [ONE])),
    "another name of the same shape": _bad(Count.MISMATCH, answer("www.example.con", [ONE])),
    "another type": _bad(Count.MISMATCH, answer(WWW, [address_record(SELF, SIX)], AAAA)),
    "another class": _bad(
        Count.MISMATCH, dns.header(7, dns.RESPONSE, 1, 1) + dns.question(WWW, A, dns.CH) + ONE
    ),
    "a query": _bad(Count.MISMATCH, answer(WWW, [ONE], flags=0x0100)),
    "another opcode": _bad(Count.MISMATCH, answer(WWW, [ONE], flags=0x9180)),
    "no question": _bad(Count.MISMATCH, dns.header(7, dns.RESPONSE, 0, 1) + address_record(WWW, "192.0.2.1")),
    "two questions": _bad(Count.MISMATCH, dns.header(7, dns.RESPONSE, 2, 1) + 2 * dns.question(WWW) + ONE),
    "a question that points": _bad(Count.MISMATCH, answer(b"\x03www" + pointer(20), [ONE])),
    "a question cut short": _bad(
        Count.MISMATCH, dns.header(7, dns.RESPONSE, 1, 1) + dns.labels(WWW) + b"\0\1"
    ),
    "a question without an end": _bad(
        Count.MISMATCH, dns.header(7, dns.RESPONSE, 1, 1) + dns.labels(WWW)[:-1]
    ),
    "a name of one byte too many": _bad(Count.MISMATCH, answer(TOO_LONG, [ONE]), name=LONGEST),
    # An answer that says no.
    "truncated": _bad(Count.TRUNCATED, answer(WWW, [ONE], flags=0x8380)),
    "no such name": _bad(Count.ERROR, answer(WWW, [ONE], flags=0x8183)),
    "refused": _bad(Count.ERROR, answer(WWW, [ONE], flags=0x8185)),
    "nothing": _bad(Count.EMPTY, answer(WWW, [])),
    "an alias to nothing": _bad(Count.EMPTY, answer(WWW, [alias(SELF, "b.test")])),
    "only the other family": _bad(Count.EMPTY, answer(WWW, [address_record(SELF, SIX)])),
    # Malformed.
    "shorter than a header": _bad(Count.MALFORMED, b"\0\7\x81\x80\0\1"),
    "empty": _bad(Count.MALFORMED, b""),
    "a pointer to itself": _bad(Count.MALFORMED, answer(WWW, [address_record(pointer(BEHIND), "192.0.2.1")])),
    "a pointer ahead": _bad(Count.MALFORMED, answer(WWW, [address_record(pointer(BEHIND + 4), "192.0.2.1")])),
    "a pointer into the header": _bad(
        Count.MALFORMED, answer(WWW, [address_record(pointer(4), "192.0.2.1")])
    ),
    "a pointer past the end": _bad(
        Count.MALFORMED, answer(WWW, [address_record(pointer(0x3FFF), "192.0.2.1")])
    ),
    "a label and a pointer in a ring": _bad(
        Count.MALFORMED, answer(WWW, [address_record(b"\x01a" + pointer(BEHIND), "192.0.2.1")])
    ),
    "half a pointer": _bad(Count.MALFORMED, answer(WWW, [b"\xc0"], count=1)),
    "a label of 64 bytes": _bad(
        Count.MALFORMED, answer(WWW, [address_record(b"\x40" + b"a" * 64 + b"\0", "192.0.2.1")])
    ),
    "a label of the type 10": _bad(
        Count.MALFORMED, answer(WWW, [address_record(b"\x80" + SELF, "192.0.2.1")])
    ),
    "an owner longer than names are": _bad(
        Count.MALFORMED,
        answer(WWW, [ONE, address_record(TOO_LONG, "192.0.2.1")]),
    ),
    "an owner too long by its pointer": _bad(
        Count.MALFORMED,
        answer(LONGEST, [address_record(b"\x01a" + SELF, "192.0.2.1")]),
        name=LONGEST,
    ),
    "more records told than there are": _bad(Count.MALFORMED, answer(WWW, [ONE], count=2)),
    "a record cut short": _bad(Count.MALFORMED, _PLAIN[:-1]),
    "a record without its fixed part": _bad(Count.MALFORMED, _PLAIN[:-7]),
    "data past the end": _bad(Count.MALFORMED, answer(WWW, [record(SELF, A, b"\xc0\0\2\1", length=400)])),
    "data of three bytes": _bad(Count.MALFORMED, answer(WWW, [record(SELF, A, b"\xc0\0\2"), ONE])),
    "data of five bytes": _bad(Count.MALFORMED, answer(WWW, [record(SELF, A, b"\xc0\0\2\1\1"), ONE])),
    "IPv6 of four bytes": _bad(
        Count.MALFORMED, answer(WWW, [record(SELF, AAAA, b"\xc0\0\2\1")], AAAA), kind=AAAA
    ),
    "an alias longer than its data": _bad(
        Count.MALFORMED,
        answer(
            WWW, [record(SELF, CNAME, dns.labels("b.test"), length=4), address_record("b.test", "192.0.2.1")]
        ),
    ),
    "an alias that ends in the next record": _bad(
        Count.MALFORMED,
        answer(WWW, [alias(SELF, dns.labels("b.test")[:-1]), address_record("", "192.0.2.1")]),
    ),
    "an alias shorter than its data": _bad(
        Count.MALFORMED,
        answer(WWW, [alias(SELF, dns.labels("b.test") + b"\0"), address_record("b.test", "192.0.2.1")]),
    ),
    "an address of class CH": _bad(
        Count.MALFORMED, answer(WWW, [record(SELF, A, b"\xc0\0\2\1", number=dns.CH), ONE])
    ),
    # Names it was not asked about.
    "another owner": _bad(Count.FOREIGN, answer(WWW, [address_record("evil.org", "192.0.2.1")])),
    "another owner behind a right one": _bad(
        Count.FOREIGN, answer(WWW, [ONE, address_record("evil.org", "192.0.2.2")])
    ),
    "a name above": _bad(Count.FOREIGN, answer(WWW, [address_record(pointer(START + 4), "192.0.2.1")])),
    "the root": _bad(Count.FOREIGN, answer(WWW, [address_record("", "192.0.2.1")])),
    **{
        f"{owner[0]} for {name[0]}, which are no letters": _bad(
            Count.FOREIGN, answer(name, [address_record(owner, "192.0.2.1")]), name=name
        )
        for name, owner in (("@." + DEEP, "`." + DEEP), ("[." + DEEP, "{." + DEEP))
    },
    "another owner of the same shape": _bad(
        Count.FOREIGN, answer(WWW, [address_record("www.exbmple.com", "192.0.2.1")])
    ),
    "aliases out of order": _bad(Count.FOREIGN, answer(WWW, [_TWO_STEPS[1], _TWO_STEPS[0], _TWO_STEPS[2]])),
    "an address of the name before its alias": _bad(
        Count.FOREIGN, answer(WWW, [ONE, alias(SELF, "b.test"), address_record("b.test", "192.0.2.2")])
    ),
    "an address of the name behind its alias": _bad(Count.FOREIGN, answer(WWW, [alias(SELF, "b.test"), ONE])),
    # Addresses that nobody may be sent to by a name.
    **{
        f"the address {text}": _bad(
            Count.FORBIDDEN,
            answer(
                WWW,
                [
                    address_record(SELF, "2001:db8::7" if ":" in text else "192.0.2.7"),
                    address_record(SELF, text),
                ],
                AAAA if ":" in text else A,
            ),
            kind=AAAA if ":" in text else A,
        )
        for text in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.255.255.255",
            "169.254.169.254",
            "169.254.0.1",
            "224.0.0.251",
            "239.1.2.3",
            "240.0.0.1",
            "255.255.255.255",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "::",
            "::1",
            "::192.0.2.1",
            "::ffff:192.0.2.1",
            "::ffff:127.0.0.1",
            "fe80::1",
            "febf::1",
            "ff02::fb",
            "fd00:ec2::254",
            "fd20:ce::254",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b::1:c000:201",
        ]
    },
    # More than is read.
    "33 addresses": _bad(Count.TOO_MUCH, answer(WWW, _MANY)),
    "65 records": _bad(Count.TOO_MUCH, answer(WWW, [record(SELF, dns.TXT, b"")] * 64 + [ONE])),
    "64 records": _good(answer(WWW, [record(SELF, dns.TXT, b"")] * 63 + [ONE]), ("192.0.2.1", 300)),
    "a message of 4,097 bytes": _bad(Count.TOO_MUCH, _PLAIN + bytes(4097 - len(_PLAIN))),
    "a message of 4,096 bytes": _good(_PLAIN + bytes(4096 - len(_PLAIN)), ("192.0.2.1", 300)),
    "more labels than are read": _bad(Count.TOO_MUCH, answer(WWW, _STAIRS)),
    # From elsewhere.
    "another port": Vector(message=_PLAIN, count=Count.UNSOLICITED, others={"port": 40001}),
    "another allowed server": Vector(
        message=_PLAIN, count=Count.UNSOLICITED, others={"server": dns.mapped("10.77.0.4")}
    ),
    "a server that is not allowed": Vector(
        message=_PLAIN, count=Count.ELSEWHERE, others={"server": dns.mapped("10.77.0.3")}
    ),
    "another client": Vector(
        message=_PLAIN, count=Count.UNSOLICITED, others={"client": dns.mapped("10.77.0.9")}
    ),
    "over TCP what was asked over UDP": Vector(
        message=_PLAIN, count=Count.UNSOLICITED, others={"protocol": 6}
    ),
}
