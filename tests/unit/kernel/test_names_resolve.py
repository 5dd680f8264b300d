"""Lookups against resolvers of the test's own, on the loopback."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

from aegis.kernel import names_resolve
from aegis.kernel.names_reference import AAAA, A, Question, read_question
from aegis.kernel.names_resolve import encode_query, look_up
from tests.support import dns

LOOPBACK = dns.mapped("127.0.0.1")
OWNER = dns.pointer(dns.HEADER)
Answer = Callable[[bytes, Question], bytes | None]


@contextlib.contextmanager
def resolver(answer: Answer, over_tcp: Answer | None = None) -> Iterator[int]:
    """A resolver on a port of 127.0.0.1; the port. It says what `answer` gives, nothing for None."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams, socket.socket() as listener:
        datagrams.bind(("127.0.0.1", 0))
        port = datagrams.getsockname()[1]
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()
        listener.settimeout(5)

        def serve() -> None:
            while data := datagrams.recvfrom(4096):
                if data[0] == b"end":
                    return
                question = read_question(data[0])
                assert question is not None
                reply = answer(data[0], question)
                if reply is not None:
                    datagrams.sendto(reply, data[1])
                if reply is not None and reply[2] & 2 and over_tcp is not None:
                    accepted, _ = listener.accept()
                    with accepted:
                        query = accepted.recv(4096)[2:]
                        full = over_tcp(query, question)
                        assert full is not None
                        accepted.sendall(len(full).to_bytes(2, "big") + full[:30])
                        accepted.sendall(full[30:])

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield port
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stop:
                stop.sendto(b"end", ("127.0.0.1", port))
            thread.join(10)
            assert not thread.is_alive()


def told(query: bytes, question: Question) -> bytes:
    """One address of the type asked for, made of the first label."""
    name = b".".join(question.name).decode()
    number = int(question.name[0][1:])
    address = f"192.0.2.{number}" if question.type == A else f"2001:db8::{number}"
    records = [dns.address_record(OWNER, address, ttl=number)]
    return dns.answer(name, records, question.type, number=int.from_bytes(query[:2], "big"))


def test_both_families_of_many_names() -> None:
    names = [f"n{number}.example.com" for number in range(1, 201)]
    with resolver(told) as port:
        found = look_up(names, [LOOPBACK], time.monotonic, port=port)
    assert {name: one.error for name, one in found.items() if one.error} == {}
    for number, name in enumerate(names, 1):
        assert found[name].addresses == {
            dns.mapped(f"192.0.2.{number}"): number,
            dns.mapped(f"2001:db8::{number}"): number,
        }


def test_the_next_server_is_asked() -> None:
    with resolver(told) as port:
        found = look_up(["N7.Example.com."], [dns.mapped("127.0.0.2"), LOOPBACK], time.monotonic, port=port)
    assert set(found["N7.Example.com."].addresses) == {dns.mapped("192.0.2.7"), dns.mapped("2001:db8::7")}


def test_an_answer_to_another_question_is_waited_out() -> None:
    def spoofed(query: bytes, question: Question) -> bytes | None:
        return told(query, Question(name=(b"n9", b"evil", b"test"), type=question.type))

    with resolver(spoofed) as port:
        begin = time.monotonic()
        found = look_up(["n1.test"], [LOOPBACK], time.monotonic, port=port, within_s=0.3)
    assert time.monotonic() - begin < 3
    assert (found["n1.test"].addresses, found["n1.test"].error) == ({}, "no resolver answered")


def test_no_answer_ends_in_time(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(names_resolve, "WAIT_S", 0.05)
    with resolver(lambda *_: None) as port:
        begin = time.monotonic()
        found = look_up(["n1.test"], [LOOPBACK], time.monotonic, port=port)
    assert time.monotonic() - begin < 2
    assert found["n1.test"].error == "no resolver answered"
    assert look_up(["n1.test"], [], time.monotonic)["n1.test"].error == "no resolver is known"


def test_what_a_resolver_denies() -> None:
    def denied(query: bytes, question: Question) -> bytes:
        name = b".".join(question.name).decode()
        number = int.from_bytes(query[:2], "big")
        if name == "none.test":
            return dns.answer(name, [], question.type, number=number, flags=0x8183)
        if name == "local.test":
            text = "127.0.0.1" if question.type == A else "::1"
            return dns.answer(name, [dns.address_record(OWNER, text)], question.type, number=number)
        return dns.answer(name, [], question.type, number=number)

    with resolver(denied) as port:
        found = look_up(["none.test", "empty.test", "local.test"], [LOOPBACK], time.monotonic, port=port)
    assert {name: one.error for name, one in found.items()} == {
        "none.test": "the resolver knows no such name",
        "empty.test": "it has no address",
        "local.test": "its answer is not believed: forbidden",
    }
    assert not any(one.addresses for one in found.values())


def test_a_truncated_answer_is_asked_for_over_tcp() -> None:
    def truncated(query: bytes, question: Question) -> bytes:
        name = b".".join(question.name).decode()
        return dns.answer(name, [], question.type, number=int.from_bytes(query[:2], "big"), flags=0x8380)

    with resolver(truncated, told) as port:
        found = look_up(["n3.test"], [LOOPBACK], time.monotonic, port=port)
    assert set(found["n3.test"].addresses) == {dns.mapped("192.0.2.3"), dns.mapped("2001:db8::3")}


def test_a_query_reads_as_what_was_meant() -> None:
    question = Question(name=(b"a", b"test"), type=AAAA)
    data = encode_query(513, question)
    assert data[:2] == b"\2\1"
    assert read_question(data) == question
