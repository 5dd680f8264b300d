from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace
from typing import Any

from aegis.modules.websocket_communication.config import OPTIONS
from aegis.modules.websocket_communication.module import WebsocketCommunication
from aegis.runtime.module import Module


async def test_the_link_is_kept_from_ready_to_the_end() -> None:
    steps: list[Any] = []

    class Uplink:
        async def keep(self, settings: Any, health: Any) -> None:
            steps.append(("keep", settings, health))
            try:
                await asyncio.Event().wait()
            finally:
                steps.append("closed")

    context: Any = SimpleNamespace(uplink=Uplink(), config="settings", health="health")
    module = WebsocketCommunication(context)
    assert isinstance(module, Module)
    task = asyncio.create_task(module.run(lambda: steps.append("ready")))
    await asyncio.sleep(0.01)
    assert steps == ["ready", ("keep", "settings", "health")]
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert steps[-1] == "closed"


def test_a_heartbeat_is_never_rarer_than_gateways_wait() -> None:
    (heartbeat,) = [option for option in OPTIONS if option.name == "heartbeat_interval_s"]
    assert (heartbeat.minimum, heartbeat.default, heartbeat.maximum) == (5, 20, 30)
