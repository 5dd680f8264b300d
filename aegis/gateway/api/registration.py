"""Registration over HTTP, as deployed agents know it: raw JSON in and out, refusals in plain text."""

from __future__ import annotations

from typing import Any

from litestar import MediaType, Request, Response, post
from litestar.exceptions import HTTPException

from aegis.errors import RegistrationRefused
from aegis.gateway.api.place import Place, ThePlace

MOST_BYTES = 64 << 10
NOT_ALLOWED = "registration over protocol v1 is not allowed here (the gateway runs without --allow-v1)"


def refused(_request: Request[Any, Any, Any], error: RegistrationRefused) -> Response[str]:
    """The text that deployed agents read, with a newline."""
    return _text(error.status, str(error))


def _too_large(_request: Request[Any, Any, Any], _error: HTTPException) -> Response[str]:
    return _text(413, "body too large")


def _text(status: int, text: str) -> Response[str]:
    return Response(text + "\n", status_code=status, media_type=MediaType.TEXT)


async def _unchecked(_request: Request[Any, Any, Any]) -> None:
    """In place of `requests.check`: deployed agents are held to their bodies only."""


def _address(place: Place, request: Request[Any, Any, Any]) -> str:
    if not place.allow_v1:
        raise RegistrationRefused(NOT_ALLOWED, status=403)
    return request.client.host if request.client else ""


@post(
    "/agents/register/init",
    status_code=200,
    before_request=_unchecked,
    request_max_body_size=MOST_BYTES,
    exception_handlers={RegistrationRefused: refused, 413: _too_large},
    operation_id="registerInit",
    summary="Begin a registration: a nonce to sign.",
)
async def register_init(place: ThePlace, request: Request[Any, Any, Any]) -> Response[bytes]:
    address = _address(place, request)
    made = place.hub.register_init(await request.body(), address=address)
    return Response(made, media_type=MediaType.JSON)


@post(
    "/agents/register/complete",
    status_code=200,
    before_request=_unchecked,
    request_max_body_size=MOST_BYTES,
    exception_handlers={RegistrationRefused: refused, 413: _too_large},
    operation_id="registerComplete",
    summary="Complete a registration by a signature over the nonce.",
)
async def register_complete(place: ThePlace, request: Request[Any, Any, Any]) -> Response[bytes]:
    address = _address(place, request)
    made = await place.hub.register_complete(await request.body(), address=address)
    return Response(made, media_type=MediaType.JSON)


ROUTES = (register_init, register_complete)
