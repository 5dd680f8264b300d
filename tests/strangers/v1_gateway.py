"""A deployed v1 gateway as far as its wire goes: written from the protocol's fact sheet, without a line of Aegis.

With its faults where an agent meets them: registration replies as raw JSON with a newline, error payloads that are not
always JSON, no nonce on them, a key of its own at every start, a store that forgets at every start.
"""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import hashlib
import http
import json
import os
import threading
import time
import uuid
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self

from nacl.bindings import crypto_aead_chacha20poly1305_ietf_encrypt
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

SILENT = ("policies", "anomalies", "threats", "processes", "status", "logs")
PUSH_NONCE = b"message_nonc"


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


class Peer:
    """One connection."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket
        self.key = base64.b64decode(socket.request.headers["X-Agent-Public-Key"]) if socket.request else b""
        self.id = socket.request.headers["X-Agent-ID"] if socket.request else ""
        self.authenticated = False
        self.channels: list[str] = []


class StrangeGateway:
    """Listens on a loopback port, in a thread with a loop of its own. What agents sent is kept for the test to look at."""

    def __init__(
        self, host: str = "127.0.0.1", port: int = 0, *, idle_s: float = 60.0, session_s: int = 86400
    ) -> None:
        self.host, self.port = host, port
        self.idle_s, self.session_s = idle_s, session_s
        self.signer = SigningKey(os.urandom(32))
        self.public = bytes(self.signer.verify_key)
        self.peers: list[Peer] = []
        self.connections = 0
        self.refused: list[str] = []
        self.pending: dict[str, tuple[bytes, bytes, str, dict[str, Any]]] = {}
        self.agents: dict[str, dict[str, Any]] = {}
        self.completions = 0
        self.heartbeats: list[tuple[str, dict[str, Any]]] = []
        self.silent: list[tuple[str, dict[str, Any]]] = []
        self.errors: list[str] = []
        self.lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._server: Server | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"ws://{self.host}:{self.port}/ws/agent"

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._open())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def _run(self, work: Any) -> Any:
        future: Future[Any] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result(10)

    async def _open(self) -> None:
        self._server = await serve(
            self._serve,
            self.host,
            self.port,
            process_request=self._upgrade,
            compression=None,
            ping_interval=None,
            max_size=None,
        )
        self.port = next(iter(self._server.sockets)).getsockname()[1]

    async def _close(self) -> None:
        for peer in list(self.peers):
            peer.socket.transport.abort()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    def _upgrade(self, connection: ServerConnection, request: Request) -> Response | None:
        """Section 1.2 and 1.3: exact path, headers, user agent, key; texts end in a newline."""
        headers = request.headers
        if request.path == "/health":
            return connection.respond(
                http.HTTPStatus.OK,
                json.dumps(
                    {
                        "status": "healthy",
                        "active_connections": len(self.peers),
                        "timestamp": 0,
                        "uptime": "1s",
                    }
                ),
            )
        status, text = http.HTTPStatus.BAD_REQUEST, ""
        if request.path != "/ws/agent":
            status, text = http.HTTPStatus.NOT_FOUND, "404 page not found"
        elif not headers.get("X-Agent-ID") or not headers.get("X-Agent-Public-Key"):
            text = "Missing required headers: X-Agent-ID and X-Agent-Public-Key"
        elif headers.get("User-Agent") != "Aegis-Agent/1.0":
            text = "Invalid user agent"
        else:
            try:
                base64.b64decode(headers["X-Agent-Public-Key"], validate=True)
            except ValueError:
                text = "Invalid public key format"
        if not text:
            return None
        self.refused.append(text)
        return connection.respond(status, text + "\n")

    async def _serve(self, socket: ServerConnection) -> None:
        peer = Peer(socket)
        self.peers.append(peer)
        self.connections += 1
        try:
            while True:
                async with asyncio.timeout(self.idle_s):
                    text = await socket.recv()
                if isinstance(text, str):
                    await self._take(peer, text)
        except TimeoutError:
            socket.transport.abort()  # no close frame: the client sees 1006
        except ConnectionClosed:
            pass
        finally:
            self.peers.remove(peer)

    async def _take(self, peer: Peer, text: str) -> None:
        try:
            frame = json.loads(text)
            channel = frame.get("channel") or ""
            for name in ("payload", "nonce", "signature"):
                if not isinstance(frame.get(name, ""), str):
                    raise ValueError(f"json: cannot unmarshal {name}")  # noqa: TRY004  as Go says it
            if type(frame.get("timestamp", 0)) is not int:
                raise ValueError("json: cannot unmarshal timestamp")
        except ValueError as error:
            await self._error(peer, f"failed to parse message: {error}")
            return
        peer.channels.append(channel)
        if channel == "auth":
            await self._authenticate(peer, frame)
        elif channel in {"agent.registration.complete", "registration.complete"}:
            await self._complete(peer, frame)
        elif not peer.authenticated:
            await self._error(peer, "agent not authenticated")
        elif channel == "agent.registration":
            await self._init(peer, frame)
        else:
            await self._route(peer, channel, frame)

    async def _route(self, peer: Peer, channel: str, frame: dict[str, Any]) -> None:
        parts = channel.split(".")
        if len(parts) >= 3 and parts[0] == "agent" and parts[2] == "heartbeat":
            self.heartbeats.append((peer.id, frame))
        elif len(parts) >= 3 and parts[0] == "agent" and parts[2] in SILENT:
            self.silent.append((channel, frame))
        else:
            await self._error(peer, f"no handler for channel: {channel}")

    async def _reply(
        self, peer: Peer, channel: str, payload: str, nonce: str = "", signature: str = ""
    ) -> None:
        frame = {
            "id": f"resp_{time.time_ns()}",
            "type": "response",
            "channel": channel,
            "payload": payload,
            "timestamp": int(time.time()),
            "nonce": nonce,
            "signature": signature,
            "headers": {},
        }
        await peer.socket.send(json.dumps(frame))

    async def _error(self, peer: Peer, text: str) -> None:
        """Spliced in unescaped, as the deployed one does: a quote or newline in `text` makes it no JSON."""
        self.errors.append(text)
        payload = '{"error":"message_processing_error","message":"' + text + '","code":4002,"retry_after":1}'
        await self._reply(peer, "error", payload)

    async def _authenticate(self, peer: Peer, frame: dict[str, Any]) -> None:
        request = json.loads(base64.b64decode(frame["payload"], validate=True))
        text = f"{request['agent_id']}:{request['public_key']}:{request['timestamp']}:{request['nonce']}"
        good = base64.b64decode(request["public_key"]) == peer.key
        if good:
            try:
                VerifyKey(peer.key).verify(
                    text.encode(), base64.b64decode(request["signature"], validate=True)
                )
            except (BadSignatureError, ValueError):
                good = False
        peer.authenticated = True  # whatever came out of it: fault G2
        now = int(time.time())
        answer = {
            "success": good,
            "backend_key": b64(self.public) if good else "",
            "session_token": "x" * 120 if good else "",
            "expires_at": now + self.session_s if good else 0,
            "message": "Authentication successful" if good else "Invalid signature",
        }
        payload = b64(json.dumps(answer).encode())
        signature = b64(self.signer.sign(f":::{now + 1}:{payload}".encode()).signature)
        await self._reply(peer, "auth", payload, b64(bytes(12)), signature)

    async def _init(self, peer: Peer, frame: dict[str, Any]) -> None:
        request = json.loads(base64.b64decode(frame["payload"], validate=True))
        if not isinstance(request.get("agent_pubkey"), str):
            await self._error(peer, "missing agent_pubkey in registration data")
            return
        key = base64.b64decode(request["agent_pubkey"])
        if not all(
            isinstance(request.get(name, {}), dict) for name in ("capabilities", "platform", "network")
        ):
            await self._error(peer, 'Actions API error: 400 {"error":"invalid json"}\n')
            return
        identity, nonce = str(uuid.uuid4()), os.urandom(32)
        server_time = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.pending[identity] = (key, nonce, server_time, request)
        answer = {"registration_id": identity, "nonce": b64(nonce), "server_time": server_time}
        await self._reply(peer, "agent.registration", json.dumps(answer) + "\n")

    async def _complete(self, peer: Peer, frame: dict[str, Any]) -> None:
        request = json.loads(base64.b64decode(frame["payload"], validate=True))
        found = self.pending.get(request.get("registration_id", ""))
        if found is None:
            await self._error(peer, "Actions API error: 404 unknown registration\n")
            return
        key, nonce, server_time, init = found
        signed = nonce + server_time.encode() + request["host_id"].encode()
        try:
            VerifyKey(key).verify(signed, base64.b64decode(request["signature"], validate=True))
        except (BadSignatureError, ValueError):
            await self._error(peer, "Actions API error: 401 signature verify failed\n")
            return
        del self.pending[request["registration_id"]]
        self.completions += 1
        uid = f"agent-{hashlib.sha256(key).digest()[:8].hex()}"
        self.agents[uid] = init
        peer.id = uid
        answer = {"agent_uid": uid, "bootstrap_token": f"dev-{uuid.uuid4()}"}
        await self._reply(peer, "agent.registration.complete", json.dumps(answer) + "\n")

    # ---- what an operator and the world do to it

    def push(self, uid: str, channel: str, message: dict[str, Any]) -> None:
        """Seal as section 2.4 says, with the constant nonce, and write."""
        self._run(self._push(uid, channel, message))

    async def _push(self, uid: str, channel: str, message: dict[str, Any]) -> None:
        for peer in self.peers:
            if peer.id == uid:
                key = hashlib.sha256(peer.key + self.public).digest()
                inner = b64(json.dumps(message).encode()).encode()
                sealed = crypto_aead_chacha20poly1305_ietf_encrypt(inner, None, PUSH_NONCE, key)
                frame = {
                    "id": f"msg_{time.time_ns()}",
                    "type": "event",
                    "channel": channel,
                    "payload": b64(sealed),
                    "timestamp": int(time.time()),
                    "nonce": b64(PUSH_NONCE),
                    "signature": "",
                    "headers": {},
                }
                await peer.socket.send(json.dumps(frame))
                return
        raise LookupError(uid)

    def say_error(self, uid: str, text: str) -> None:
        """An error frame out of the blue."""
        peer = next(each for each in self.peers if each.id == uid)
        self._run(self._error(peer, text))

    def cut(self) -> None:
        """Drop every connection without a close frame."""

        async def abort() -> None:
            for peer in list(self.peers):
                peer.socket.transport.abort()

        self._run(abort())

    def forget(self) -> None:
        """As after a restart of the Actions API: no agent is known."""
        self.agents.clear()
        self.pending.clear()
