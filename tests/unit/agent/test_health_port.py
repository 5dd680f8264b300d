"""The health endpoint over TCP: one answer a connection, and nobody takes it from the others."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from aegis.agent import health_port
from aegis.agent.health_port import HealthPort


@contextlib.asynccontextmanager
async def opened() -> AsyncIterator[HealthPort]:
    port = HealthPort(lambda: False)
    await port.open("127.0.0.1", 0)
    try:
        yield port
    finally:
        await port.close()


async def said(port: HealthPort, *parts: bytes, eof: bool = False) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port.port)
    for part in parts:
        writer.write(part)
        await writer.drain()
        await asyncio.sleep(0.01)
    if eof:
        writer.write_eof()
    try:
        async with asyncio.timeout(3):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("parts", "status", "body"),
    [
        ((b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n",), 200, b"ok\n"),
        ((b"GET /hea", b"lthz HTTP/1.0\r\n", b"\r\n"), 200, b"ok\n"),
        ((b"GET /readyz HTTP/1.1\r\n\r\n",), 503, b"not ready\n"),
        ((b"HEAD /readyz HTTP/1.1\r\n\r\n",), 503, b""),
        ((b"POST /healthz HTTP/1.1\r\n\r\n",), 405, b"method not allowed\n"),
        ((b"GET /etc/passwd HTTP/1.1\r\n\r\n",), 404, b"not found\n"),
        ((b"GET /healthz\r\n\r\n",), 400, b"bad request\n"),
        ((b"\xff\0\r\n\r\n",), 400, b"bad request\n"),
        ((b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",), 400, b"bad request\n"),
    ],
)
async def test_each_request_has_its_answer(parts: tuple[bytes, ...], status: int, body: bytes) -> None:
    async with opened() as port:
        head, _, found = (await said(port, *parts)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status)
        assert found == body
        while port.there:  # noqa: ASYNC110  what is under test knows of no event
            await asyncio.sleep(0.01)


async def test_who_says_nothing_holds_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_port, "WITHIN_S", 0.2)
    monkeypatch.setattr(health_port, "MOST", 3)
    async with opened() as port:
        silent = [await asyncio.open_connection("127.0.0.1", port.port) for _ in range(3)]
        await asyncio.sleep(0.05)
        assert len(port.there) == 3
        assert await said(port, b"GET /healthz HTTP/1.1\r\n\r\n") == b""  # there is no room
        await asyncio.sleep(0.3)
        assert not port.there
        assert b" 200 OK" in await said(port, b"GET /healthz HTTP/1.1\r\n\r\n")
        assert await said(port, b"GET /hea", eof=True) == b""
        for _, writer in silent:
            writer.close()
    with pytest.raises(OSError, match=r"refused|Connect"):
        await asyncio.open_connection("127.0.0.1", port.port)
