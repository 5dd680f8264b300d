"""A connection's deadlines, its place among others, and how its answers go out."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import time
from typing import Any

import pytest

from aegis.gateway.api import connections
from tests.support.api import TOKEN, UID, Api, running_api
from tests.unit.gateway.api.test_server import ask_unread, exchange

ASKED = f"GET /agents HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
WAITS = ASKED.replace(b"/agents", b"/events?after=now&wait=20s")


async def test_half_a_request_holds_a_place_only_so_long(monkeypatch: pytest.MonkeyPatch, api: Api) -> None:
    monkeypatch.setattr(connections, "REQUEST_DEADLINE_S", 0.3)
    head = f"POST /agents/{UID}/send HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n".encode()
    for raw in (
        b"",
        b"GET /agents HT",
        head,
        head + b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{",
    ):
        begun = asyncio.get_running_loop().time()
        await exchange(api, raw)
        assert asyncio.get_running_loop().time() - begun < 3
    assert api.hub.sent == []


async def _rest(client: socket.socket) -> int:
    """Bytes until the server lets go."""
    total = 0
    with contextlib.suppress(ConnectionResetError):
        while got := await asyncio.get_running_loop().sock_recv(client, 1 << 20):
            total += len(got)
    return total


async def test_an_answer_nobody_reads_holds_a_place_only_so_long(
    monkeypatch: pytest.MonkeyPatch, api: Api
) -> None:
    monkeypatch.setattr(connections, "UNREAD_S", 0.3)
    monkeypatch.setattr(
        connections, "REQUEST_DEADLINE_S", 0.3
    )  # which must not cut an answer that is being read
    api.hub.store(*({"type": "exec", "pid": number, "x": "y" * 1000} for number in range(20_000)))
    with socket.socket() as client:
        await ask_unread(client, api)
        await asyncio.sleep(1.0)
        total = await _rest(client)
        assert total < 20_000_000


async def _is_open(reader: asyncio.StreamReader) -> bool:
    try:
        async with asyncio.timeout(0.1):
            return await reader.read(1) != b""
    except TimeoutError:
        return True
    except ConnectionResetError:
        return False


async def _leave(held: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]) -> None:
    for _, writer in held:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def test_idle_connections_do_not_keep_the_operator_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 4)
    async with running_api() as api:
        held = [await asyncio.open_connection("127.0.0.1", api.port) for _ in range(12)]
        assert (await api.call("GET", "/agents")).status == 200
        alive = [await _is_open(reader) for reader, _ in held]
        assert alive == [False] * 9 + [True] * 3
        await _leave(held)


async def test_who_showed_the_token_stays_longer_and_who_waits_longest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 3)
    async with running_api() as api:
        waits, idle, stranger = [await asyncio.open_connection("127.0.0.1", api.port) for _ in range(3)]
        waits[1].write(WAITS)
        idle[1].write(ASKED)
        await idle[0].readuntil(b"\r\n\r\n")
        stranger[1].write(ASKED[:20])
        await asyncio.sleep(0.1)
        more = [await asyncio.open_connection("127.0.0.1", api.port)]
        await asyncio.sleep(0.1)
        await idle[0].read(1 << 16)
        assert await _is_open(idle[0])
        more[0][1].write(ASKED)
        await more[0][0].readuntil(b"\r\n\r\n")
        more.append(await asyncio.open_connection("127.0.0.1", api.port))
        await idle[0].read()  # of those that were admitted, who asks nothing goes
        api.hub.store({"type": "exec", "pid": 1})
        assert (await waits[0].readline()).startswith(b"HTTP/1.1 200")
        await _leave([waits, idle, stranger, *more])


async def test_an_answer_on_a_kept_connection_does_not_wait_for_an_acknowledgement(api: Api) -> None:
    def ask() -> list[float]:
        taken = []
        client = http.client.HTTPConnection("127.0.0.1", api.port, timeout=5)
        with contextlib.closing(client):
            for _ in range(15):
                begun = time.perf_counter()
                client.request("GET", "/agents", headers={"Authorization": f"Bearer {TOKEN}"})
                assert client.getresponse().read()
                taken.append(time.perf_counter() - begun)
        return taken

    assert sorted(await asyncio.to_thread(ask))[7] < 0.03  # a delayed acknowledgement takes 40 ms


async def test_no_write_waits_for_an_acknowledgement_of_the_one_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[int] = []
    made = connections.Impatient.connection_made

    def look(self: Any, transport: Any) -> None:
        made(self, transport)
        ours = transport.get_extra_info("socket")
        seen.append(ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    monkeypatch.setattr(connections.Impatient, "connection_made", look)
    async with running_api() as api:
        assert (await api.call("GET", "/agents")).status == 200
    assert seen == [1]


class Kernel:
    """A transport that takes note."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.over = ""

    def write(self, data: bytes) -> None:
        self.taken.append(data)

    def close(self) -> None:
        self.over = "closed"

    def abort(self) -> None:
        self.over = "aborted"


async def test_what_is_written_in_one_turn_goes_out_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "JOINED_BYTES", 10)
    kernel: Any = Kernel()
    joining = connections.Joining(kernel, asyncio.get_running_loop())
    for piece in (b"head ", b"", b"body"):
        joining.write(piece)
    assert kernel.taken == []
    await asyncio.sleep(0)
    assert kernel.taken == [b"head body"]
    joining.write(b"x" * 11)
    assert kernel.taken[1:] == [b"x" * 11]
    joining.write(b"last")
    joining.close()
    assert (kernel.taken[2:], kernel.over) == ([b"last"], "closed")
    joining.write(b"never")
    joining.abort()
    await asyncio.sleep(0)
    assert (kernel.taken[3:], kernel.over) == ([], "aborted")
