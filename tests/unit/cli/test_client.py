"""The tool's end of the control socket against the agent's own server."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from websockets.asyncio.client import unix_connect

from aegis.agent.control.server import MAX_CONNECTIONS, OPENING, ControlServer
from aegis.agent.control.verbs import Verb, Verbs
from aegis.cli.client import request_one
from aegis.cli.exits import EXIT_UNREACHABLE, exit_code_of
from aegis.errors import ConnectFailed
from aegis.runtime import log


@asynccontextmanager
async def listening(path: str) -> AsyncIterator[None]:
    verbs = Verbs((Verb(name="echo", help="h."),))

    async def echo(_: dict[str, object]) -> list[object]:
        return [{"said": True}]

    server = ControlServer(path, verbs, log.logger())
    with verbs.answer("echo", echo):
        await server.open()
        try:
            yield
        finally:
            await server.close()


async def refusal(path: str) -> str:
    with pytest.raises(ConnectFailed) as caught:
        await asyncio.to_thread(request_one, path, "echo")
    assert exit_code_of(caught.value) == EXIT_UNREACHABLE
    assert "aegis events -f" in str(caught.value.hint)
    return str(caught.value)


async def test_a_full_agent_is_not_one_that_is_not_there(tmp_path: Path) -> None:
    path = str(tmp_path / "agent.sock")
    async with listening(path):
        assert await asyncio.to_thread(request_one, path, "echo") == {"said": True}
        clients = [
            await unix_connect(path, "ws://localhost/", ping_interval=None) for _ in range(MAX_CONNECTIONS)
        ]
        said = await refusal(path)
        assert (
            said
            == f"too many connections: the agent at {path} refused: {MAX_CONNECTIONS} clients are connected"
        )
        for client in clients:
            await client.close()


async def test_one_that_hangs_up_at_once_is_full_too(tmp_path: Path) -> None:
    path = str(tmp_path / "agent.sock")
    async with listening(path):
        silent = []
        for _ in range(MAX_CONNECTIONS + OPENING):
            one = socket.socket(socket.AF_UNIX)
            one.setblocking(False)
            one.connect(path)
            silent.append(one)
            await asyncio.sleep(0)
        said = await refusal(path)
        assert said.startswith(f"too many connections: somebody listens at {path}, and hung up")
        for one in silent:
            one.close()


async def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(ConnectFailed, match="no agent answers"):
        await asyncio.to_thread(request_one, str(tmp_path / "agent.sock"), "echo")
