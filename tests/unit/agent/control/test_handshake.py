"""What is no WebSocket request gets a typed error on a raw socket, soon, and disturbs nobody."""

from __future__ import annotations

import asyncio
import json
import random
import time
from pathlib import Path

import pytest

from aegis.agent.control import handshake
from tests.unit.agent.control.test_server import ask, served, until

FLOOD = 1 << 20


async def said_to(path: str, sent: bytes, *, end: bool = False) -> tuple[str, dict[str, str], bytes]:
    """Status line, headers and body of the answer to these bytes; the server ends the connection."""
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(sent)
        if end:
            writer.write_eof()
        async with asyncio.timeout(10):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            body = await reader.read()
    finally:
        writer.close()
    status, *lines = head.split("\r\n")[:-2]
    return status, dict(line.lower().split(": ", 1) for line in lines), body


def check(answer: tuple[str, dict[str, str], bytes], status: str) -> None:
    got, headers, body = answer
    assert got == f"HTTP/1.1 {status}"
    assert (headers["connection"], headers["content-type"]) == ("close", "application/json")
    assert int(headers["content-length"]) == len(body)
    said = json.loads(body)
    assert (said["id"], said["error"]["code"]) == (None, "envelope_invalid")
    assert said["error"]["text"]
    assert said["error"]["hint"]


NOISE = {
    "words": b"garbage\r\n\r\n",
    "word without an end": b"garbage",
    "NULs": bytes(97),
    "one NUL": b"\0",
    "an empty line": b"\r\n",
    "another method": b"POST / HTTP/1.1\r\n\r\n",
    "HTTP/9": b"GET / HTTP/9\r\n\r\n",
    "GET alone": b"GET \r\n\r\n",
    "broken header": b"GET / HTTP/1.1\r\nno header\r\n\r\n",
    "noise behind GET": b"GET \xff\xff HTTP/1.1\r\n\r\n",
    "endless line": b"GET /" + b"x" * 9000,
    "endless header": b"GET / HTTP/1.1\r\nX: " + b"x" * 9000,
    "endless headers": b"GET / HTTP/1.1\r\n" + b"X: x\r\n" * 300,
    "a body": b"GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
}


@pytest.mark.parametrize("sent", NOISE.values(), ids=NOISE)
async def test_what_is_no_http_gets_a_typed_error_at_once(tmp_path: Path, sent: bytes) -> None:
    async with served(tmp_path) as it, it.connect() as good:
        begun = time.monotonic()
        check(await said_to(it.path, sent), "400 Bad Request")
        assert time.monotonic() - begun < handshake.OPEN_S / 2  # by what came, not by the time out
        assert len(await ask(good, "echo")) == 2


async def test_random_bytes_get_it_too(tmp_path: Path) -> None:
    chance = random.Random(13)
    async with served(tmp_path) as it, it.connect() as good:
        for _ in range(31):
            check(await said_to(it.path, chance.randbytes(chance.choice((1, 17, 4096)))), "400 Bad Request")
            assert len(await ask(good, "echo")) == 2
        await until(lambda: len(it.server._there) == 1)


async def test_one_that_ends_too_early_gets_it(tmp_path: Path) -> None:
    async with served(tmp_path) as it:
        check(await said_to(it.path, b"GET / HTT", end=True), "400 Bad Request")


@pytest.mark.parametrize("sent", [b"", b"G", b"GET / HTTP/1.1\r\nHost: x\r\n"])
async def test_one_that_is_too_slow_gets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(handshake, "OPEN_S", 0.05)
    async with served(tmp_path) as it:
        check(await said_to(it.path, sent), "400 Bad Request")


async def test_a_request_for_something_else_keeps_its_status(tmp_path: Path) -> None:
    async with served(tmp_path) as it:
        check(await said_to(it.path, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"), "426 Upgrade Required")


async def test_a_request_in_pieces_is_served(tmp_path: Path) -> None:
    """The first bytes are looked at as they come: half of a good word is no noise."""
    request = (
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    async with served(tmp_path) as it:
        reader, writer = await asyncio.open_unix_connection(it.path)
        for at in range(6):
            writer.write(request[at : at + 1])
            await asyncio.sleep(0.01)
        writer.write(request[6:])
        async with asyncio.timeout(10):
            assert (await reader.readline()).startswith(b"HTTP/1.1 101 ")
        writer.close()


async def test_one_that_goes_on_sending_is_cut(tmp_path: Path) -> None:
    async with served(tmp_path) as it, it.connect() as good:
        reader, writer = await asyncio.open_unix_connection(it.path)

        async def flood() -> None:
            while True:
                writer.write(bytes(FLOOD))
                await writer.drain()

        begun = time.monotonic()
        async with asyncio.timeout(10):
            with pytest.raises(ConnectionError):
                await flood()
        assert time.monotonic() - begun < handshake.OPEN_S / 2
        await until(lambda: len(it.server._there) == 1)
        assert len(await ask(good, "echo")) == 2
        del reader
        writer.close()


async def test_health_is_asked_on_the_socket_by_any_client_of_http(tmp_path: Path) -> None:
    async with served(tmp_path) as it, it.connect() as good:
        for ready, path, status in (
            (True, "/healthz", "200 OK"),
            (True, "/readyz", "200 OK"),
            (False, "/readyz", "503 Service Unavailable"),
            (False, "/healthz?x=1", "200 OK"),
        ):
            it.server._ready = lambda ready=ready: ready
            line, headers, body = await said_to(
                it.path, f"GET {path} HTTP/1.1\r\nHost: agent\r\n\r\n".encode()
            )
            assert line == f"HTTP/1.1 {status}"
            assert headers["content-type"].startswith("text/plain")
            assert body == (b"ok\n" if status == "200 OK" else b"not ready\n")
        assert len(await ask(good, "echo")) == 2
