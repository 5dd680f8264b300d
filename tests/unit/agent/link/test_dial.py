from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from websockets.asyncio.server import ServerConnection, serve

from aegis.agent.link.dial import _SOCKET_OPTIONS, dial
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
    assert error.hint


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
