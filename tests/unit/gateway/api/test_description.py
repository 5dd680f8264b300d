"""The document says what the routes do."""

from __future__ import annotations

import re

import pytest

from aegis.gateway.api.app import ROUTES
from aegis.gateway.api.description import operations
from aegis.gateway.api.gate import OPEN
from tests.support.api import Api

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])  # what is answered is the same on both


async def test_every_route_is_described(api: Api) -> None:
    document = (await api.call("GET", "/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    described = {(method, path) for method, path, _ in operations(document)}
    made = {
        (str(method), re.sub(r"{(\w+):str}", r"{\1}", path))
        for route in ROUTES
        for path in route.paths
        for method in route.http_methods
    }
    assert made - described == {("GET", "/openapi.json")}
    assert described <= made


async def test_who_may_ask_is_said_and_true(api: Api) -> None:
    document = (await api.call("GET", "/openapi.json")).json()
    assert document["security"] == [{"operator": []}]
    assert document["components"]["securitySchemes"]["operator"]["scheme"] == "bearer"
    without = {(method, path) for method, path, operation in operations(document) if "security" in operation}
    assert without == set(OPEN)


async def test_refusals_are_described_and_no_parameter_is_null(api: Api) -> None:
    document = (await api.call("GET", "/openapi.json")).json()
    assert document["components"]["schemas"]["Problem"]["required"]
    for _, path, operation in operations(document):
        assert "application/problem+json" in operation["responses"]["default"]["content"], path
        for parameter in operation.get("parameters", ()):
            assert "oneOf" not in parameter["schema"], (path, parameter["name"])


async def test_it_is_made_once(api: Api) -> None:
    assert api.app.place.description is None
    await api.call("GET", "/openapi.json")
    first = api.app.place.description
    await api.call("GET", "/openapi.json")
    assert api.app.place.description is first


async def test_strict_bodies_are_described_so(api: Api) -> None:
    schemas = (await api.call("GET", "/openapi.json")).json()["components"]["schemas"]
    assert schemas["OrderBody"]["additionalProperties"] is False
    assert schemas["BroadcastBody"]["additionalProperties"] is False
    assert "additionalProperties" not in schemas["Heartbeat"]
    assert schemas["ConfigBody"]["required"] == ["settings"]
