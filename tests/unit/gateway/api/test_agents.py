"""Routes about agents, member by member of the deployed API."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.support.api import NOW_NS, UID, Api, agent_view, running_api

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])  # what is answered is the same on both

# protocol-v1: what a listing and a single agent have.
LISTED = {
    "agent_uid", "org_id", "host_id", "hostname", "machine_id_hash", "agent_version", "platform", "network",
    "labels", "note", "created", "last_seen", "status",
}  # fmt: skip


async def test_list(api: Api) -> None:
    api.hub.views["agent-2"] = agent_view(
        "agent-2", hostname="other", labels=["web"], remote_address="10.0.0.9"
    )
    everything = (await api.call("GET", "/agents")).json()
    assert everything["total"] == 2
    assert all(set(one) >= LISTED for one in everything["agents"])
    for query, uids in (
        ("label=web", ["agent-2"]),
        ("hostname=other", ["agent-2"]),
        ("ip=10.0.0.9", ["agent-2"]),
        ("host_id=host-1&ip=127.0.0.1", [UID]),
        ("label=none", []),
        ("limit=1&offset=1", ["agent-2"]),
        ("include_detection_pack=true&limit=1", [UID]),
    ):
        page = (await api.call("GET", f"/agents?{query}")).json()
        assert [one["agent_uid"] for one in page["agents"]] == uids, query
    assert (await api.call("GET", "/agents?limit=1")).json()["total"] == 2
    assert (await api.call("GET", "/agents/")).status == 200


async def test_one(api: Api) -> None:
    found = (await api.call("GET", f"/agents/{UID}")).json()
    assert found["agent_uid"] == UID
    assert set(found) >= {*LISTED, "capabilities"}


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "", None),
        ("GET", "/status", None),
        ("PUT", "/labels", {}),
        ("PUT", "/note", {"note": ""}),
        ("PUT", "/config", {"settings": {"telemetry": {}}}),
        ("POST", "/send", {"channel": "c", "message": {}}),
    ],
)
async def test_an_agent_nobody_knows(api: Api, method: str, path: str, body: object) -> None:
    answer = await api.call(method, f"/agents/nobody{path}", body)
    assert (answer.status, answer.json()["code"]) == (404, "agent_unknown")


@pytest.mark.parametrize(
    "path", [f"/agents/{UID}/other", f"/agents/{UID}/a/b", "/assignments", "/policies", "/rollouts"]
)
async def test_what_is_not_there(api: Api, path: str) -> None:
    answer = await api.call("GET", path)
    assert (answer.status, answer.json()["code"]) == (404, "not_found")


async def test_another_method_is_told_the_right_ones(api: Api) -> None:
    answer = await api.call("PUT", f"/agents/{UID}/send", {})
    assert answer.status == 405
    assert answer.json()["code"] == "method_not_allowed"
    assert answer.headers["allow"] == "OPTIONS, POST"
    assert (await api.call("DELETE", "/agents")).headers["allow"] == "GET, OPTIONS"


async def test_labels(api: Api) -> None:
    path = f"/agents/{UID}/labels"
    assert (await api.call("PUT", path, {"add": ["b", "a"]})).json() == {
        "agent_uid": UID,
        "labels": ["a", "b"],
    }
    assert (await api.call("PUT", path, {"remove": ["a"]})).json() == {"agent_uid": UID, "labels": ["b"]}
    for wrong in ({"add": "a"}, {"add": [""]}, {"add": ["x" * 129]}, {"add": ["x"] * 65}, {"set": ["x"]}):
        assert (await api.call("PUT", path, wrong)).status == 422
    assert api.hub.views[UID].labels == ["b"]


async def test_note(api: Api) -> None:
    path = f"/agents/{UID}/note"
    assert (await api.call("PUT", path, {"note": "rack 7 ☂"})).json() == {
        "agent_uid": UID,
        "note": "rack 7 ☂",
    }
    assert api.hub.views[UID].note == "rack 7 ☂"
    for wrong in ({}, {"note": None}, {"note": "x" * 4097}):
        assert (await api.call("PUT", path, wrong)).status == 422


async def test_status() -> None:
    async with running_api(websocket_url="wss://gateway.example:8080/ws/agent") as api:
        found = (await api.call("GET", f"/agents/{UID}/status")).json()
    assert found["agent_id"] == "host-1"
    assert found["connected"] is True
    assert found["channels"] == []
    assert found["session_expires"] is None
    assert found["session_expires_reason"] == "the agent has no session"
    assert found["websocket_url"] == "wss://gateway.example:8080/ws/agent"
    assert "websocket_url_reason" not in found
    since = datetime.fromtimestamp(NOW_NS / 1e9, UTC)
    assert abs(found["uptime"] - (datetime.now(UTC) - since).total_seconds()) < 10


def _instant(**ahead: float) -> str:
    return (datetime.now(UTC) + timedelta(**ahead)).isoformat()


async def test_heartbeat(api: Api) -> None:
    beat = {"agent_uid": UID, "last_seen": "2025-11-23T12:00:00Z", "status": "active", "labels": ["x"]}
    answer = await api.call("POST", "/agents/heartbeat", beat)
    assert answer.json() == {
        "status": "updated",
        "agent_uid": UID,
        "last_seen": "2025-11-23T12:00:00.000000000Z",
        "host_id": "host-1",
        "hostname": "host-1",
    }
    assert api.hub.beats == [(UID, 1_763_899_200_000_000_000)]


@pytest.mark.parametrize(
    ("beat", "said"),
    [
        ({"last_seen": "2025-11-23T12:00:00Z"}, "Agent UID required"),
        ({"agent_uid": UID}, "Invalid timestamp format"),
        ({"agent_uid": UID, "last_seen": "5m"}, "Invalid timestamp format"),
        (
            {"agent_uid": UID, "last_seen": "2099-01-01T00:00:00Z"},
            "last_seen is in the future, or before 1970",
        ),
        (
            {"agent_uid": UID, "last_seen": "1960-01-01T00:00:00Z"},
            "last_seen is in the future, or before 1970",
        ),
    ],
)
async def test_a_wrong_heartbeat(api: Api, beat: dict[str, str], said: str) -> None:
    answer = await api.call("POST", "/agents/heartbeat", beat)
    assert (answer.status, answer.json()["detail"]) == (400, said)
    assert api.hub.beats == []


async def test_a_heartbeat_makes_no_agent(api: Api) -> None:
    beat = {"agent_uid": "phantom", "last_seen": _instant()}
    assert (await api.call("POST", "/agents/heartbeat", beat)).status == 404
    assert set(api.hub.views) == {UID}


async def test_a_clock_a_little_ahead_counts_as_now(api: Api) -> None:
    assert (
        await api.call("POST", "/agents/heartbeat", {"agent_uid": UID, "last_seen": _instant(seconds=2)})
    ).status == 200
    assert api.hub.beats[0][1] <= int(datetime.now(UTC).timestamp() * 1e9)
    late = {"agent_uid": UID, "last_seen": _instant(seconds=20)}
    assert (await api.call("POST", "/agents/heartbeat", late)).status == 400


async def test_heartbeats(api: Api) -> None:
    right = {"agent_uid": UID, "last_seen": _instant()}
    beats = [right, {**right, "agent_uid": "phantom"}, {**right, "last_seen": "2099-01-01T00:00:00Z"}, right]
    answer = await api.call("POST", "/agents/heartbeats", {"heartbeats": beats})
    assert answer.json() == {"status": "ok", "updated": 2, "registered": 0, "failed": 2, "accepted": 2}
    for wrong in ({"heartbeats": []}, {"heartbeats": [right] * 501}, {}):
        assert (await api.call("POST", "/agents/heartbeats", wrong)).status == 422
