from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from msgspec import UNSET

from aegis.errors import AgentUnknown, RegistrationRefused
from aegis.protocol import canonical
from aegis.protocol.crypto import Signer
from aegis.protocol.payloads import RegistrationInit
from tests.support.gateway_agents import agent_at

SEED = b"h" * 32
SIGNER = Signer(SEED)
KEY = base64.b64encode(SIGNER.public_key).decode()


def begun(hub: Any, **more: Any) -> dict[str, Any]:
    body = {"agent_pubkey": KEY, "host_id": "h-1", "capabilities": {}, **more}
    found: dict[str, Any] = json.loads(hub.register_init(json.dumps(body).encode(), address="192.0.2.1"))
    return found


def completion(offer: dict[str, Any], **changed: Any) -> bytes:
    signed = canonical.registration(base64.b64decode(offer["nonce"]), offer["server_time"], "h-1")
    body = {
        "registration_id": offer["registration_id"],
        "host_id": "h-1",
        "signature": base64.b64encode(SIGNER.sign(signed)).decode(),
    }
    return json.dumps({**body, **changed}).encode()


async def test_registration_over_http_is_the_one_of_the_socket(start: Callable[..., Any]) -> None:
    gateway = await start()
    offer = begun(gateway.hub)
    assert len(base64.b64decode(offer["nonce"])) == 32
    reply = json.loads(await gateway.hub.register_complete(completion(offer), address="192.0.2.1"))
    assert reply["agent_uid"].startswith("agent-")
    assert len(reply["bootstrap_token"]) >= 20
    async with agent_at(gateway.agent_address, SEED) as agent:
        assert agent.session.uid == reply["agent_uid"]
    assert gateway.hub.agents()[1] == 1
    with pytest.raises(RegistrationRefused) as caught:
        await gateway.hub.register_complete(completion(offer), address="192.0.2.1")
    assert caught.value.status == 404


@pytest.mark.parametrize(
    ("changed", "address", "status"),
    [
        ({"registration_id": "nothing"}, "192.0.2.1", 404),
        ({}, "192.0.2.2", 404),
        ({"host_id": "h-2"}, "192.0.2.1", 404),
        ({"signature": "!"}, "192.0.2.1", 400),
        ({"signature": base64.b64encode(bytes(64)).decode()}, "192.0.2.1", 401),
        ({"signature": ""}, "192.0.2.1", 400),
    ],
)
async def test_completions_that_are_none(
    start: Callable[..., Any], changed: dict[str, Any], address: str, status: int
) -> None:
    gateway = await start()
    offer = begun(gateway.hub)
    with pytest.raises(RegistrationRefused) as caught:
        await gateway.hub.register_complete(completion(offer, **changed), address=address)
    assert caught.value.status == status
    assert gateway.hub.agents()[1] == 0


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"agent_pubkey":"x"}', b'{"agent_pubkey":7}', b"{}"])
async def test_beginnings_that_are_none(start: Callable[..., Any], body: bytes) -> None:
    gateway = await start()
    with pytest.raises(RegistrationRefused) as caught:
        gateway.hub.register_init(body, address="192.0.2.1")
    assert caught.value.status == 400


async def test_without_v1_nobody_registers_over_http(start: Callable[..., Any]) -> None:
    gateway = await start({"allow_v1": False})
    with pytest.raises(RegistrationRefused) as caught:
        begun(gateway.hub)
    assert caught.value.status == 403
    with pytest.raises(RegistrationRefused) as caught:
        await gateway.hub.register_complete(b"{}", address="a")
    assert caught.value.status == 403


async def test_a_heartbeat_over_http_makes_nobody_and_nobody_young(start: Callable[..., Any]) -> None:
    gateway = await start()
    with pytest.raises(AgentUnknown):
        gateway.hub.heard("agent-nobody")
    async with agent_at(gateway.agent_address, SEED) as agent:
        uid = agent.session.uid
    seen = gateway.hub.agent(uid).last_seen_ns
    assert gateway.hub.heard(uid, last_seen_ns=5).last_seen_ns == seen
    future = gateway.hub.heard(uid, last_seen_ns=1 << 62).last_seen_ns
    assert seen < future <= gateway._clock.wall_ns()


async def test_pages_of_agents(start: Callable[..., Any]) -> None:
    gateway = await start()
    for n in range(5):
        async with agent_at(gateway.agent_address, bytes([n + 1]) * 32, agent_id=f"host-{n}"):
            pass
    page, total = gateway.hub.agents(limit=2, offset=1)
    assert ([each.agent_id for each in page], total) == (["host-3", "host-2"], 5)
    page, total = gateway.hub.agents(hostname="host-4.example")
    assert ([each.agent_id for each in page], total) == (["host-4"], 1)


async def test_readiness_and_metrics(start: Callable[..., Any]) -> None:
    gateway = await start()
    found = gateway.hub.readiness()
    assert found.ready
    assert found.checks == {"store": "ok", "agents": "ok"}
    async with agent_at(gateway.agent_address, SEED):
        assert b"aegis_gateway_connections 1.0" in gateway.hub.metrics()
    await gateway.__aexit__(None, None, None)
    assert not gateway.hub.readiness().ready


async def test_registration_over_http_takes_nothing_of_the_sockets_and_has_a_rate(
    start: Callable[..., Any],
) -> None:
    gateway = await start(http_registrations=3, http_registrations_of_address_burst=5)
    for _ in range(5):
        begun(gateway.hub)
    with pytest.raises(RegistrationRefused) as caught:
        begun(gateway.hub)
    assert caught.value.status == 429
    assert len(gateway._hall.registrations) == 0


async def test_the_list_leaves_out_capabilities(start: Callable[..., Any]) -> None:
    gateway = await start()
    async with agent_at(gateway.agent_address, SEED) as agent:
        assert gateway.hub.agents()[0][0].capabilities is UNSET
        assert gateway.hub.agent(agent.session.uid).capabilities is not UNSET


async def test_there_are_only_so_many_agents(start: Callable[..., Any]) -> None:
    gateway = await start(agents=1)
    enrol = gateway.hub._enrolment.enrol
    await enrol(b"a" * 32, "h", RegistrationInit(), "a")
    with pytest.raises(RegistrationRefused) as caught:
        await enrol(b"b" * 32, "h", RegistrationInit(), "b")
    assert caught.value.status == 503
    await enrol(b"a" * 32, "h2", RegistrationInit(), "a")
