from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from aegis.agent.link import dial as dialling
from aegis.agent.link.dial import _SOCKET_OPTIONS, dial
from aegis.agent.link.ends import lost
from aegis.errors import ConnectFailed, GatewayRefused, TransportError
from aegis.runtime.gateway_url import GatewayUrl, parse


def url_of(port: int, path: str = "", *, secure: bool = False) -> GatewayUrl:
    found = parse(f"{'wss' if secure else 'ws'}://127.0.0.1:{port}{path}")
    assert found is not None
    return found


@asynccontextmanager
async def answering(answer: bytes | None, *, until: bytes = b"\r\n\r\n") -> AsyncIterator[int]:
    """A TCP server that hears a request `until` its end, says `answer` and hangs up; None: says nothing; the port."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(until)
            if answer is None:
                await reader.read()
            else:
                writer.write(answer)
                await writer.drain()
        except (OSError, EOFError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def said(status: str, body: str = "", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


async def failure(port: int, *, secure: bool = False, ca: str | None = None) -> TransportError:
    with pytest.raises(TransportError) as caught:
        await dial(url_of(port, secure=secure), {}, ca)
    assert f"127.0.0.1:{port}" in str(caught.value)
    return caught.value


async def test_an_open_connection_says_who_it_is_and_notices_the_dead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    seen: list[dict[str, str]] = []

    async def take(connection: ServerConnection) -> None:
        assert connection.request is not None
        seen.append(dict(connection.request.headers.raw_items()))
        await connection.wait_closed()

    async with serve(take, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        connection = await dial(url_of(port), {"X-Agent-ID": "a", "User-Agent": "not this"}, None)
        connected = connection.transport.get_extra_info("socket")
        for level, option, value in _SOCKET_OPTIONS:
            assert connected.getsockopt(level, option) == value, option
        await connection.close()
    (headers,) = seen
    assert (headers["X-Agent-ID"], headers["User-Agent"]) == ("a", "Aegis-Agent/1.0")
    assert "Sec-WebSocket-Extensions" not in headers


async def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    error = await failure(port)
    assert isinstance(error, ConnectFailed)
    assert "refused" in str(error)


@pytest.mark.parametrize(
    ("answer", "kind", "text", "retry_s"),
    [
        (said("400 Bad Request", "Invalid user agent\n"), GatewayRefused, "400 Invalid user agent", None),
        (said("404 Not Found", "404 page not found\n"), GatewayRefused, "404 404 page not found", None),
        (said("403 Forbidden"), GatewayRefused, "403 Forbidden", None),
        (said("503 Busy", "full", "Retry-After: 17"), ConnectFailed, "503 full", 17),
        (said("429 Slow", "", "Retry-After: never"), ConnectFailed, "429 Slow", None),
        (said("502 Bad", "", "Retry-After: 999999999"), ConnectFailed, "502 Bad", None),
        (said("302 Found", "", "Location: ws://127.0.0.1:1/"), GatewayRefused, "302 Found", None),
        (said("503 Busy", "", "Retry-After: 7", "Retry-After: 8"), ConnectFailed, "503 Busy", 7),
        (said("400 No", "\x1b[31mEVIL\n{}"), GatewayRefused, "400 \\x1b[31mEVIL\\n{}", None),
        (b"SSH-2.0-x\r\n", ConnectFailed, "", None),
        (b"", ConnectFailed, "", None),
        (said("400 Bad Request", "x" * 5000), GatewayRefused, "400 " + "x" * 200, None),
    ],
)
async def test_what_is_no_gateway_is_told_in_its_own_words(
    answer: bytes, kind: type[TransportError], text: str, retry_s: float | None
) -> None:
    async with answering(answer) as port:
        error = await failure(port)
    assert type(error) is kind
    assert text in str(error)
    assert len(str(error)) < 400
    assert error.retry_s == retry_s
    assert str(error).isprintable()
    assert error.hint


async def test_a_name_that_is_none_is_a_failure_as_another() -> None:
    url = parse(f"ws://{'a' * 70}.example/")
    assert url is not None
    with pytest.raises(ConnectFailed):
        await dial(url, {}, None)


@pytest.mark.parametrize("error", [LookupError("twice"), ValueError("no"), EOFError()])
async def test_what_the_library_lets_out_is_a_failure_too(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(dialling, "_Connect", broken)
    assert isinstance(await failure(1), ConnectFailed)


PONG, PING = b"\x8a\x00", b"\x89\x00"


@pytest.mark.parametrize(
    ("flood", "words"),
    [
        (PING * 8000, "closed here: 1008 too many pings"),
        (PONG * 8000, "closed here: 1008 too many pings"),
        (b"\x01\x00" + b"\x00\x00" * 8000, "closed here: 1008 a message of too many fragments"),
    ],
)
async def test_a_peer_that_floods_is_left_and_little_of_it_is_looked_at(
    monkeypatch: pytest.MonkeyPatch, flood: bytes, words: str
) -> None:
    parsed: list[int] = []
    process = ClientConnection.process_event

    def counted(connection: Any, event: Any) -> None:
        parsed.append(1)
        process(connection, event)

    async def take(connection: ServerConnection) -> None:
        connection.transport.write(flood)
        await connection.wait_closed()

    monkeypatch.setattr(ClientConnection, "process_event", counted)
    async with serve(take, "127.0.0.1", 0, ping_interval=None) as server:
        connection = await dial(url_of(server.sockets[0].getsockname()[1]), {}, None)
        async with asyncio.timeout(5):
            with pytest.raises(ConnectionClosed) as caught:
                await connection.recv()
    assert str(lost(caught.value)) == words
    most = max(dialling.MOST_CONTROLS, dialling.MOST_FRAGMENTS if "fragments" in words else 0)
    assert most <= len(parsed) <= most + dialling.PIECE_BYTES


async def test_pings_now_and_then_and_fragments_of_many_messages_are_no_flood(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dialling, "MOST_FRAGMENTS", 10)

    async def take(connection: ServerConnection) -> None:
        for sent in range(150):
            if sent == 75:
                await asyncio.sleep(1.1)
            connection.transport.write(PING + b"\x01\x01a" + b"\x00\x01b" * 4 + b"\x80\x01c")
        await connection.wait_closed()

    async with serve(take, "127.0.0.1", 0, ping_interval=None) as server:
        connection = await dial(url_of(server.sockets[0].getsockname()[1]), {}, None)
        assert [await connection.recv() for _ in range(150)] == ["abbbbc"] * 150
        await connection.close()


async def test_who_says_nothing_is_waited_for_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aegis.agent.link.dial.OPEN_S", 0.1)
    async with answering(None) as port:
        error = await failure(port)
    assert isinstance(error, ConnectFailed)
    assert "no answer within 0.1 s" in str(error)


async def test_a_ca_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pem", tmp_path / "wrong.pem"):
        if path.name == "wrong.pem":
            path.write_text("nonsense")
        error = await failure(1, secure=True, ca=str(path))
        assert isinstance(error, GatewayRefused)
        assert str(path) in str(error)


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """A directory with two certificates for the loopback, each its own CA."""
    if shutil.which("openssl") is None:
        pytest.skip("certificates are made by the command openssl")
    for name in ("ours", "other"):
        command = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-subj",
            "/CN=test",
        ]
        command += ["-keyout", f"{tmp_path}/{name}.key", "-out", f"{tmp_path}/{name}.pem"]
        subprocess.run([*command, "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    return tmp_path


async def test_tls_to_who_speaks_none() -> None:
    async with answering(said("400 Bad Request"), until=b"\0") as port:
        error = await failure(port, secure=True)
    assert isinstance(error, ConnectFailed)
    assert "TLS: " in str(error)  # its number is none of the system's


async def test_tls_is_judged_by_the_ca_that_was_named(certificates: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "ours.pem", certificates / "ours.key")

    async def take(connection: ServerConnection) -> None:
        await connection.wait_closed()

    async with serve(take, "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        connection = await dial(url_of(port, secure=True), {}, str(certificates / "ours.pem"))
        await connection.close()
        for ca in (str(certificates / "other.pem"), None):
            error = await failure(port, secure=True, ca=ca)
            assert isinstance(error, GatewayRefused)
            assert "its certificate is not good" in str(error)
