"""What is read at once is what the library would have accepted, and nothing else is."""

from __future__ import annotations

import random

import pytest
from websockets.http11 import Request
from websockets.server import ServerProtocol

from aegis.gateway import opening

GOOD = (
    b"GET /ws/agent?x=1 HTTP/1.1\r\nHost: gateway.example:8080\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==\r\n"
    b"X-Agent-ID: host-1\r\nUser-Agent: Aegis-Agent/1.0 (a; b)\r\n\r\n"
)


def by_library(data: bytes) -> tuple[str, list[tuple[str, str]], str] | None:
    """Target, headers and proof, where it accepts, and nothing is left behind."""
    protocol = ServerProtocol()
    protocol.receive_data(data)
    events = protocol.events_received()
    if not events or protocol.writes or protocol.reader.buffer:
        return None
    (request,) = events
    assert isinstance(request, Request)
    answer = protocol.accept(request)
    if answer.status_code != 101:
        return None
    assert "Sec-WebSocket-Extensions" not in answer.headers
    return request.path, list(request.headers.raw_items()), answer.headers["Sec-WebSocket-Accept"]


def at_once(data: bytes) -> tuple[str, list[tuple[str, str]], str] | None:
    found = opening.read(data)
    if found is None:
        return None
    lines = opening.answer(found).decode().split("\r\n")
    assert lines[:3] == ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"]
    assert lines[4:] == ["", ""]
    return found.target, found.headers, lines[3].removeprefix("Sec-WebSocket-Accept: ")


def test_an_ordinary_request() -> None:
    assert at_once(GOOD) == by_library(GOOD)
    assert at_once(GOOD) is not None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"GET", b"POST"),
        (b"GET", b"get"),
        (b"HTTP/1.1", b"HTTP/1.0"),
        (b"/ws/agent", b"/ws/ag ent"),
        (b"/ws/agent", b"/ws/\xc3\xa4gent"),
        (b"Connection: Upgrade", b"Connection: keep-alive, Upgrade"),
        (b"Connection: Upgrade", b"Connection: close"),
        (b"Upgrade: websocket", b"Upgrade: h2c"),
        (b"Upgrade: websocket", b"Upgrade: websocket, h2c"),
        (b"Upgrade: websocket\r\n", b""),
        (b"Version: 13", b"Version: 8"),
        (b"Version: 13", b"Version: 13\r\nSec-WebSocket-Version: 13"),
        (b"x3JJHMbDL1EzLkh9GBhXDw==", b"short"),
        (b"x3JJHMbDL1EzLkh9GBhXDw==", b"x3JJHMbDL1EzLkh9GBhXDw=="[:-2]),
        (b"x3JJHMbDL1EzLkh9GBhXDw==", b"x3JJHMbDL1EzLkh9GBhXDx=="),
        (b"X-Agent-ID: host-1", b"X-Agent-ID: a\r\nx-agent-id: b"),
        (b"X-Agent-ID: host-1", b"X-Agent-ID:host-1"),
        (b"X-Agent-ID: host-1", b"X-Agent-ID : host-1"),
        (b"X-Agent-ID: host-1", b"X-Agent-ID: host-1 "),
        (b"X-Agent-ID: host-1", b"X-Agent-ID: host\x00-1"),
        (b"X-Agent-ID: host-1", b"X-Agent-ID: host\r-1"),
        (b"X-Agent-ID: host-1", b"X-Agent-ID: a\r\n folded"),
        (b"X-Agent-ID: host-1\r\n", b"X-Agent-ID: host-1\n"),
        (b"X-Agent-ID: host-1", b"X-Agent-ID: "),
        (b"X-Agent-ID: host-1", b"Content-Length: 0"),
        (b"X-Agent-ID: host-1", b"Transfer-Encoding: chunked"),
        (b"X-Agent-ID: host-1", b"Expect: 100-continue"),
        (b"X-Agent-ID: host-1", b"Origin: https://elsewhere.example"),
        (b"X-Agent-ID: host-1", b"Sec-WebSocket-Extensions: permessage-deflate"),
        (b"X-Agent-ID: host-1", b"Sec-WebSocket-Protocol: chat"),
        (b"\r\n\r\n", b"\r\n\r\n\x81\x80\0\0\0\0"),
        (b"\r\n\r\n", b"\r\n"),
        (b"\r\n\r\n", b"\r\n" + b"X-Y: z\r\n" * 70 + b"\r\n"),
    ],
    ids=range(33),
)
def test_what_is_not_beyond_doubt_is_for_the_library(old: bytes, new: bytes) -> None:
    assert old in GOOD
    assert opening.read(GOOD.replace(old, new, 1)) is None


def test_it_takes_nothing_that_the_library_does_not() -> None:
    rng = random.Random(5)
    pieces = [b"\r\n", b"\r", b"\n", b": ", b":", b" ", b"\t", b"\0", b"\x7f", b"\xff", b"A", b"=", b","]
    taken = 0
    for _ in range(6000):
        data = GOOD
        for _ in range(rng.choice((1, 1, 2, 3))):
            at = rng.randrange(len(data))
            data = data[:at] + rng.choice((b"", rng.choice(pieces))) + data[at + rng.randrange(3) :]
        found = at_once(data)
        if found is not None:
            taken += 1
            assert found == by_library(data), data
    assert taken > 500


def test_a_value_that_ends_badly_costs_no_more_than_its_length() -> None:
    data = GOOD[:-4] + b"\r\nX-A: " + b"a " * 3900 + b"\x00\r\n\r\n"
    assert opening.read(data) is None


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"POST /a?b=1 HTTP/1.1\r\nHost: h\r\n\r\n", ("POST", "/a?b=1")),
        (b"POST /a HTTP/1.1\r\nHost:h\r\nX:\r\n\r\n\0\xff body", ("POST", "/a")),
        (b"DELETE * HTTP/1.1\r\nHost: h\r\n\r\n", ("DELETE", "*")),
        (b"POST /a HTTP/1.1\r\nHost: h\r\n", None),  # not whole
        (b"POST /a HTTP/1.0\r\nHost: h\r\n\r\n", None),
        (b"POST /a HTTP/1.1\r\n\r\n", None),
        (b"POST /a HTTP/1.1\r\nHost h\r\n\r\n", None),
        (b"POST /a HTTP/1.1\r\nX: " + b"x" * 9000 + b"\r\n\r\n", None),
        (b"HEAD /a HTTP/1.1\r\nHost: h\r\n\r\n", None),
        (GOOD, None),
    ],
)
def test_a_request_that_can_be_no_upgrade(data: bytes, found: tuple[str, str] | None) -> None:
    assert opening.other(data) == found
