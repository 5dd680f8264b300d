"""What every handler is given: the hub, and what the API was told at its start."""

from __future__ import annotations

import asyncio
from typing import TypeAlias

from litestar.di import NamedDependency
from litestar.params import SkipValidation

from aegis.gateway.api.repeats import Repeats
from aegis.gateway.hub import Hub


class Place:
    """One API's surroundings. `stopping` is set when it must not wait any longer."""

    __slots__ = ("allow_v1", "description", "hub", "repeats", "stopping", "version", "websocket_url")

    def __init__(self, hub: Hub, *, allow_v1: bool, version: str, websocket_url: str | None = None) -> None:
        self.hub = hub
        self.allow_v1 = allow_v1
        self.version = version
        self.websocket_url = websocket_url
        self.description: bytes | None = None  # the OpenAPI document, once somebody asked for it
        self.repeats = Repeats()
        self.stopping = asyncio.Event()


ThePlace: TypeAlias = NamedDependency[SkipValidation[Place]]
