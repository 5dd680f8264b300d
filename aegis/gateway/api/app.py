"""The Actions API as one ASGI application."""

from __future__ import annotations

from typing import Any

from litestar import Litestar, Router
from litestar.di import Provide
from litestar.handlers import HTTPRouteHandler

from aegis.gateway.api import agents, configuration, description, health, orders, records, registration
from aegis.gateway.api.gate import App, Gate, Token
from aegis.gateway.api.place import Place
from aegis.gateway.api.problems import answer
from aegis.gateway.api.requests import MOST_BODY_BYTES, ApiRequest, check
from aegis.gateway.hub import Hub

ROUTES: tuple[HTTPRouteHandler, ...] = (
    *agents.ROUTES,
    *orders.ROUTES,
    *configuration.ROUTES,
    *registration.ROUTES,
    *records.ROUTES,
    *health.ROUTES,
    *description.ROUTES,
)


class Application:
    """What `server.serve` runs. `place.stopping` ends waits; `close` lets go of what is under way."""

    def __init__(self, hub: Hub, token: Token, place: Place) -> None:
        self.place = place
        self.litestar = litestar(place)
        self._gate: App = Gate(self.litestar, token)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._gate(scope, receive, send)

    async def close(self) -> None:
        """No wait goes on, and no order that nobody waits for."""
        self.place.stopping.set()
        self.place.hub.stop_waiting()
        await self.place.repeats.close()


def application(
    hub: Hub, token: Token, *, allow_v1: bool, version: str, websocket_url: str | None = None
) -> Application:
    """The application of one gateway: every call of an operator needs `token`."""
    return Application(
        hub, token, Place(hub, allow_v1=allow_v1, version=version, websocket_url=websocket_url)
    )


def litestar(place: Place, *more: HTTPRouteHandler | Router) -> Litestar:
    """The routes without the gate. Documentation pages, logging and examples of the framework stay off."""
    return Litestar(
        [*ROUTES, *more],
        dependencies={"place": Provide(lambda: place, sync_to_thread=False)},
        request_class=ApiRequest,
        before_request=check,
        exception_handlers={Exception: answer},
        request_max_body_size=MOST_BODY_BYTES,
        openapi_config=None,
        logging_config=None,
        debug=False,
    )
