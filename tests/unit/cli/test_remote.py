"""The tool's end of the Actions API, against a real one and against what is none."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path

import click
import pytest

from aegis.cli.client import AgentError
from aegis.cli.exits import EXIT_FAILED, EXIT_NOT_FOUND, EXIT_REFUSED, EXIT_UNREACHABLE, exit_code_of
from aegis.cli.remote import Remote, read_token
from aegis.errors import ConnectFailed, ConnectionLost, PermissionDenied
from tests.support.api import TOKEN, UID, running_api


@pytest.fixture
def token_file(tmp_path: Path) -> str:
    path = tmp_path / "operator.token"
    path.write_text(TOKEN + "\n")
    path.chmod(0o600)
    return str(path)


async def test_questions_and_orders(token_file: str) -> None:
    async with running_api() as api:
        remote = Remote(api.url, token_file)

        def ask() -> None:
            assert remote.get("/agents", {"limit": 1, "label": None})["total"] == 1
            body = {"channel": "backend.modules", "message": {}}
            assert remote.send("POST", f"/agents/{UID}/send", body)["status"] == "sent"
            assert remote.get("/events", {"type": ["exec", "exit"]}) == {"items": [], "next": None}
            remote.close()

        await asyncio.to_thread(ask)
        assert api.hub.queries[0].types == frozenset({"exec", "exit"})


async def test_refusals_keep_their_code_and_have_an_exit_code(token_file: str, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("wrong")
    wrong.chmod(0o600)
    async with running_api() as api:

        def refused(path: str, file: str | None) -> tuple[str, int, str]:
            remote = Remote(api.url, file)
            try:
                with pytest.raises(AgentError) as caught:
                    remote.get(path)
            finally:
                remote.close()
            return caught.value.code, exit_code_of(caught.value), str(caught.value.hint)

        for path, file, code, number in (
            ("/agents/nobody", token_file, "agent_unknown", EXIT_NOT_FOUND),
            ("/agents", None, "credential_missing", EXIT_REFUSED),
            ("/agents", str(wrong), "credential_invalid", EXIT_REFUSED),
            ("/events?limit=0", token_file, "query_invalid", EXIT_FAILED),
            ("/nothing", token_file, "not_found", EXIT_NOT_FOUND),
        ):
            found = await asyncio.to_thread(refused, path, file)
            assert found[:2] == (code, number)
            if file is None:
                assert "--token-file" in found[2]


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(ConnectFailed) as caught:
        Remote(f"http://127.0.0.1:{port}", None).get("/agents")
    assert exit_code_of(caught.value) == EXIT_UNREACHABLE


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"nonsense\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}",
    ],
)
async def test_something_else_there(said: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    def ask() -> None:
        remote = Remote(f"http://127.0.0.1:{port}", None)
        with contextlib.closing(remote), pytest.raises(ConnectionLost):
            remote.get("/agents")

    async with server:
        await asyncio.to_thread(ask)


async def test_a_connection_that_ended_between_two_questions_is_made_again(token_file: str) -> None:
    async with running_api() as api:
        remote = Remote(api.url, token_file)
        await asyncio.to_thread(remote.get, "/agents")
        assert remote._connection is not None
        remote._connection.sock.shutdown(socket.SHUT_RDWR)
        assert (await asyncio.to_thread(remote.get, "/agents"))["total"] == 1
        remote._connection.sock.shutdown(socket.SHUT_RDWR)
        with pytest.raises(ConnectionLost):  # an order is not given twice
            await asyncio.to_thread(
                remote.send, "POST", f"/agents/{UID}/send", {"channel": "c", "message": {}}
            )
        assert api.hub.sent == []


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8083",
        "ws://127.0.0.1:8080",
        "http://",
        "http://u:p@h",
        "http://h:99999",
        "http://h/x",
        "http://h?x=1",
        "http://h:x",
    ],
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(click.UsageError, match="--gateway"):
        Remote(url, None)


@pytest.mark.parametrize("content", [b"", b"\n", b"two words", b"a\nb", b"\xff"])
def test_what_is_no_token(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(PermissionDenied):
        read_token(str(path))


def test_a_token_that_everybody_may_read_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    path.chmod(0o644)
    with pytest.raises(PermissionDenied, match="everybody may read"):
        read_token(str(path))
    with pytest.raises(PermissionDenied, match="No such file"):
        read_token(str(tmp_path / "missing"))
