"""A v1 gateway by hand: each frame an agent gets is made here, so that any of them may be wrong.

Says that it is one of ours, so that an agent whose key it "knows" is up with the authentication alone.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
from dataclasses import dataclass, field
from typing import Any

from nacl.bindings import crypto_aead_chacha20poly1305_ietf_encrypt as encrypt
from nacl.signing import SigningKey

from tests.support.rawsocket import CLOSE, PING, PONG, TEXT, Heard, RawEnd, frame

NONCE = b"message_nonc"


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def envelope(channel: str, payload: str, kind: str = "response", **members: Any) -> dict[str, Any]:
    return {
        "id": f"raw_{time.time_ns()}",
        "type": kind,
        "channel": channel,
        "payload": payload,
        "timestamp": int(time.time()),
        "nonce": b64(NONCE),
        "signature": "",
        "headers": {},
    } | members


def packed(content: object) -> str:
    return b64(json.dumps(content).encode())


@dataclass
class AgentLink:
    """One connection of an agent, of which the upgrade is done."""

    end: RawEnd
    signer: SigningKey
    agent_key: bytes = b""
    agent_id: str = ""  # as its authentication names it
    host_id: str = ""
    uid: str = ""  # as the header names it
    heard: list[dict[str, Any]] = field(default_factory=list)  # every envelope of the agent

    @classmethod
    def take(cls, end: RawEnd, signer: SigningKey) -> AgentLink:
        """The agent's first frame must be its authentication."""
        made = cls(end, signer)
        first = made.next("auth")
        content = json.loads(base64.b64decode(first["payload"]))
        made.agent_key = base64.b64decode(content["public_key"])
        made.agent_id = content["agent_id"]
        made.uid = f"agent-{hashlib.sha256(made.agent_key).hexdigest()[:16]}"
        return made

    @property
    def shared(self) -> bytes:
        return hashlib.sha256(self.agent_key + bytes(self.signer.verify_key)).digest()

    def next(self, channel: str, seconds: float = 10) -> dict[str, Any]:
        """The next envelope, which must be on this channel."""
        while True:
            heard = self.end.hear(seconds)
            assert heard is not None, f"the agent said nothing on {channel}"
            if heard.opcode == PING:
                self.end.send(frame(heard.payload, PONG, mask=False))
                continue
            assert heard.opcode == TEXT, f"instead of {channel}: {heard}"
            said: dict[str, Any] = json.loads(heard.payload)
            self.heard.append(said)
            assert said["channel"] == channel, f"instead of {channel}: {said['channel']}"
            return said

    def say(self, content: dict[str, Any]) -> None:
        self.end.say(json.dumps(content))

    # ---- what a good gateway says

    def authentication(self, *, registered: bool, **members: Any) -> dict[str, Any]:
        """The members of the answer to an authentication; `...` leaves one out."""
        content = {
            "success": True,
            "backend_key": b64(bytes(self.signer.verify_key)),
            "session_token": "t" * 40,
            "expires_at": int(time.time()) + 86_400,
            "message": "Authentication successful",
            "aegis": {"v": 1, "batches": True, "registered": registered},
        } | members
        return {name: value for name, value in content.items() if value is not ...}

    def answer(self, content: dict[str, Any], **members: Any) -> dict[str, Any]:
        """The signed envelope around it."""
        made = envelope("auth", packed(content))
        text = f":::{made['timestamp']}:{made['payload']}"
        made["signature"] = b64(self.signer.sign(text.encode()).signature)
        return made | members

    def offer(self, **members: Any) -> dict[str, Any]:
        content = {
            "registration_id": "00000000-0000-4000-8000-000000000000",
            "nonce": b64(bytes(32)),
            "server_time": "2026-01-01T00:00:00Z",
        } | members
        return {name: value for name, value in content.items() if value is not ...}

    def completion(self, **members: Any) -> dict[str, Any]:
        content = {"agent_uid": self.uid, "bootstrap_token": "dev-" + "0" * 36} | members
        return {name: value for name, value in content.items() if value is not ...}

    def push(
        self,
        text: bytes,
        channel: str = "backend.modules",
        *,
        nonce: bytes = NONCE,
        key: bytes | None = None,
        **members: Any,
    ) -> dict[str, Any]:
        """`text` sealed as it stands."""
        sealed = encrypt(text, None, (nonce + bytes(12))[:12], self.shared if key is None else key)
        return envelope(channel, b64(sealed), "event", nonce=b64(nonce), **members)

    # ---- steps

    def authenticate(self, *, registered: bool) -> None:
        self.say(self.answer(self.authentication(registered=registered)))

    def register(self) -> None:
        """The whole of a registration, for an agent that does not know its uid yet."""
        self.authenticate(registered=False)
        begun = self.next("agent.registration")
        self.host_id = json.loads(base64.b64decode(begun["payload"]))["host_id"]
        self.say(envelope("agent.registration", json.dumps(self.offer())))
        self.next("agent.registration.complete")
        self.say(envelope("agent.registration.complete", json.dumps(self.completion())))
        self.next(f"agent.{self.uid}.heartbeat")

    def answers(self) -> list[dict[str, Any]]:
        """What the agent answered to orders so far."""
        found = []
        for each in self.heard:
            if each["channel"].endswith((".status", ".policies")):
                content = json.loads(base64.b64decode(each["payload"]))
                if content["kind"] == "answer":
                    found.append(content)
        return found

    def listen(self, seconds: float) -> Heard | None:
        """Take what comes within that time; the end of the connection when it came."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            heard = self.end.hear(left)
            if heard is None:
                return None
            if heard.opcode == CLOSE:
                return heard
            if heard.opcode == TEXT:
                self.heard.append(json.loads(heard.payload))
            elif heard.opcode == PING:
                self.end.send(frame(heard.payload, PONG, mask=False))
        return None
