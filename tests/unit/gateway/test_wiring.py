from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from aegis.errors import ConnectFailed, NotBuilt, StorageError
from aegis.gateway.options import GatewayOptions
from aegis.gateway.wiring import Gateway
from tests.support.gateway_agents import agent_at, item
from tests.support.gateway_store import prepared


def options(tmp_path: Path, **more: Any) -> GatewayOptions:
    given: dict[str, Any] = {
        "data_dir": str(prepared(tmp_path / "d")),
        "listen": ("127.0.0.1", 0),
        "actions_listen": None,
        "allow_v1": True,
    }
    return GatewayOptions(**{**given, **more})


async def test_a_second_gateway_on_the_same_data(tmp_path: Path) -> None:
    async with Gateway(options(tmp_path)):
        with pytest.raises(StorageError, match="another gateway"):
            await Gateway(options(tmp_path)).__aenter__()


async def test_an_address_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        address = held.getsockname()[:2]
        for given in ({"listen": address}, {"actions_listen": address}):
            with pytest.raises(ConnectFailed, match=str(address[1])):
                await Gateway(options(tmp_path, **given)).__aenter__()


async def test_what_is_not_built_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(NotBuilt):
        await Gateway(options(tmp_path, store="postgresql://h/d")).__aenter__()
    async with Gateway(options(tmp_path)):
        pass


async def test_the_actions_api_answers(tmp_path: Path) -> None:
    async with Gateway(options(tmp_path, actions_listen=("127.0.0.1", 0))) as gateway:
        assert gateway.actions_address is not None
        reader, writer = await asyncio.open_connection(*gateway.actions_address)
        writer.write(b"GET /agents HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        said = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        await writer.wait_closed()
        assert said.startswith(b"HTTP/1.1 401 ")


async def test_what_was_received_before_the_stop_is_stored(tmp_path: Path) -> None:
    async with Gateway(options(tmp_path)) as gateway, agent_at(gateway.agent_address, b"w" * 32) as agent:
        for n in range(50):
            await agent.batch(n, [item(n)])
        await agent.acknowledged(1)
    async with Gateway(options(tmp_path)) as gateway:
        totals = await gateway._store.totals()
        assert totals["event"].items >= 1


async def test_ten_lives_leave_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    for _ in range(10):
        async with Gateway(options(tmp_path)) as gateway, agent_at(gateway.agent_address, b"w" * 32):
            pass
    gc.collect()
    assert threading.active_count() <= before + 1


def certificate(directory: Path) -> tuple[str, str]:
    """A self-signed one for 127.0.0.1; skipped where openssl makes none."""
    cert, key = str(directory / "cert.pem"), str(directory / "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-keyout", key, "-out", cert, "-days", "1", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1"]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("openssl makes no certificate here")
    return cert, key


async def test_tls(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    async with Gateway(options(tmp_path, tls_cert=cert, tls_key=key)) as gateway:
        context = ssl.create_default_context(cafile=cert)
        reader, writer = await asyncio.open_connection(*gateway.agent_address, ssl=context)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await asyncio.wait_for(reader.read(), 5)).endswith(b"\r\n\r\nok\n")
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)
