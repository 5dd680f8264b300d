"""The door: who may ask what, before the framework sees a request."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aegis.gateway.api.description import operations
from aegis.gateway.api.gate import LONGEST_PATH, LONGEST_QUERY, OPEN, Gate
from aegis.gateway.keys import OperatorToken
from tests.support.api import AGENT_TOKEN, OLD_TOKEN, TOKEN, UID, Api

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])  # what is refused is the same on both

CREDENTIALS = {
    "none": {},
    "empty": {"Authorization": ""},
    "no token": {"Authorization": "Bearer"},
    "wrong": {"Authorization": "Bearer wrong"},
    "replaced": {"Authorization": f"Bearer {OLD_TOKEN}"},
    "an agent's": {"Authorization": f"Bearer {AGENT_TOKEN}"},
    "an agent's uid": {"Authorization": f"Bearer {UID}", "X-Agent-ID": UID},
    "basic": {"Authorization": f"Basic {TOKEN}"},
    "cut short": {"Authorization": f"Bearer {TOKEN[:-1]}"},
    "too long": {"Authorization": f"Bearer {TOKEN}{'x' * 600}"},
    "not ASCII": {"Authorization": "Bearer tök"},
}


@pytest.mark.parametrize("name", CREDENTIALS)
async def test_every_route_is_shut_without_the_right_credential(api: Api, name: str) -> None:
    document = (await api.call("GET", "/openapi.json")).json()
    asked = [(method, path) for method, path, _ in operations(document)]
    assert len(asked) > 20
    asked += [("GET", "/openapi.json"), ("GET", "/no/such/path"), ("OPTIONS", "/agents"), ("HEAD", "/events")]
    for method, path in asked:
        if (method, path) in OPEN:
            continue
        answer = await api.call(
            method,
            path.replace("{uid}", UID),
            {} if method != "GET" else None,
            token=None,
            headers=CREDENTIALS[name],
        )
        assert answer.status == 401, (method, path)
        if method != "HEAD":
            assert answer.headers["content-type"] == "application/problem+json"
            problem = answer.json()
            assert problem["code"] in {"credential_missing", "credential_invalid"}
            assert "DATA/operator.token" in problem["hint"]
        assert answer.headers["www-authenticate"].startswith("Bearer realm=")
    assert api.hub.sent == []
    assert api.hub.queries == []
    assert api.hub.beats == []


async def test_the_operator_passes(api: Api) -> None:
    for scheme in ("Bearer", "bearer", "BEARER"):
        answer = await api.call("GET", "/agents", headers={"Authorization": f"{scheme} {TOKEN}"})
        assert answer.status == 200


async def test_what_is_open_says_as_little_as_it_can(api: Api) -> None:
    assert (await api.call("GET", "/healthz", token=None)).body == b"ok\n"
    assert (await api.call("GET", "/readyz", token=None)).body == b"ok\n"
    assert (await api.call("GET", "/readyz/", token=None)).body == b"ok\n"
    api.hub.ready = False
    answer = await api.call("GET", "/readyz", token=None)
    assert (answer.status, answer.body) == (503, b"not ready\n")


async def test_a_wrong_credential_is_told_also_where_none_is_needed(api: Api) -> None:
    assert (await api.call("GET", "/healthz", token="wrong")).status == 401
    assert (await api.call("GET", "/readyz", token=OLD_TOKEN)).status == 401


@pytest.mark.parametrize(
    "path", ["/healthz/x", "/agents/register", "/agents/register/init/x", "/healthz%2f..%2fagents"]
)
async def test_what_is_near_an_open_path_is_shut(api: Api, path: str) -> None:
    assert (await api.call("GET", path, token=None)).status == 401


async def test_another_method_of_an_open_path_is_shut(api: Api) -> None:
    assert (await api.call("GET", "/agents/register/init", token=None)).status == 401
    assert (await api.call("POST", "/healthz", {}, token=None)).status == 401


@pytest.mark.parametrize("origin", ["null", "http://127.0.0.1:8083", "https://evil.example"])
async def test_pages_of_a_browser_are_refused(api: Api, origin: str) -> None:
    for path in ("/agents", "/healthz"):
        answer = await api.call("GET", path, headers={"Origin": origin})
        assert answer.status == 403
        assert answer.json()["code"] == "origin_refused"


async def test_an_endless_path_or_query_is_refused(api: Api) -> None:
    for path in ("/" + "a" * LONGEST_PATH, f"/events?agent={'a' * LONGEST_QUERY}"):
        assert (await api.call("GET", path)).status == 414


async def test_two_credentials_are_none() -> None:
    sent: list[dict[str, Any]] = []

    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        raise AssertionError("it was let in")

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    lines = [(b"authorization", f"Bearer {TOKEN}".encode()), (b"authorization", b"Bearer x")]
    scope = {"type": "http", "method": "GET", "path": "/agents", "query_string": b"", "headers": lines}
    await Gate(app, OperatorToken(TOKEN))(scope, send, send)
    assert sent[0]["status"] == 401
    assert json.loads(sent[1]["body"])["code"] == "credential_invalid"


async def test_a_route_opened_by_mistake_is_found(api: Api) -> None:
    """The planted bug of the first test: with one row more in the table, that route answers anybody."""
    opened = Gate(api.app.litestar, OperatorToken(TOKEN), open_routes={**OPEN, ("GET", "/agents"): True})
    statuses = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        statuses.append(message.get("status"))

    for path in ("/agents", "/events"):
        scope = {
            "type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b"",
            "headers": [], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "scheme": "http", "root_path": "",
        }  # fmt: skip
        await opened(scope, receive, send)
    assert statuses[0] == 200
    assert 401 in statuses
