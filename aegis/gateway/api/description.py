"""`/openapi.json`: OpenAPI 3.1, made from the handlers when it is first asked for, then kept as bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from litestar import Litestar, Request, Response, get
from litestar._openapi.plugin import OpenAPIPlugin
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import Components, SecurityScheme

from aegis.gateway.api import gate
from aegis.gateway.api.documents import Strict
from aegis.gateway.api.place import ThePlace
from aegis.gateway.api.problems import MEDIA_TYPE
from aegis.gateway.api.requests import JSON, NDJSON

TEXT = "text/plain"
_SCHEME = "operator"
_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "code", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string", "description": "stable: what a program decides by"},
        "detail": {"type": "string"},
        "hint": {"type": "string", "description": "what to do about it"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["at", "detail"],
                "properties": {"at": {"type": "string"}, "detail": {"type": "string"}},
            },
        },
    },
}
_REGISTRATION = {
    "init": {
        "required": ["agent_pubkey", "host_id"],
        "properties": {
            "agent_pubkey": {"type": "string", "description": "base64 of 32 bytes"},
            "host_id": {"type": "string"},
            "org_id": {"type": "string"},
            "agent_version": {"type": "string"},
            "machine_id_hash": {"type": "string"},
            "capabilities": {"type": ["object", "array"]},
            "platform": {"type": "object"},
            "network": {"type": "object"},
        },
    },
    "complete": {
        "required": ["registration_id", "host_id", "signature"],
        "properties": {
            "registration_id": {"type": "string"},
            "host_id": {"type": "string"},
            "signature": {"type": "string", "description": "base64 of 64 bytes"},
        },
    },
}


class _Description(OpenAPIPlugin):
    """Litestar's generator without its routes: it would add pages of HTML and answer 404 itself."""

    def __init__(self, app: Litestar, config: OpenAPIConfig) -> None:
        super().__init__(app)
        self._openapi_config = config
        for route in app.routes:
            self.receive_route(route)


def described(app: Litestar, version: str) -> bytes:
    """The document of an application's routes."""
    config = OpenAPIConfig(
        title="Aegis Actions API",
        version=version,
        description=f"Agents, orders and what agents sent. Every refusal is {MEDIA_TYPE} with a stable `code`.",
        use_handler_docstrings=True,
        components=Components(
            security_schemes={
                _SCHEME: SecurityScheme(type="http", scheme="bearer", description=gate.HINT),
            }
        ),
    )
    document: dict[str, Any] = _Description(app, config).provide_openapi_schema()
    document["security"] = [{_SCHEME: []}]
    schemas = document["components"]["schemas"]
    schemas["Problem"] = _PROBLEM
    for name in _strict(Strict):
        schemas[name]["additionalProperties"] = False
    # The members that are only there to be refused by name are not offered.
    settings = schemas["ConfigBody"]["properties"]["settings"] | {"minProperties": 1, "maxProperties": 32}
    settings.pop("default", None)
    schemas["ConfigBody"] |= {"properties": {"settings": settings}, "required": ["settings"]}
    for method, path, operation in operations(document):
        _complete(operation, method, path)
    return msgspec.json.encode(document)


def _strict(base: type[Strict]) -> Iterator[str]:
    """The bodies that take no other members; Litestar does not say so by itself."""
    for each in base.__subclasses__():
        yield each.__name__
        yield from _strict(each)


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(METHOD, path, operation) of each route of a document."""
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if method in {"get", "put", "post", "delete"}:
                yield method.upper(), path, operation


def _complete(operation: dict[str, Any], method: str, path: str) -> None:
    """What Litestar cannot know of a route: its refusals, its further types, who may ask."""
    responses = operation["responses"]
    responses.pop("400", None)
    for parameter in operation.get("parameters", ()):
        _without_null(parameter["schema"])
    refusal = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    if path.startswith("/agents/register/"):
        name = path.rpartition("/")[2]
        operation["requestBody"] = {
            "required": True,
            "content": {JSON: {"schema": {"type": "object", **_REGISTRATION[name]}}},
        }
        responses["200"]["content"] = {JSON: {"schema": {"type": "object"}}}
        refusal = {**_texts(), **refusal}
    elif NDJSON in _offers(path):
        content = responses["200"]["content"]
        content[NDJSON] = {"schema": {}}
    elif path == "/readyz":
        ready = {JSON: {"schema": {"$ref": _reference(responses["200"])}}, **_texts()}
        responses["200"]["content"] = ready
        responses["503"] = {"description": "not ready", "content": ready}
    elif path in {"/metrics", "/ops/metrics"}:
        responses["200"]["content"] = _texts()
    responses["default"] = {"description": "refused", "content": refusal}
    if (method, path) in gate.OPEN:
        operation["security"] = [{}, {_SCHEME: []}] if gate.OPEN[method, path] else []


def _without_null(schema: dict[str, Any]) -> None:
    """A parameter that may be left out cannot be null: there is no null in a query."""
    kinds = [one for one in schema.get("oneOf", ()) if one.get("type") != "null"]
    if len(kinds) == 1:
        del schema["oneOf"]
        schema |= kinds[0]


def _texts() -> dict[str, Any]:
    return {TEXT: {"schema": {"type": "string"}}}


def _offers(path: str) -> Iterable[str]:
    return (NDJSON,) if path in {"/events", "/flows", "/findings", "/samples"} else ()


def _reference(response: dict[str, Any]) -> str:
    """The one schema of ours that an answer of several types names."""
    schema = next(iter(response["content"].values()))["schema"]
    found = [one["$ref"] for one in schema.get("oneOf", schema.get("anyOf", [schema])) if "$ref" in one]
    return str(found[0])


@get("/openapi.json", include_in_schema=False)
async def openapi(place: ThePlace, request: Request[Any, Any, Any]) -> Response[bytes]:
    if place.description is None:
        place.description = described(request.app, place.version)
    return Response(place.description, media_type=JSON)


ROUTES = (openapi,)
