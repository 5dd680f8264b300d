from __future__ import annotations

import dataclasses

import pytest

from aegis.kernel.names_reference import (
    AAAA,
    A,
    Count,
    Ends,
    Question,
    Watcher,
    forbidden,
    mapped,
    read_answer,
    read_question,
)
from tests.support import dns
from tests.support.dns_vectors import DEEP, VECTORS, WWW

ENDS = Ends(client=mapped(b"\x0a\x4d\0\1"), server=mapped(b"\x0a\x4d\0\2"), port=40000, protocol=17)
RESOLVERS = (ENDS.server, dns.mapped("10.77.0.4"))


def interest(name: tuple[bytes, ...]) -> int:
    """Class 5 for WWW, 9 for what is below DEEP."""
    text = b".".join(name)
    if text == WWW.encode():
        return 5
    return 9 if text.endswith(b"." + DEEP.encode()) else 0


def raw(name: str) -> bytes:
    """A name of one byte a character."""
    return b"".join(bytes([len(part)]) + part.encode("latin-1") for part in name.split(".")) + b"\0"


@pytest.mark.parametrize("name", VECTORS)
def test_vector(name: str) -> None:
    vector = VECTORS[name]
    watcher = Watcher(RESOLVERS, interest)
    assert watcher.query(ENDS, dns.query(raw(vector.name), vector.kind)) is Count.ASKED
    outcome, class_ = watcher.answer(dataclasses.replace(ENDS, **vector.others), vector.message)  # type: ignore[arg-type]
    assert outcome.count is vector.count
    assert outcome.addresses == tuple((dns.mapped(address), ttl) for address, ttl in vector.teaches)
    assert class_ == (0 if not vector.teaches else interest(tuple(raw_labels(vector.name))))


def raw_labels(name: str) -> list[bytes]:
    return [part.encode("latin-1") for part in name.split(".")]


def test_there_are_as_many_vectors_as_promised() -> None:
    assert len(VECTORS) >= 52
    assert sum(1 for vector in VECTORS.values() if not vector.teaches) >= 52


def test_an_answer_is_believed_once() -> None:
    watcher = Watcher(RESOLVERS, interest)
    message = VECTORS["one address"].message
    watcher.query(ENDS, dns.query(WWW))
    assert watcher.answer(ENDS, message)[0].count is Count.LEARNT
    assert watcher.answer(ENDS, message)[0].count is Count.UNSOLICITED


@pytest.mark.parametrize(("later", "count"), [(19, Count.LEARNT), (20, Count.UNSOLICITED)])
def test_an_answer_is_not_awaited_for_ever(later: int, count: Count) -> None:
    watcher = Watcher(RESOLVERS, interest)
    watcher.query(ENDS, dns.query(WWW), 100)
    assert watcher.answer(ENDS, VECTORS["one address"].message, 100 + later)[0].count is count


def test_what_does_not_answer_leaves_the_question_awaited() -> None:
    watcher = Watcher(RESOLVERS, interest)
    watcher.query(ENDS, dns.query(WWW))
    assert watcher.answer(ENDS, VECTORS["another name"].message)[0].count is Count.MISMATCH
    assert watcher.answer(ENDS, VECTORS["33 addresses"].message)[0].count is Count.TOO_MUCH
    assert watcher.answer(ENDS, VECTORS["one address"].message)[0].count is Count.UNSOLICITED


@pytest.mark.parametrize(
    ("message", "count"),
    [
        (dns.query(WWW), Count.ASKED),
        (dns.query(WWW, AAAA, edns=True), Count.ASKED),
        (dns.query("WWW.example.COM"), Count.ASKED),
        (dns.query("x." + DEEP), Count.ASKED),
        (dns.query("example.com"), Count.ASKED_OTHER),
        (dns.query(DEEP), Count.ASKED_OTHER),
        (dns.query(WWW, dns.TXT), Count.ASKED_OTHER),
        (dns.header(7, 0x0100, 1) + dns.question(WWW, A, dns.CH), Count.ASKED_OTHER),
        (dns.query(""), Count.ASKED_OTHER),
        (dns.query(WWW, flags=0x8100), Count.ASKED_MALFORMED),
        (dns.query(WWW, flags=0x1100), Count.ASKED_MALFORMED),
        (dns.query(WWW)[:-1], Count.ASKED_MALFORMED),
        (dns.query(WWW)[:11], Count.ASKED_MALFORMED),
        (dns.header(7, 0x0100, 2) + 2 * dns.question(WWW), Count.ASKED_MALFORMED),
        (dns.header(7, 0x0100, 1) + b"\x03www" + dns.pointer(4) + bytes(4), Count.ASKED_MALFORMED),
        (dns.query(WWW) + bytes(4096), Count.ASKED_MALFORMED),
    ],
)
def test_queries(message: bytes, count: Count) -> None:
    assert Watcher(RESOLVERS, interest).query(ENDS, message) is count


def test_a_query_to_another_server_is_not_awaited() -> None:
    watcher = Watcher(RESOLVERS, interest)
    other = dataclasses.replace(ENDS, server=dns.mapped("192.0.2.53"))
    assert watcher.query(other, dns.query(WWW)) is Count.ASKED_ELSEWHERE
    assert watcher.answer(other, VECTORS["one address"].message)[0].count is Count.ELSEWHERE


def test_a_question_is_read_as_asked() -> None:
    assert read_question(dns.query("A.b", AAAA)) == Question(name=(b"a", b"b"), type=AAAA)
    assert read_question(dns.query("a.b", dns.NS)) is None
    with pytest.raises(ValueError, match="no query"):
        read_question(dns.answer("a.b", []))


def test_the_case_of_bytes_that_are_no_letters_is_their_own() -> None:
    """RFC 4343: only A to Z have two cases."""
    name = (b"[\xc3\x84", b"x")
    message = dns.answer(b"\x03[\xc3\xa4\x01X\0", [dns.address_record(dns.pointer(12), "192.0.2.1")])
    assert read_answer(message, Question(name=name, type=A)).count is Count.MISMATCH


@pytest.mark.parametrize(
    ("address", "never"),
    [
        ("192.0.2.1", False),
        ("223.255.255.255", False),
        ("128.0.0.1", False),
        ("1.0.0.0", False),
        ("169.253.255.255", False),
        ("169.255.0.0", False),
        ("fec0::1", False),
        ("2001:db8::1", False),
        ("0:0:0:1::", False),
        ("fe7f::1", False),
        ("64:ff9b::c000:201", False),
        ("126.255.255.255", False),
    ],
)
def test_neighbours_of_what_is_never_learnt(address: str, never: bool) -> None:
    assert forbidden(dns.mapped(address)) is never
