"""Whether the gateway lives and is ready, and its figures."""

from __future__ import annotations

from typing import Any

from litestar import MediaType, Request, Response, get
from prometheus_client import CONTENT_TYPE_LATEST

from aegis.gateway.api.documents import Ready
from aegis.gateway.api.place import ThePlace
from aegis.gateway.api.requests import is_operator

SERVICE = "aegis-gateway"
METRICS_TYPE = CONTENT_TYPE_LATEST.removesuffix("; charset=utf-8")  # which Litestar adds
ANY = ("text/plain", "application/json")


@get(
    "/healthz",
    media_type=MediaType.TEXT,
    opt={"offers": ("text/plain",)},
    operation_id="healthz",
    summary="Whether the gateway's loop turns.",
)
async def healthz() -> str:
    return "ok\n"


@get("/readyz", opt={"offers": ANY}, operation_id="readyz", summary="Whether the gateway can do its work.")
async def readyz(place: ThePlace, request: Request[Any, Any, Any]) -> Response[Ready | str]:
    """Without a credential only `ok` or `not ready`, as text. 503 when it is not."""
    found = place.hub.readiness()
    status = 200 if found.ready else 503
    if not is_operator(request):
        return Response(
            "ok\n" if found.ready else "not ready\n", status_code=status, media_type=MediaType.TEXT
        )
    return Response(
        Ready(
            service=SERVICE,
            state="ready" if found.ready else "unhealthy",
            checks=found.checks,
            heartbeat_total=found.heartbeat_total,
            uptime_hint=f"{found.uptime_s:.0f}s",
            connections=found.connections,
        ),
        status_code=status,
        media_type=MediaType.JSON,
    )


@get(
    ["/metrics", "/ops/metrics"],
    media_type=METRICS_TYPE,
    opt={"offers": ("text/plain",)},
    operation_id=lambda _handler, _method, parts: "metrics" if len(parts) == 1 else "opsMetrics",
    summary="Figures for Prometheus.",
)
async def metrics(place: ThePlace) -> bytes:
    return place.hub.metrics()


ROUTES = (healthz, readyz, metrics)
