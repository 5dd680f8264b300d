"""Websocket communication: keeps the agent's link to its gateway for as long as it runs."""

from __future__ import annotations

from collections.abc import Callable

from aegis.runtime.module import Context


class WebsocketCommunication:
    """Owns when there is a link; the agent's uplink knows how. Without a gateway it runs and does nothing."""

    name = "websocket_communication"
    requires: tuple[str, ...] = ()

    def __init__(self, context: Context) -> None:
        self._context = context

    async def run(self, ready: Callable[[], None]) -> None:
        """Keep the link until cancelled; it is closed with a reason then. A gateway that is away is no failure."""
        ready()
        await self._context.uplink.keep(self._context.config, self._context.health)
