"""The checks of a request in their order, and those of an answer. Sessions are in test_gateway and test_agent."""

from __future__ import annotations

import json

import pytest

from aegis.protocol import v1
from aegis.protocol.authentication import lifetime, wrong
from aegis.protocol.payloads import read_auth
from aegis.protocol.replay import ReplayCache
from tests.support.deployed import DeployedAgent
from tests.support.sessions import WALL

ME = DeployedAgent()


def judged(frame: str, replay: ReplayCache | None = None) -> str | None:
    request = read_auth(json.loads(frame)["payload"])
    return wrong(request, key=ME.key, skew_s=300, replay=replay or ReplayCache(), now_ns=0, wall_s=WALL)


def test_a_request_that_holds() -> None:
    assert judged(ME.authentication()) is None


def test_the_cheap_checks_come_first() -> None:
    """Everything is wrong; each answer is of the first check that is left."""
    other, replay = DeployedAgent(bytes(32)), ReplayCache()
    replay.remember(ME.key, "n", 0)
    said: dict[str, object] = {
        "public_key": "x",
        "agent_id": "a.b",
        "timestamp": 1,
        "nonce": "n",
        "signature": "x",
    }
    found = [judged(ME.frame("request", "auth", said), replay)]
    for name, value in [
        ("public_key", other.key_text), ("public_key", ME.key_text), ("agent_id", "host-1"), ("timestamp", WALL), ("nonce", "fresh")
    ]:  # fmt: skip
        said[name] = value
        found.append(judged(ME.frame("request", "auth", said), replay))
    assert found == [
        v1.AUTH_BAD_KEY, v1.AUTH_OTHER_KEY, v1.AUTH_BAD_ID, v1.AUTH_SKEW, v1.AUTH_REPLAY, v1.AUTH_BAD_SIGNATURE
    ]  # fmt: skip


@pytest.mark.parametrize("nonce", ["bXNnAAAA", "aGVhcnRiZWF0X25vbmNl", "bWVzc2FnZV9ub25j"])
def test_nonces_of_messages(nonce: str) -> None:
    assert judged(ME.authentication(nonce=nonce)) == v1.AUTH_REPLAY


@pytest.mark.parametrize(
    ("expires_at", "gateway_s", "wanted"),
    [
        (100, 40, 60),
        (100, None, 90),
        (0, 1, None),
        (None, 1, None),
        (100, 100, None),
        (1 << 40, 1, None),
        (-5, 1, None),
    ],
)
def test_how_long_a_session_holds(expires_at: int | None, gateway_s: int | None, wanted: int | None) -> None:
    assert lifetime(expires_at, gateway_s, 10) == wanted
