from __future__ import annotations

import pytest

from tests.support.api import Api

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])  # what is answered is the same on both


async def test_readiness_with_the_token(api: Api) -> None:
    answer = await api.call("GET", "/readyz")
    assert answer.status == 200
    assert answer.json() == {
        "service": "aegis-gateway",
        "state": "ready",
        "checks": {"store": "ok"},
        "heartbeat_total": 3,
        "uptime_hint": "12s",
        "connections": 1,
    }
    api.hub.ready = False
    answer = await api.call("GET", "/readyz")
    assert (answer.status, answer.json()["state"]) == (503, "unhealthy")


async def test_metrics_under_both_names(api: Api) -> None:
    for path in ("/metrics", "/ops/metrics"):
        answer = await api.call("GET", path, headers={"Accept": "text/plain;version=1.0.0"})
        assert answer.body.endswith(b"aegis_agents 1.0\n")
        assert answer.headers["content-type"] == "text/plain; version=1.0.0; charset=utf-8"


async def test_health(api: Api) -> None:
    answer = await api.call("GET", "/healthz", token=None)
    assert (answer.status, answer.body) == (200, b"ok\n")
    assert "server" not in answer.headers
