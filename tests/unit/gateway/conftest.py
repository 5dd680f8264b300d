from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest_asyncio

from aegis.gateway.limits import Limits
from aegis.gateway.options import GatewayOptions
from aegis.gateway.wiring import Gateway
from tests.support.gateway_store import prepared


@pytest_asyncio.fixture
async def start(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Start a gateway on the same data each time; keywords are limits, `options` those of GatewayOptions."""
    async with AsyncExitStack() as stack:
        running: list[Gateway] = []

        async def begin(options: dict[str, Any] | None = None, **limits: Any) -> Gateway:
            for each in running:
                await each.__aexit__(None, None, None)
            running.clear()
            given: dict[str, Any] = {
                "data_dir": str(prepared(tmp_path / "data")),
                "listen": ("127.0.0.1", 0),
                "actions_listen": None,
                "allow_v1": True,
                "limits": Limits(**limits),
            }
            made = Gateway(GatewayOptions(**{**given, **(options or {})}))
            await made.__aenter__()
            running.append(made)
            return made

        async def end() -> None:
            for each in running:
                await each.__aexit__(None, None, None)

        stack.push_async_callback(end)
        yield begin
