"""The server on a real socket: stops in time, is not held up by slow clients, and breaks on nothing."""

from __future__ import annotations

import asyncio
import signal
import socket

import psutil
import pytest

from aegis.gateway.api import server
from tests.support.api import TOKEN, Api, running_api


async def exchange(api: Api, *pieces: bytes, pause_s: float = 0.0) -> bytes:
    """What comes back to raw bytes until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause_s)
        async with asyncio.timeout(10):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize(
    "raw",
    [
        b"\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nBad Header: 1\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"y" * (server.LONGEST_HEAD + 1) + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100) + b"\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
async def test_what_is_no_request_is_400_or_the_end(
    raw: bytes, capfd: pytest.CaptureFixture[str], api: Api
) -> None:
    answer = await exchange(api, raw)
    assert answer == b"" or answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 401")), answer
    assert (await api.call("GET", "/healthz")).status == 200
    assert "Traceback" not in capfd.readouterr().err


async def test_an_upgrade_is_an_ordinary_request(api: Api) -> None:
    raw = (
        b"GET /agents HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==\r\n\r\n"
    )
    assert (await exchange(api, raw)).startswith(b"HTTP/1.1 401")


async def test_a_stop_does_not_wait_for_anybody() -> None:
    loop = asyncio.get_running_loop()
    async with running_api() as api:
        idle = await asyncio.open_connection("127.0.0.1", api.port)
        waiting = asyncio.create_task(api.call("GET", "/events?after=now&wait=30s"))
        await asyncio.sleep(0.2)
        begun = loop.time()
    assert loop.time() - begun < server.STOP_WITHIN_S + 0.5
    assert (await waiting).status == 200
    idle[1].close()
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", api.port), timeout=1)


async def test_a_stop_lets_go_of_who_does_not_read() -> None:
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        async with running_api() as api:
            api.hub.store(*({"type": "exec", "pid": number, "x": "y" * 1000} for number in range(20_000)))
            await ask_unread(client, api)
            await asyncio.sleep(0.3)
            begun = loop.time()
        assert loop.time() - begun < server.STOP_WITHIN_S + 0.5
        await asyncio.sleep(0.2)
        held = psutil.Process().net_connections("tcp")
        assert [one for one in held if one.laddr.port == api.port] == []


async def ask_unread(client: socket.socket, api: Api) -> None:
    """Ask for 20 MB and read none of it."""
    client.connect(("127.0.0.1", api.port))
    client.setblocking(False)
    raw = (
        "GET /events?last=20000 HTTP/1.1\r\nHost: x\r\nAccept: application/x-ndjson\r\n"
        f"Authorization: Bearer {TOKEN}\r\n\r\n"
    )
    await asyncio.get_running_loop().sock_sendall(client, raw.encode())


async def test_signals_stay_the_process_s() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    async with running_api():
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


async def test_too_many_requests_are_refused_with_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MOST_REQUESTS", 2)
    async with running_api() as api:
        waits = [asyncio.create_task(api.call("GET", "/events?after=now&wait=10s")) for _ in range(2)]
        await asyncio.sleep(0.3)
        answer = await api.call("GET", "/agents")
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["code"] == "too_busy"
        assert (await api.call("GET", "/healthz")).status == 200
        api.hub.store({"type": "exec", "pid": 1})
        assert [one.status for one in await asyncio.gather(*waits)] == [200, 200]
        assert (await api.call("GET", "/agents")).status == 200
