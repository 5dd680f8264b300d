"""The application over a whole gateway: nothing scripted, SQLite below."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import nacl.signing
import pytest
import pytest_asyncio

from aegis.gateway.options import GatewayOptions
from aegis.gateway.store.base import Batch
from aegis.gateway.store.items import batch
from aegis.gateway.wiring import Gateway
from tests.support.api import Answered

NOW_NS = 1_763_900_000_000_000_000


class Whole:
    """A running gateway and a client with its token."""

    def __init__(self, gateway: Gateway, data_dir: Path) -> None:
        self.gateway = gateway
        assert gateway.actions_address is not None
        self.port = gateway.actions_address[1]
        self.token = (data_dir / "operator.token").read_text().strip()

    async def call(self, method: str, path: str, body: object = None) -> Answered:
        return await asyncio.to_thread(self._call, method, path, body)

    def _call(self, method: str, path: str, body: object) -> Answered:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return Answered(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            connection.close()

    async def register(self, host: str) -> str:
        """uid of a new agent, which is not connected."""
        key = nacl.signing.SigningKey.generate()
        init = {"agent_pubkey": base64.b64encode(bytes(key.verify_key)).decode(), "host_id": host}
        offer = (await self.call("POST", "/agents/register/init", init)).json()
        signed = base64.b64decode(offer["nonce"]) + offer["server_time"].encode() + host.encode()
        complete = {
            "registration_id": offer["registration_id"],
            "host_id": host,
            "signature": base64.b64encode(key.sign(signed).signature).decode(),
        }
        made = await self.call("POST", "/agents/register/complete", complete)
        assert made.status == 200, made.body
        assert (await self.call("POST", "/agents/register/complete", complete)).status == 404  # once only
        uid = made.json()["agent_uid"]
        assert isinstance(uid, str)
        return uid


@pytest_asyncio.fixture
async def whole(tmp_path: Path) -> AsyncIterator[Whole]:
    tmp_path.chmod(0o700)  # noqa: ASYNC240  before anything runs
    options = GatewayOptions(
        data_dir=str(tmp_path), listen=("127.0.0.1", 0), actions_listen=("127.0.0.1", 0), allow_v1=True
    )
    async with Gateway(options) as gateway:
        yield Whole(gateway, tmp_path)


pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])  # as the gateway runs


def stored(uid: str, cls: str, first: int, *items: dict[str, Any]) -> Batch:
    return batch(
        uid=uid,
        cls=cls,
        stream=1,
        first=first,
        boot_id="",
        items=[msgspec.json.encode(item) for item in items],
        received_ns=NOW_NS,
        losses=(),
    )


async def test_an_agent_s_life(whole: Whole) -> None:
    uid = await whole.register("host-1")
    listed = (await whole.call("GET", "/agents?host_id=host-1")).json()
    assert (listed["total"], listed["agents"][0]["agent_uid"], listed["agents"][0]["connected"]) == (
        1,
        uid,
        False,
    )
    assert (await whole.call("PUT", f"/agents/{uid}/labels", {"add": ["web"]})).json()["labels"] == ["web"]
    assert (await whole.call("PUT", f"/agents/{uid}/note", {"note": "rack 7"})).status == 200
    assert (await whole.call("GET", "/agents?label=web")).json()["agents"][0]["note"] == "rack 7"
    now = datetime.now(UTC).isoformat()
    beat = await whole.call("POST", "/agents/heartbeat", {"agent_uid": uid, "last_seen": now})
    assert beat.json()["status"] == "updated"
    status = (await whole.call("GET", f"/agents/{uid}/status")).json()
    assert (status["connected"], status["uptime"] < 60) == (False, True)
    assert (await whole.call("GET", "/readyz")).json()["heartbeat_total"] == 1
    assert b"aegis_gateway_agents 1.0" in (await whole.call("GET", "/metrics")).body


async def test_an_order_to_who_is_away_is_kept(whole: Whole) -> None:
    uid = await whole.register("host-1")
    body = {"channel": "backend.modules", "message": {"type": "list_modules"}, "ttl": 60}
    sent = (await whole.call("POST", f"/agents/{uid}/send?wait=50ms", body)).json()
    assert sent["status"] == "queued"
    kept = (await whole.call("GET", f"/messages/{sent['message_id']}")).json()
    assert (kept["status"], kept["channel"], kept["answer"]) == ("queued", "backend.modules", None)
    many = (await whole.call("POST", "/agents/broadcast", {**body, "agent_filter": [uid, "nobody"]})).json()
    assert (many["queued"], many["failed"], many["total_sent"]) == ([uid], ["nobody"], 0)
    assert (await whole.call("GET", f"/agents/{uid}")).json()["queued"] == 2


async def test_what_agents_sent_by_filter(whole: Whole) -> None:
    uid, other = await whole.register("host-1"), await whole.register("host-2")
    event = {"schema": "aegis.event", "version": 1}
    store = whole.gateway._store
    await store.append(
        [
            stored(uid, "event", 0,
                  {**event, "type": "exec", "time_ns": NOW_NS, "pid": 1, "exe": "/bin/sh"},
                  {**event, "type": "connect", "time_ns": NOW_NS + 2, "pid": 2, "protocol": "tcp",
                   "src": "10.0.0.1", "src_port": 4000, "dst": "10.0.0.2", "dst_port": 443}),
            stored(other, "event", 0, {**event, "type": "exec", "time_ns": NOW_NS + 3, "pid": 3, "exe": "/bin/ls"}),
            stored(uid, "verdict", 0, {**event, "type": "verdict", "time_ns": NOW_NS + 4, "pid": 4, "verdict": "deny",
                                      "policy": "p", "src": "10.0.0.1", "dst": "10.0.0.9"}),
            stored(uid, "flow", 0, {"schema": "aegis.flow", "time_ns": NOW_NS + 5, "pid": 5, "src": "10.0.0.1",
                                   "dst": "10.0.0.2", "verdict": "allow"}),
        ]
    )  # fmt: skip

    async def pids(path: str) -> list[int]:
        answer = await whole.call("GET", path)
        assert answer.status == 200, answer.body
        return [item["pid"] for item in answer.json()["items"]]

    assert await pids("/events") == [4, 3, 2, 1]
    assert await pids(f"/events?agent={uid}") == [4, 2, 1]
    assert await pids("/events?type=exec") == [3, 1]
    assert await pids("/events?type=verdict&policy=p") == [4]
    assert await pids("/events?peer=10.0.0.2") == [2]
    assert await pids("/events?port=443&protocol=tcp") == [2]
    assert await pids(f"/events?since={NOW_NS + 2}&until={NOW_NS + 4}") == [3, 2]
    assert await pids("/events?last=1") == [4]
    assert await pids("/flows?verdict=allow") == [5]
    assert await pids("/findings") == []
    place = (await whole.call("GET", "/events?after=now")).json()["next"]
    waiting = asyncio.create_task(whole.call("GET", f"/events?after={place}&wait=10s&type=exit"))
    await asyncio.sleep(0.2)
    await store.append([stored(other, "event", 1, {**event, "type": "exec", "time_ns": NOW_NS, "pid": 6})])
    await store.append([stored(other, "event", 2, {**event, "type": "exit", "time_ns": NOW_NS, "pid": 7})])
    answer = (await waiting).json()
    assert [item["pid"] for item in answer["items"]] == [7]
    after = f"/events?after={answer['next']}"
    assert (await whole.call("GET", after)).json()["items"] == []


@pytest.mark.parametrize(
    "query", ["cursor=9999999999999999999.1.1", "after=9999999999999999999.1", "cursor=x"]
)
async def test_a_wrong_cursor_harms_nobody(whole: Whole, query: str) -> None:
    for _ in range(2):
        assert (await whole.call("GET", f"/events?{query}")).status == 400
        assert (await whole.call("GET", "/events")).status == 200


async def test_the_lines_of_the_guide(whole: Whole) -> None:
    """protocol-v1 7.1: `curl http://HOST:8083/agents` says how to get the token, and answers with it."""
    without = await asyncio.to_thread(_plain, whole.port, "/agents", {})
    assert without.status == 401
    assert "operator.token" in without.json()["hint"]
    with_it = await asyncio.to_thread(
        _plain, whole.port, "/agents", {"Authorization": f"Bearer {whole.token}"}
    )
    assert with_it.json() == {"agents": [], "total": 0}


def _plain(port: int, path: str, headers: dict[str, str]) -> Answered:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", path, headers={"Accept": "*/*", "User-Agent": "curl/7.88.1", **headers})
        answer = connection.getresponse()
        return Answered(answer.status, dict(answer.getheaders()), answer.read())
    finally:
        connection.close()
