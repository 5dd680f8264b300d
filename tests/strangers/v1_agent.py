"""A deployed v1 agent as far as its wire goes: written from the protocol's fact sheet, without a line of Aegis.

It is as strict, and as brittle, as the deployed one: whatever would crash that program or wedge it raises `Died` here,
with the rule that was broken.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import socket
import time
from collections.abc import Mapping
from typing import Any

from nacl.bindings import crypto_aead_chacha20poly1305_ietf_decrypt
from nacl.signing import SigningKey
from websockets.sync.client import ClientConnection, connect

ANSWER_S = 10.0


class Died(Exception):
    """What the deployed agent does not survive, in one sentence."""


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def unb64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


class StrangeAgent:
    """One agent process: a key pair of its own, made at its start, and what it learned."""

    def __init__(self, url: str, name: str = "stranger", seed: bytes | None = None) -> None:
        self.url = url
        self.name = name
        self.signer = SigningKey(seed or os.urandom(32))
        self.public = bytes(self.signer.verify_key)
        self.uid: str | None = None
        self.bootstrap_token: str | None = None
        self.shared: bytes | None = None
        self.expires_at = 0
        self.socket: ClientConnection | None = None
        self.pushes: list[tuple[str, dict[str, Any]]] = []

    # ---- connect

    def dial(self) -> None:
        """Upgrade, with the headers a first connection has, or those of a reconnect."""
        headers = {"X-Agent-Id": self.uid or self.name, "X-Agent-Public-Key": b64(self.public)}
        if self.uid is not None:
            headers |= {"X-Agent-Uid": self.uid, "X-Bootstrap-Token": self.bootstrap_token or ""}
        self._dialled = connect(
            self.url,
            additional_headers=headers,
            user_agent_header="Aegis-Agent/1.0",
            compression=None,
            open_timeout=10,
            ping_interval=None,
            proxy=None,
        )
        self.socket = self._dialled.__enter__()

    def connect(self) -> None:
        """The order of section 3.6: auth, ping and heartbeat, then registration where there is no uid yet."""
        self.dial()
        self.authenticate()
        self.ping()
        self.heartbeat()
        if self.uid is None:
            self.register()

    def drop(self) -> None:
        """Close the TCP connection without a close frame."""
        assert self.socket is not None
        with contextlib.suppress(OSError):  # the gateway may have been first
            self.socket.socket.shutdown(socket.SHUT_RDWR)
        self._dialled.__exit__(None, None, None)
        self.socket = None

    # ---- the frames

    def _frame(self, kind: str, channel: str, payload: object, **more: str) -> None:
        assert self.socket is not None
        now = time.time_ns()
        frame = {
            "id": f"{channel.replace('.', '_')}_{now}",
            "type": kind,
            "channel": channel,
            "payload": b64(json.dumps(payload).encode()),
            "timestamp": now // 10**9,
            "headers": {},
            **more,
        }
        self.socket.send(json.dumps(frame))

    def _reply(self, channel: str) -> dict[str, Any]:
        """The next frame, which must be the reply: anything else wedges the deployed agent."""
        assert self.socket is not None
        frame = self._read(self.socket.recv(ANSWER_S))
        if frame["channel"] != channel:
            raise Died(f"unexpected response channel {frame['channel']} while waiting for {channel}")
        return frame

    @staticmethod
    def _read(text: str | bytes) -> dict[str, Any]:
        if not isinstance(text, str):
            raise Died("a binary frame")
        frame: dict[str, Any] = json.loads(text)
        for name in ("id", "type", "channel", "payload"):
            if not isinstance(frame.get(name), str):
                raise Died(f"{name} is no string")
        if not isinstance(frame.get("timestamp"), int):
            raise Died("timestamp is no integer")
        if len(unb64(frame.get("nonce") or "")) != 12:
            raise Died("a nonce that is not 12 bytes panics the process")
        return frame

    def authenticate(self) -> None:
        nonce, now = b64(os.urandom(16)), int(time.time())
        public = b64(self.public)
        text = f"{self.name}:{public}:{now}:{nonce}"
        self._frame(
            "request",
            "auth",
            {
                "agent_id": self.name,  # the id of the start, also on a reconnect
                "public_key": public,
                "timestamp": now,
                "nonce": nonce,
                "signature": b64(self.signer.sign(text.encode()).signature),
            },
        )
        answer = json.loads(unb64(self._reply("auth")["payload"]))
        if answer["success"] is not True:
            raise Died(f"authentication failed: {answer.get('message')}")
        if len(answer["session_token"]) < 20:
            raise Died("a session token under 20 characters is sliced out of bounds")
        gateway = unb64(answer["backend_key"])
        if len(gateway) != 32:
            raise Died("backend_key is not 32 bytes")
        self.expires_at = answer["expires_at"]
        if self.expires_at <= time.time():
            raise Died("a session past its end reconnects every 120 s")
        self.shared = hashlib.sha256(self.public + gateway).digest()

    def register(self) -> None:
        self._frame(
            "request",
            "agent.registration",
            {
                "agent_pubkey": b64(self.public),
                "host_id": self.name,
                "org_id": "default-org",
                "agent_version": "1.0.0",
                "machine_id_hash": "test-machine-hash",
                "capabilities": {},
                "platform": {"arch": "arm64", "os": "linux"},
                "network": {"interface": "eth0"},
            },
        )
        init = self._raw("agent.registration", ("registration_id", "nonce", "server_time"))
        signed = unb64(init["nonce"]) + init["server_time"].encode() + self.name.encode()
        self._frame(
            "request",
            "agent.registration.complete",
            {
                "registration_id": init["registration_id"],
                "host_id": self.name,
                "signature": b64(self.signer.sign(signed).signature),
            },
        )
        done = self._raw("agent.registration.complete", ("agent_uid", "bootstrap_token"))
        if len(done["bootstrap_token"]) < 20:
            raise Died("a bootstrap token under 20 characters is sliced out of bounds")
        self.uid, self.bootstrap_token = done["agent_uid"], done["bootstrap_token"]

    def _raw(self, channel: str, members: tuple[str, ...]) -> Mapping[str, str]:
        """A registration reply: JSON as it stands, not base64."""
        payload = self._reply(channel)["payload"]
        try:
            answer = json.loads(payload)
        except ValueError:
            raise Died(f"the payload of {channel} is not raw JSON: {payload[:80]}") from None
        for name in members:
            if not isinstance(answer.get(name), str) or not answer[name]:
                raise Died(f"{channel} says no {name}")
        return {name: answer[name] for name in members}

    def ping(self) -> None:
        """A pong with the same bytes must come, or it reconnects after 60 s."""
        assert self.socket is not None
        if not self.socket.ping(b"heartbeat").wait(ANSWER_S):
            raise Died("no pong")

    def heartbeat(self) -> None:
        who, now, nonce = self.uid or self.name, int(time.time()), b64(b"heartbeat_nonce")
        text = f"{who}:{b64(self.public)}:{now}:{nonce}"
        self._frame(
            "heartbeat",
            f"agent.{who}.heartbeat",
            {},
            nonce=nonce,
            signature=b64(self.signer.sign(text.encode()).signature),
        )

    # ---- what comes later

    def receive(self, within_s: float) -> tuple[str, dict[str, Any]] | None:
        """The next push, opened; None when nothing came. Whatever cannot be opened is dropped, as the deployed one does."""
        assert self.socket is not None
        assert self.shared is not None
        try:
            frame = self._read(self.socket.recv(within_s))
        except TimeoutError:
            return None
        inner = crypto_aead_chacha20poly1305_ietf_decrypt(
            unb64(frame["payload"]), None, unb64(frame["nonce"]), self.shared
        )
        message = json.loads(unb64(inner.decode()))
        message.pop("command_id", None)  # members it does not know are nothing to it
        push = (frame["channel"], message)
        self.pushes.append(push)
        return push
