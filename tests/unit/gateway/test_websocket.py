"""The agents' port as a stranger meets it: bytes in, bytes out."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from aegis.gateway import answers
from aegis.protocol import v1
from tests.support.gateway_agents import agent_at, eventually
from tests.support.rawsocket import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, frame

SEED = b"s" * 32
KEY = base64.b64encode(
    bytes.fromhex("03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8")
).decode()
GOOD = {
    "Host": "x",
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "x3JJHMbDL1EzLkh9GBhXDw==",
    "User-Agent": "Aegis-Agent/1.0",
    "X-Agent-ID": "host-1",
    "X-Agent-Public-Key": KEY,
}


def request(path: str = "/ws/agent", method: str = "GET", **changed: str | None) -> bytes:
    """An upgrade request; None takes a header out."""
    headers = {**GOOD, **{name.replace("_", "-"): value for name, value in changed.items()}}
    lines = [f"{method} {path} HTTP/1.1"] + [f"{k}: {v}" for k, v in headers.items() if v is not None]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


class Raw:
    """A TCP connection to the gateway."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def response(self) -> tuple[int, dict[str, str], bytes]:
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 5)
        lines = head.decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)
        }
        body = b""
        if "content-length" in headers:
            body = await asyncio.wait_for(self.reader.readexactly(int(headers["content-length"])), 5)
        return int(lines[0].split()[1]), headers, body

    async def heard(self) -> tuple[int, bytes]:
        """The next frame's opcode and payload; (CLOSE, b"") at the end of the connection."""
        try:
            head = await asyncio.wait_for(self.reader.readexactly(2), 10)
        except (asyncio.IncompleteReadError, ConnectionError):
            return CLOSE, b""
        size = head[1] & 0x7F
        if size == 126:
            size = int.from_bytes(await self.reader.readexactly(2), "big")
        return head[0] & 0x0F, await self.reader.readexactly(size)

    async def close_code(self) -> int:
        """Of the close frame that comes; 1006 where the connection just ends."""
        while True:
            opcode, payload = await self.heard()
            if opcode == CLOSE:
                return int.from_bytes(payload[:2], "big") if payload else 1006

    def send(self, data: bytes) -> None:
        self.writer.write(data)


async def raw(gateway: Any, data: bytes = b"") -> Raw:
    reader, writer = await asyncio.open_connection(*gateway.agent_address)
    made = Raw(reader, writer)
    made.send(data)
    return made


async def asked(gateway: Any, data: bytes) -> tuple[int, dict[str, str], bytes]:
    made = await raw(gateway, data)
    try:
        return await made.response()
    finally:
        made.writer.close()
        await asyncio.gather(made.writer.wait_closed(), return_exceptions=True)


async def upgraded(gateway: Any) -> Raw:
    made = await raw(gateway, request())
    assert (await made.response())[0] == 101
    return made


async def ended(made: Raw) -> None:
    made.writer.close()
    await asyncio.gather(made.writer.wait_closed(), return_exceptions=True)


# Plain HTTP


async def test_health_has_the_members_and_the_types_of_the_deployed_one(start: Callable[..., Any]) -> None:
    status, headers, body = await asked(await start(), request("/health"))
    found = json.loads(body)
    assert status == 200
    assert headers["content-type"] == "application/json"
    assert found.keys() == {"status", "active_connections", "timestamp", "uptime"}
    assert found["status"] == "healthy"
    assert abs(found["timestamp"] - time.time()) < 5
    assert re.fullmatch(r"([0-9.]+(ms|s|m|h))+", found["uptime"])


@pytest.mark.parametrize(
    ("path", "method", "status", "text"),
    [
        ("/healthz", "GET", 200, b"ok\n"),
        ("/readyz", "GET", 200, b"ok\n"),
        ("/health", "POST", 405, b"Method Not Allowed\n"),
        ("/ws/agent", "POST", 405, b"Method Not Allowed\n"),
        ("/ws/agent/", "GET", 404, b"404 page not found\n"),
        ("/", "GET", 404, b"404 page not found\n"),
        ("/agents", "GET", 404, b"404 page not found\n"),
    ],
)
async def test_plain_paths(
    start: Callable[..., Any], path: str, method: str, status: int, text: bytes
) -> None:
    got, headers, body = await asked(await start(), request(path, method))
    assert (got, body) == (status, text)
    assert headers["content-type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize(
    ("target", "status", "text"),
    [
        ("/agents/register/init", 404, f"{answers.NOT_REGISTERED_HERE}\n"),
        ("/agents/register/complete?x=1", 404, f"{answers.NOT_REGISTERED_HERE}\n"),
        ("/agents/register/other", 404, "404 page not found\n"),
        ("/health", 405, "Method Not Allowed\n"),
        ("/ws/agent", 405, "Method Not Allowed\n"),
    ],
)
@pytest.mark.parametrize("size", [2, 4096, 200_000])
async def test_a_request_with_a_body_is_told_what_is_not_here(
    start: Callable[..., Any], target: str, status: int, text: str, size: int
) -> None:
    gateway = await start()
    head = f"POST {target} HTTP/1.1\r\nHost: h\r\nContent-Type:application/json\r\nContent-Length: {size}\r\n\r\n"
    made = await raw(gateway, head.encode())
    made.send(b"x" * size)
    got, headers, body = await made.response()
    assert (got, body.decode()) == (status, text)
    assert headers["content-type"] == "text/plain; charset=utf-8"
    await ended(made)
    assert (await asked(gateway, request("/healthz")))[0] == 200


# The upgrade


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"X_Agent_ID": None}, v1.MISSING_HEADERS),
        ({"X_Agent_ID": ""}, v1.MISSING_HEADERS),
        ({"X_Agent_Public_Key": None, "User_Agent": "curl/8"}, v1.MISSING_HEADERS),
        ({"User_Agent": "curl/8", "X_Agent_Public_Key": "!"}, v1.INVALID_USER_AGENT),
        ({"User_Agent": None}, v1.INVALID_USER_AGENT),
        ({"User_Agent": "Aegis-Agent/1.0 "[:-1] + "1"}, v1.INVALID_USER_AGENT),
        ({"X_Agent_Public_Key": "!"}, v1.INVALID_KEY),
        ({"X_Agent_Public_Key": KEY.rstrip("=")}, v1.INVALID_KEY),
        ({"X_Agent_Public_Key": base64.b64encode(b"k" * 10).decode()}, v1.INVALID_KEY),
        ({"X_Agent_Public_Key": base64.b64encode(bytes(32)).decode()}, v1.INVALID_KEY),
        ({"X_Agent_ID": "a.b"}, v1.INVALID_ID),
        ({"X_Agent_Public_Key": "!", "Sec_WebSocket_Key": None}, v1.INVALID_KEY),
    ],
)
async def test_the_checks_their_order_and_their_texts(
    start: Callable[..., Any], changed: dict[str, Any], text: str
) -> None:
    status, _, body = await asked(await start(), request(**changed))
    assert (status, body) == (400, f"{text}\n".encode())


async def test_the_documents_own_curl_line_is_told_what_is_missing(start: Callable[..., Any]) -> None:
    data = (
        b"GET /ws/agent HTTP/1.1\r\nHost: h\r\nUser-Agent: curl/8\r\nAccept: */*\r\nConnection: Upgrade\r\n"
        b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==\r\n\r\n"
    )
    status, _, body = await asked(await start(), data)
    assert status == 400
    assert b"X-Agent-ID" in body
    assert b"X-Agent-Public-Key" in body


async def test_the_documents_header_names_are_taken(start: Callable[..., Any]) -> None:
    data = request(X_Agent_ID=None, X_Agent_Public_Key=None, agentID="host-1", publicKey=KEY)
    status, headers, _ = await asked(await start(), data)
    assert status == 101
    digest = hashlib.sha1(b"x3JJHMbDL1EzLkh9GBhXDw==258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    assert headers["sec-websocket-accept"] == base64.b64encode(digest).decode()
    assert "sec-websocket-extensions" not in headers


async def test_compression_is_never_agreed(start: Callable[..., Any]) -> None:
    data = request(Sec_WebSocket_Extensions="permessage-deflate")
    status, headers, _ = await asked(await start(), data)
    assert (status, headers.get("sec-websocket-extensions")) == (101, None)


async def test_any_user_agent_by_option_only(start: Callable[..., Any]) -> None:
    gateway = await start({"any_user_agent": True})
    assert (await asked(gateway, request(User_Agent="curl/8")))[0] == 101


async def test_without_allow_v1_it_says_what_is_missing(start: Callable[..., Any]) -> None:
    gateway = await start({"allow_v1": False})
    status, _, body = await asked(gateway, request())
    assert (status, body) == (403, f"{answers.V1_REFUSED}\n".encode())
    assert b"--allow-v1" in body
    assert (await asked(gateway, request("/healthz")))[0] == 200


async def test_at_capacity(start: Callable[..., Any]) -> None:
    gateway = await start(connections=1)
    first = await upgraded(gateway)
    status, headers, body = await asked(gateway, request())
    assert (status, body) == (503, f"{v1.AT_CAPACITY}\n".encode())
    assert int(headers["retry-after"]) >= 1
    await ended(first)
    await eventually(lambda: gateway._port.upgraded == 0)
    assert (await asked(gateway, request()))[0] == 101


async def test_too_many_handshakes_are_told_when_to_come_back(start: Callable[..., Any]) -> None:
    gateway = await start(handshakes_of_address_s=0.5, handshakes_of_address_burst=2)
    assert [(await asked(gateway, request()))[0] for _ in range(3)] == [101, 101, 503]
    _, headers, _ = await asked(gateway, request())
    assert 1 <= int(headers["retry-after"]) <= 2
    lifted = await start(handshakes_of_address_s=0, handshakes_of_address_burst=0)
    assert {(await asked(lifted, request()))[0] for _ in range(20)} == {101}


async def test_a_header_has_a_cap(start: Callable[..., Any]) -> None:
    gateway = await start()
    status, _, _ = await asked(gateway, request(X_Long="a" * 9000))
    assert status == 431
    slow = await raw(gateway)
    for _ in range(200):
        slow.send(b"X-A: " + b"b" * 100 + b"\r\n")
        await asyncio.sleep(0)
    assert (await slow.response())[0] in {400, 431}
    await ended(slow)


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64) + b"\r\n\r\n",
        b"HELO x\r\n\r\n",
        b"GET /ws/agent HTTP/2.0\r\n\r\n",
        b"GET /ws/agent HTTP/1.1\r\nbad header\r\n\r\n",
        b"GET /ws/agent HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /ws/agent HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
        request() + frame(b"{}", TEXT, mask=True),
        request() + request(),
    ],
    ids=["tls", "no_http", "http_2", "no_header", "chunked", "body", "frame_behind", "request_behind"],
)
async def test_what_is_no_request_is_answered_400(start: Callable[..., Any], data: bytes) -> None:
    status, _, _ = await asked(await start(), data)
    assert status == 400


async def test_a_bad_handshake_is_refused_after_our_checks(start: Callable[..., Any]) -> None:
    gateway = await start()
    assert (await asked(gateway, request(Sec_WebSocket_Version="12")))[0] == 400
    assert (await asked(gateway, request(Sec_WebSocket_Key="short")))[0] == 400
    assert (await asked(gateway, request(Upgrade=None)))[0] == 426
    await eventually(lambda: gateway._port.upgraded == 0)


async def test_the_kernel_looks_after_what_was_accepted(start: Callable[..., Any]) -> None:
    """Who is gone without a word is found, by what each connection has of the socket it came by."""
    gateway = await start(kernel_s=7)
    made = await upgraded(gateway)
    (connection,) = gateway._port._connections.values()
    own = connection._transport.get_extra_info("socket")
    found = {
        name: own.getsockopt(level, getattr(socket, name))
        for level, name in (
            (socket.SOL_SOCKET, "SO_KEEPALIVE"),
            (socket.IPPROTO_TCP, "TCP_KEEPIDLE"),
            (socket.IPPROTO_TCP, "TCP_KEEPINTVL"),
            (socket.IPPROTO_TCP, "TCP_KEEPCNT"),
            (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT"),
        )
    }
    assert list(found.values()) == [1, 5, 3, 3, 7000]
    assert own.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    await ended(made)


# Deadlines and caps


@pytest.mark.parametrize("sent", [b"", b"GET /ws/agent HTTP/1.1\r\nX-A: b", request()])
async def test_who_does_not_authenticate_is_gone_in_time(start: Callable[..., Any], sent: bytes) -> None:
    gateway = await start(authenticate_s=0.3)
    began = time.monotonic()
    slow = await raw(gateway, sent)

    async def drip() -> None:
        while True:
            await asyncio.sleep(0.05)
            slow.send(frame(b"", PING, mask=True) if sent.endswith(b"\r\n\r\n") else b"x")

    dripping = asyncio.create_task(drip())
    await asyncio.wait_for(slow.reader.read(), 5)
    assert 0.25 <= time.monotonic() - began < 4.0
    dripping.cancel()
    await asyncio.gather(dripping, return_exceptions=True)
    await eventually(lambda: gateway._port.admission.unauthenticated == 0)
    await ended(slow)


async def test_the_idle_are_closed_and_pings_do_not_count_for_a_peer_that_is_not_ours(
    start: Callable[..., Any],
) -> None:
    gateway = await start(idle_s=0.5)
    async with agent_at(gateway.agent_address, SEED, ours=False, heartbeat_s=1000.0) as agent:
        began = time.monotonic()
        while agent.socket.close_code is None and time.monotonic() - began < 3:
            await asyncio.sleep(0.1)
            if agent.socket.close_code is None:
                await agent.socket.ping()
        assert agent.socket.close_code == 1001
        assert 0.4 < time.monotonic() - began < 2.0


async def test_half_open_peers_of_ours_are_found(start: Callable[..., Any]) -> None:
    gateway = await start(ping_s=0.3, silent_s=0.9)
    async with agent_at(gateway.agent_address, SEED) as agent:
        await asyncio.sleep(1.5)
        assert gateway.hub.agents()[0][0].connected  # it answers pings
        agent.socket.transport.pause_reading()
        began = time.monotonic()
        await eventually(lambda: not gateway.hub.agents()[0][0].connected, within=3)
        assert time.monotonic() - began < 2.0
        assert gateway._metrics.events["half_open"] == 1
        agent.socket.transport.resume_reading()


async def test_sockets_that_do_not_authenticate_have_a_cap(start: Callable[..., Any]) -> None:
    """The oldest goes: who only holds sockets keeps nobody out."""
    gateway = await start(unauthenticated_of_address=3)
    held = [await raw(gateway) for _ in range(3)]
    await eventually(lambda: gateway._port.admission.unauthenticated == 3)
    async with agent_at(gateway.agent_address, SEED) as agent:
        assert await asyncio.wait_for(held[0].reader.read(), 5) == b""
        await eventually(lambda: gateway._port.admission.unauthenticated == 2)
        held += [await raw(gateway) for _ in range(5)]
        await eventually(lambda: gateway._metrics.events["dropped_unauthenticated"] == 5)
        assert gateway._port.admission.unauthenticated == 3
        assert agent.socket.close_code is None
    for each in held:
        await ended(each)
    await eventually(lambda: gateway._port.admission.unauthenticated == 0)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(b"x" * 10, TEXT, mask=False), 1002),
        (frame(b"x", 3, mask=True), 1002),
        (frame(b"x", TEXT, mask=True, reserved=4), 1002),
        (frame(b"x" * 126, PING, mask=True), 1002),
        (frame(b"x", CONTINUATION, mask=True), 1002),
        (frame(b"\xff\xfe", TEXT, mask=True), 1007),
        (frame(b"", TEXT, mask=True, announced=1 << 30), 1009),
        (frame(b"", TEXT, mask=True, announced=1 << 62), 1009),
        (frame(b"x" * 65537, TEXT, mask=True), 1009),
        (frame(b"\x03", CLOSE, mask=True), 1002),
        (frame(b"\x03\xe8", CLOSE, mask=True), 1000),
    ],
    ids=[
        *("not_masked", "opcode", "reserved_bit", "long_ping", "nothing_to_continue", "not_utf8"),
        *("announces_1_gib", "announces_4_eib", "too_large", "half_a_code", "close"),
    ],
)
async def test_frames_that_break_the_rules(start: Callable[..., Any], data: bytes, code: int) -> None:
    gateway = await start()
    made = await upgraded(gateway)
    made.send(data)
    assert await made.close_code() == code
    await ended(made)
    await eventually(lambda: gateway._port.upgraded == 0)
    assert gateway._metrics.events["internal_error"] == 0


async def test_a_message_in_too_many_fragments(start: Callable[..., Any]) -> None:
    gateway = await start(fragments=64)
    made = await upgraded(gateway)
    made.send(frame(b"", TEXT, mask=True, fin=False))
    made.send(frame(b"", CONTINUATION, mask=True, fin=False) * 2000)
    assert await made.close_code() == 1009
    await ended(made)


async def test_a_fragmented_message_is_one(start: Callable[..., Any]) -> None:
    made = await upgraded(await start())
    made.send(frame(b'{"channel"', TEXT, mask=True, fin=False) + frame(b"", PING, mask=True))
    made.send(frame(b':"nowhere"}', CONTINUATION, mask=True))
    assert (await made.heard())[0] == PONG
    opcode, payload = await made.heard()
    assert opcode == TEXT
    assert v1.NOT_AUTHENTICATED in json.loads(json.loads(payload)["payload"])["message"]
    await ended(made)


async def test_a_binary_frame_is_no_message(start: Callable[..., Any]) -> None:
    gateway = await start()
    made = await upgraded(gateway)
    made.send(frame(b"\x00\x01", BINARY, mask=True))
    await eventually(lambda: gateway._metrics.events["refused_binary_frame"] == 1)
    await ended(made)


async def test_a_flood_leaves_room_for_others(start: Callable[..., Any]) -> None:
    """What came in one read is handled in slices: another connection gets its turn between two."""
    gateway = await start()
    async with agent_at(gateway.agent_address, SEED) as agent:
        beat = json.dumps(
            {"type": "heartbeat", "channel": f"agent.{agent.session.uid}.heartbeat", "payload": "e30="}
        ).encode()
        before = gateway._metrics.heartbeats
        agent.socket.transport.write(frame(beat, TEXT, mask=True) * 20_000)
        seen = []
        for _ in range(20):
            assert (await asked(gateway, request("/healthz")))[0] == 200
            seen.append(gateway._metrics.heartbeats - before)
        assert len(set(seen)) > 5  # the flood went on all the while
        await eventually(lambda: gateway._metrics.heartbeats - before >= 20_000, within=20)


async def test_one_that_does_not_read_is_cut_and_the_others_go_on(start: Callable[..., Any]) -> None:
    from aegis.gateway.views import Order

    gateway = await start(send_bytes=100_000, send_stall_s=1000.0)
    async with (
        agent_at(gateway.agent_address, SEED) as deaf,
        agent_at(gateway.agent_address, b"t" * 32) as other,
    ):
        other.answer = lambda _: {"ok": True}
        uid = deaf.session.uid
        deaf.socket.transport.pause_reading()
        order = Order(uid=uid, channel="backend.modules", message={"type": "x", "pad": "p" * 200_000})
        for _ in range(200):
            await gateway._hall.orders.send([order], 0)
            if not gateway.hub.agent(uid).connected:
                break
        assert gateway._metrics.events["slow_consumer"] == 1
        assert not gateway.hub.agent(uid).connected
        began = time.monotonic()
        sent = await gateway.hub.send(
            Order(uid=other.session.uid, channel="backend.modules", message={"type": "x"}), wait_s=3
        )
        assert sent.status == "answered"
        assert time.monotonic() - began < 1.0
        assert gateway.hub.agent(uid).queued > 0  # what it never got waits for it


async def test_a_stop_lets_agents_go_with_a_word(start: Callable[..., Any]) -> None:
    gateway = await start()
    async with agent_at(gateway.agent_address, SEED) as agent:
        silent = await raw(gateway)
        began = time.monotonic()
        await gateway.__aexit__(None, None, None)
        assert time.monotonic() - began < 4
        await agent.socket.wait_closed()
        assert agent.socket.close_code == 1012
        await ended(silent)


async def test_pongs_nobody_reads_are_not_kept(start: Callable[..., Any]) -> None:
    """Before authentication a peer that pings and does not read is cut at 64 KiB, and does not grow us."""
    gateway = await start(send_bytes_before=16 * 1024, authenticate_s=60.0)
    made = await upgraded(gateway)
    made.writer.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    made.writer.transport.pause_reading()
    pings = frame(b"p" * 125, PING, mask=True) * 500

    async with asyncio.timeout(30):  # the kernels between take some megabytes first
        while not gateway._metrics.events["slow_consumer"]:
            made.send(pings)
            await asyncio.sleep(0.01)
    assert gateway._metrics.events["slow_consumer"] == 1
    made.writer.transport.abort()
