"""What the agents' port answers to plain HTTP, and to an upgrade that is refused. Pure: no socket, no clock."""

from __future__ import annotations

import email.utils
import http
import math
from collections.abc import Iterable
from typing import Final

import msgspec
from websockets.datastructures import Headers
from websockets.http11 import Response

from aegis.protocol import v1

NOT_FOUND: Final = "404 page not found"
NOT_REGISTERED_HERE: Final = (
    "404 page not found. Register over the WebSocket at /ws/agent, or at the Actions API of this gateway"
)
NOT_ALLOWED: Final = "Method Not Allowed"
V1_REFUSED: Final = (
    "This gateway has protocol v1 only, and v1 is not allowed here: it does not prove the gateway to the agent. "
    "Start the gateway with --allow-v1 to let v1 agents in."
)
SHUTTING_DOWN: Final = "The gateway is shutting down"
TOO_MANY: Final = "Too many connections are being made, try again later"
_JSON: Final = "application/json"


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """Body of `/health`; `uptime` is a duration in Go's form."""

    status: str
    active_connections: int
    timestamp: int
    uptime: str


def text(status: int, body: str, *, more: Iterable[tuple[str, str]] = ()) -> Response:
    """A text/plain answer; a newline is put behind it."""
    return _response(status, (body + "\n").encode(), v1.TEXT_PLAIN, more)


def json(status: int, body: object) -> Response:
    return _response(status, msgspec.json.encode(body), _JSON, ())


def busy(body: str, retry_after_s: float) -> Response:
    """503 with the whole seconds after which to come back."""
    return text(503, body, more=(("Retry-After", str(max(1, math.ceil(retry_after_s)))),))


def duration(seconds: float) -> str:
    """As Go prints it: `1h2m3.5s`, `90ms`."""
    if seconds < 1:
        return f"{seconds * 1000:.6g}ms"
    whole = int(seconds)
    rest = f"{seconds - whole + whole % 60:.9f}".rstrip("0").rstrip(".")
    minutes, hours = whole // 60 % 60, whole // 3600
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def _response(status: int, body: bytes, kind: str, more: Iterable[tuple[str, str]]) -> Response:
    headers = Headers(
        [
            ("Date", email.utils.formatdate(usegmt=True)),
            ("Connection", "close"),
            ("Content-Length", str(len(body))),
            ("Content-Type", kind),
            ("X-Content-Type-Options", "nosniff"),
            *more,
        ]
    )
    return Response(status, http.HTTPStatus(status).phrase, headers, body)
