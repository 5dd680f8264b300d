"""The known answers of the legacy protocol; the first was accepted by a deployed gateway."""

from __future__ import annotations

import base64
import hashlib
import json

import pytest

from aegis.protocol import base64text, canonical, crypto, payloads
from aegis.protocol.crypto import Signer

AGENT = Signer(bytes(range(32)))
GATEWAY = Signer(bytes(range(0x20, 0x40)))
AGENT_TEXT = "A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg="
GATEWAY_TEXT = "Kay64UG8yvCyLhqU000LxzYeUm0L/hLIl5S8kyKWbdc="
UID = "agent-56475aa75463474c"

AUTH_TEXT = f"host-1:{AGENT_TEXT}:1700000000:AAECAwQFBgcICQoLDA0ODw=="
REGISTRATION = canonical.registration(bytes(range(0x40, 0x60)), "2026-01-01T00:00:00Z", "host-1")
SIGNED = {
    "authentication": (
        AGENT,
        canonical.authentication("host-1", AGENT_TEXT, 1700000000, "AAECAwQFBgcICQoLDA0ODw=="),
        "vb7S4kPF0GA5Wv75oYpQejiyejLTvpEj0qo0YJnppNVHu62gUY0pSur6RyL6SGJF0H1kOYeemCT95AolB9azAg==",
    ),
    "registration": (
        AGENT,
        REGISTRATION,
        "8AXfwWRgbD9jSvsMN7eS6ZQyYCOk/uZ8/tln09Gh7iAy1m8iEHuSq6yxanhDm5ERgHVyB89VZ8iuKnCqu/C5Cg==",
    ),
    "heartbeat": (
        AGENT,
        canonical.message(UID, AGENT_TEXT, 1700000000, base64text.encode(b"heartbeat_nonce")),
        "QZciGNcBf4kkbOIown9kM+qM4b/LJ/F+/LUc3rZ8dqvUNFwoqxLNHafyD3NJM+LT2ES0zHAxOQbjKZBp9tSJAA==",
    ),
    "authentication answer": (
        GATEWAY,
        canonical.authentication_answer(1700000000, "eyJzdWNjZXNzIjp0cnVlfQ=="),
        "Wr8Ur5HMLr26dFEdcYbsSSXrqAE4b0LqGDzsgZ+y0RC29J/IaHoh2glJTqEaOzF6WfnkU1ACv2weDCztMY74Dg==",
    ),
}
SHARED = "0a70edcdbe01865f976fcd6793291f06f6daaaf955252bc0a3b54fc4b448e5a3"
PUSH_INNER = b"eyJhY3Rpb24iOiJwaW5nIn0="
PUSH_NONCE = "bWVzc2FnZV9ub25j"
PUSH_PAYLOAD = "9rMkKZpNhtDX/cj4/01TtTgmpSO5mIg00Oosg0pcRH7VU5+r0gFVlw=="


def test_public_keys_and_uid() -> None:
    assert base64text.encode(AGENT.public_key) == AGENT_TEXT
    assert base64text.encode(GATEWAY.public_key) == GATEWAY_TEXT
    assert crypto.uid_of(AGENT.public_key) == UID


def test_the_text_of_an_authentication() -> None:
    assert SIGNED["authentication"][1].decode() == AUTH_TEXT


def test_the_bytes_of_a_registration() -> None:
    digest = hashlib.sha256(REGISTRATION).hexdigest()
    assert (len(REGISTRATION), digest[:8], digest[-4:]) == (58, "f62e8b50", "a09c")


def test_the_text_of_an_authentication_answer() -> None:
    assert SIGNED["authentication answer"][1] == b":::1700000000:eyJzdWNjZXNzIjp0cnVlfQ=="


@pytest.mark.parametrize("name", SIGNED)
def test_a_signature(name: str) -> None:
    signer, text, wanted = SIGNED[name]
    assert base64text.encode(signer.sign(text)) == wanted
    assert crypto.verifies(signer.public_key, base64.b64decode(wanted), text)
    assert not crypto.verifies(signer.public_key, base64.b64decode(wanted), text + b".")


def test_the_shared_key() -> None:
    assert crypto.shared_key(AGENT.public_key, GATEWAY.public_key).hex() == SHARED


def test_a_push() -> None:
    key, nonce = bytes.fromhex(SHARED), base64.b64decode(PUSH_NONCE)
    assert (
        base64text.encode(json.dumps({"action": "ping"}, separators=(",", ":")).encode()).encode()
        == PUSH_INNER
    )
    assert base64text.encode(crypto.seal(key, nonce, PUSH_INNER)) == PUSH_PAYLOAD
    opened = crypto.unseal(key, nonce, base64text.decode(PUSH_PAYLOAD, "payload"))
    assert payloads.read_push(opened) == {"action": "ping"}
