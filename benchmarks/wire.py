"""Agents made of bytes: v1 connections as cheap as they can be, so that a benchmark measures the gateway and not itself.

Frames are masked with a key of zeros, which is lawful and leaves the payload as it is.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
import time
from dataclasses import dataclass

from nacl.signing import SigningKey

from aegis.protocol.coverage import HEADER, digest

SECONDS = 30.0


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def frame(payload: bytes, opcode: int = 1) -> bytes:
    """A masked client frame."""
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", 0x80 | opcode, 0x80 | size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, size)
    return head + bytes(4) + payload


def envelope(channel: str, payload: object, kind: str = "request", signer: SigningKey | None = None) -> bytes:
    """A frame with an envelope whose payload is base64(JSON); with `signer` signed as agents of ours sign batches."""
    content = payload if isinstance(payload, bytes) else json.dumps(payload, separators=(",", ":")).encode()
    now, identity, nonce, text = int(time.time()), f"b_{time.time_ns()}", b64(os.urandom(16)), b64(content)
    headers = {}
    if signer is not None:
        signed = digest(identity, kind, channel, now, nonce, text)
        headers[HEADER] = b64(signer.sign(signed).signature)
    return frame(
        json.dumps(
            {
                "id": identity,
                "type": kind,
                "channel": channel,
                "payload": text,
                "timestamp": now,
                "nonce": nonce,
                "headers": headers,
            }
        ).encode()
    )


@dataclass(frozen=True)
class Prepared:
    """What an agent will say, signed beforehand as far as it can be."""

    signer: SigningKey
    name: str
    upgrade: bytes
    authentication: bytes


def prepare(host: str, port: int, number: int) -> Prepared:
    """A fresh identity and its first two messages."""
    signer = SigningKey.generate()
    key, name = b64(bytes(signer.verify_key)), f"bench-{number}"
    now, nonce = int(time.time()), b64(os.urandom(16))
    signature = b64(signer.sign(f"{name}:{key}:{now}:{nonce}".encode()).signature)
    upgrade = (
        f"GET /ws/agent HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {b64(os.urandom(16))}\r\nX-Agent-ID: {name}\r\n"
        f"X-Agent-Public-Key: {key}\r\nUser-Agent: Aegis-Agent/1.0\r\n\r\n"
    ).encode()
    request = {"agent_id": name, "public_key": key, "timestamp": now, "nonce": nonce, "signature": signature}
    return Prepared(signer, name, upgrade, envelope("auth", request))


class Client:
    """One connection, from the upgrade to registered."""

    def __init__(self, host: str, port: int, prepared: Prepared) -> None:
        self.prepared = prepared
        self.socket = socket.create_connection((host, port), timeout=SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._waiting = b""
        self.uid = ""

    def enter(self, *, ours: bool = True) -> None:
        """Upgrade, authenticate and register. Raises RuntimeError with what came instead."""
        self.socket.sendall(self.prepared.upgrade)
        head = self._until(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101"):
            raise RuntimeError(head.decode(errors="replace"))
        self.socket.sendall(self.prepared.authentication)
        answer = json.loads(base64.b64decode(self.read()["payload"]))
        if not answer.get("success"):
            raise RuntimeError(f"{answer}")
        key = b64(bytes(self.prepared.signer.verify_key))
        capabilities = {"aegis": {"v": 1}} if ours else {}
        self.socket.sendall(
            envelope(
                "agent.registration",
                {"agent_pubkey": key, "host_id": self.prepared.name, "capabilities": capabilities},
            )
        )
        init = json.loads(self.read()["payload"])
        signed = base64.b64decode(init["nonce"]) + init["server_time"].encode() + self.prepared.name.encode()
        self.socket.sendall(
            envelope(
                "agent.registration.complete",
                {
                    "registration_id": init["registration_id"],
                    "host_id": self.prepared.name,
                    "signature": b64(self.prepared.signer.sign(signed).signature),
                },
            )
        )
        self.uid = json.loads(self.read()["payload"])["agent_uid"]

    def _until(self, end: bytes) -> bytes:
        while end not in self._waiting:
            self._more()
        head, _, self._waiting = self._waiting.partition(end)
        return head

    def _more(self) -> None:
        piece = self.socket.recv(1 << 18)
        if not piece:
            raise RuntimeError(f"closed by the gateway; before it: {self._waiting[:200]!r}")
        self._waiting += piece

    def read_frame(self) -> tuple[int, bytes]:
        """Opcode and payload of the next frame."""
        while True:
            data = self._waiting
            if len(data) >= 2:
                size, at = data[1] & 127, 2
                if size == 126 and len(data) >= 4:
                    size, at = struct.unpack_from("!H", data, 2)[0], 4
                elif size == 127 and len(data) >= 10:
                    size, at = struct.unpack_from("!Q", data, 2)[0], 10
                elif size >= 126:
                    size = 1 << 62
                if len(data) >= at + size:
                    self._waiting = data[at + size :]
                    return data[0] & 15, data[at : at + size]
            self._more()

    def read(self) -> dict[str, str]:
        """The next envelope; pings and pongs are skipped."""
        while True:
            opcode, payload = self.read_frame()
            if opcode == 1:
                found: dict[str, str] = json.loads(payload)
                return found
            if opcode == 8:
                raise RuntimeError(f"closed: {payload!r}")

    def settle(self) -> None:
        """Return once the gateway has taken everything sent so far."""
        self.socket.sendall(frame(b"settled", 9))
        while True:
            opcode, payload = self.read_frame()
            if opcode == 10 and payload == b"settled":
                return

    def close(self) -> None:
        self.socket.close()
