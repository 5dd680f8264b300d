"""The deployed peers as the documents describe them, written apart from aegis.protocol: what they send and die of."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from nacl.bindings import (
    crypto_aead_chacha20poly1305_ietf_decrypt,
    crypto_aead_chacha20poly1305_ietf_encrypt,
)
from nacl.exceptions import CryptoError
from nacl.signing import SigningKey, VerifyKey

WALL = 1_700_000_000


class Died(Exception):
    """The process of a deployed agent would be gone."""


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def unb64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def packed(content: object) -> str:
    return b64(json.dumps(content).encode())


class DeployedAgent:
    """Registers once in its life; later frames it opens or dies of."""

    def __init__(self, seed: bytes = bytes(range(32)), agent_id: str = "host-1") -> None:
        self.signing = SigningKey(seed)
        self.key = bytes(self.signing.verify_key)
        self.key_text = b64(self.key)
        self.agent_id = agent_id
        self.uid: str | None = None
        self.gateway_key = b""
        self.asks = 0

    def headers(self) -> dict[str, str]:
        said = {
            "X-Agent-Id": self.uid or self.agent_id,
            "X-Agent-Public-Key": self.key_text,
            "User-Agent": "Aegis-Agent/1.0",
        }
        return said if self.uid is None else said | {"X-Agent-Uid": self.uid, "X-Bootstrap-Token": "dev-x"}

    def frame(self, kind: str, channel: str, content: object, **more: Any) -> str:
        said = {
            "id": f"x_{WALL}000000000",
            "type": kind,
            "channel": channel,
            "payload": content if isinstance(content, str) else packed(content),
            "timestamp": WALL,
            "headers": {},
        }
        return json.dumps(said | more)

    def authentication(self, timestamp: int = WALL, nonce: str | None = None, **changed: Any) -> str:
        self.asks += 1
        nonce = b64(hashlib.md5(b"%d" % self.asks).digest()) if nonce is None else nonce
        text = f"{self.agent_id}:{self.key_text}:{timestamp}:{nonce}"
        said = {
            "agent_id": self.agent_id,
            "public_key": self.key_text,
            "timestamp": timestamp,
            "nonce": nonce,
            "signature": b64(self.signing.sign(text.encode()).signature),
        }
        return self.frame("request", "auth", said | changed)

    def registration(self, **changed: Any) -> str:
        said = {
            "agent_pubkey": self.key_text,
            "host_id": self.agent_id,
            "org_id": "default-org",
            "agent_version": "1.0.0",
            "machine_id_hash": "test-machine-hash",
            "capabilities": {},
            "platform": {"arch": "arm64", "os": "linux"},
            "network": {"interface": "eth0"},
        }
        return self.frame("request", "agent.registration", said | changed)

    def completion(self, offer: dict[str, Any], **changed: Any) -> str:
        signed = unb64(offer["nonce"]) + offer["server_time"].encode() + self.agent_id.encode()
        said = {
            "registration_id": offer["registration_id"],
            "host_id": self.agent_id,
            "signature": b64(self.signing.sign(signed).signature),
        }
        return self.frame("request", "agent.registration.complete", said | changed)

    def heartbeat(self) -> str:
        who = self.uid or self.agent_id
        nonce = b64(b"heartbeat_nonce")
        text = f"{who}:{self.key_text}:{WALL}:{nonce}"
        return self.frame(
            "heartbeat",
            f"agent.{who}.heartbeat",
            "e30=",
            nonce=nonce,
            signature=b64(self.signing.sign(text.encode()).signature),
        )

    def take_auth(self, frame: str) -> dict[str, Any]:
        """The next frame after authentication."""
        said = json.loads(frame)
        assert said["channel"] == "auth", "unexpected response channel"
        answer = json.loads(unb64(said["payload"]))
        assert answer["success"] is True, answer
        if len(answer["session_token"]) < 20:
            raise Died("slice of a short token")
        self.gateway_key = unb64(answer["backend_key"])
        assert len(self.gateway_key) == 32
        stamps = (said["timestamp"], said["timestamp"] + 1)
        held = []
        for stamp in stamps:
            try:
                text = f":::{stamp}:{said['payload']}".encode()
                held.append(VerifyKey(self.gateway_key).verify(text, unb64(said["signature"])))
            except CryptoError:
                continue
        assert held, "the answer's signature does not hold"
        return dict(answer)

    def take_offer(self, frame: str) -> dict[str, Any]:
        said = json.loads(frame)
        assert said["channel"] == "agent.registration", "unexpected response channel"
        return dict(json.loads(said["payload"]))  # raw JSON; base64 wedges it

    def take_reply(self, frame: str) -> None:
        said = json.loads(frame)
        assert said["channel"] == "agent.registration.complete", "unexpected response channel"
        answer = json.loads(said["payload"])
        assert answer["agent_uid"]
        if len(answer["bootstrap_token"]) < 20:
            raise Died("slice of a short token")
        self.uid = answer["agent_uid"]

    def take(self, frame: str) -> dict[str, Any] | None:
        """A frame after the handshake: the object in it, None where it is dropped."""
        said = json.loads(frame)
        nonce = unb64(said["nonce"])
        if len(nonce) != 12:
            raise Died("a nonce that is not 12 bytes")
        shared = hashlib.sha256(self.key + self.gateway_key).digest()
        try:
            text = crypto_aead_chacha20poly1305_ietf_decrypt(unb64(said["payload"]), None, nonce, shared)
            return dict(json.loads(unb64(text.decode())))
        except (CryptoError, ValueError):
            return None


class DeployedGateway:
    """Answers as the deployed one: zero nonce, raw registration answers, errors spliced together, constant nonce."""

    NONCE = b"message_nonc"

    def __init__(self, seed: bytes = bytes(range(32, 64))) -> None:
        self.signing = SigningKey(seed)
        self.key = bytes(self.signing.verify_key)
        self.agent_key = b""

    def frame(self, channel: str, payload: str, **more: Any) -> str:
        said = {
            "id": f"resp_{WALL}",
            "type": "response",
            "channel": channel,
            "payload": payload,
            "timestamp": WALL,
            "nonce": "",
            "signature": "",
            "headers": {},
        }
        return json.dumps(said | more)

    def auth(self, *, late: int = 0, **changed: Any) -> str:
        said = {
            "success": True,
            "backend_key": b64(self.key),
            "session_token": "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.e30.c2lnbmF0dXJl",
            "expires_at": WALL + 86400,
            "message": "Authentication successful",
        }
        payload = packed(said | changed)
        signature = self.signing.sign(f":::{WALL + late}:{payload}".encode()).signature
        return self.frame("auth", payload, nonce=b64(bytes(12)), signature=b64(signature))

    def offer(self, **changed: Any) -> str:
        said = {
            "registration_id": "6f1c0a39-6c8c-4f1e-8f0e-2a4d6a1d0c11",
            "nonce": b64(bytes(range(0x40, 0x60))),
            "server_time": "2026-01-01T00:00:00Z",
        }
        return self.frame("agent.registration", json.dumps(said | changed) + "\n")

    def reply(self, **changed: Any) -> str:
        said = {
            "agent_uid": "agent-56475aa75463474c",
            "bootstrap_token": "dev-6f1c0a39-6c8c-4f1e-8f0e-2a4d6a1d0c11",
        }
        return self.frame("agent.registration.complete", json.dumps(said | changed) + "\n")

    def error(self, text: str) -> str:
        payload = f'{{"error":"message_processing_error","message":"{text}","code":4002,"retry_after":1}}'
        return self.frame("error", payload)

    def push(self, agent_key: bytes, channel: str, message: object) -> str:
        shared = hashlib.sha256(agent_key + self.key).digest()
        text = packed(message).encode()
        sealed = crypto_aead_chacha20poly1305_ietf_encrypt(text, None, self.NONCE, shared)
        return self.frame(channel, b64(sealed), type="event", nonce=b64(self.NONCE), id=f"msg_{WALL}")
