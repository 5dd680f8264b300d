"""An Actions API on a loopback port over a hub that does what it is told: for tests of routes, not of the hub."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from aegis.errors import AgentUnknown, QueryInvalid, RegistrationRefused
from aegis.gateway.api import application
from aegis.gateway.api.app import Application
from aegis.gateway.api.server import serve
from aegis.gateway.hub import Hub
from aegis.gateway.keys import OperatorToken
from aegis.gateway.store.base import Item, Page, Query
from aegis.gateway.views import AgentView, MessageView, Order, Presence, Readiness, Sent, SentStatus
from aegis.model.stamp import rfc3339

TOKEN = "aegis-operator-" + "t" * 43
OLD_TOKEN = "aegis-operator-" + "o" * 43  # of a gateway whose token file was replaced since
AGENT_TOKEN = "dev-6f1f0c1e-7f4a-4c40-9d3c-0a6b1f3b8e55"  # what an agent is given at its registration
UID = "agent-56475aa75463474c"
NOW_NS = 1_763_900_000_000_000_000


def agent_view(uid: str = UID, **more: Any) -> AgentView:
    made: dict[str, Any] = {
        "agent_uid": uid,
        "agent_id": "host-1",
        "org_id": "default-org",
        "host_id": "host-1",
        "hostname": "host-1",
        "machine_id_hash": "",
        "agent_version": "1.0.0",
        "capabilities": {},
        "platform": {},
        "network": {},
        "labels": [],
        "note": "",
        "created": rfc3339(NOW_NS),
        "created_ns": NOW_NS,
        "last_seen": rfc3339(NOW_NS),
        "last_seen_ns": NOW_NS,
        "status": Presence.ONLINE,
        "connected": True,
        "ours": True,
        "protocol": 1,
        "remote_address": "127.0.0.1",
        "session_expires": None,
        "queued": 0,
        "modules": [],
        "conditions": [],
    }
    return AgentView(**(made | more))


class ScriptedHub(Hub):
    """Agents, items and answers are attributes; what was asked is in `sent`, `queries` and `beats`."""

    def __init__(self) -> None:
        self.views: dict[str, AgentView] = {UID: agent_view()}
        self.stored: list[Item] = []  # oldest first; the place of an item is its index
        self.sent: list[tuple[Order, float]] = []
        self.queries: list[Query] = []
        self.beats: list[tuple[str, int | None]] = []
        self.messages: dict[str, MessageView] = {}
        self.ready = True
        self.stopping = False
        self.changed = asyncio.Event()  # something was stored
        self.allow_v1 = True
        self.failure: Exception | None = None
        self.answers: Callable[[Order], Any] = lambda _order: {
            "ok": True,
            "code": "ok",
            "text": "done",
            "state": {},
        }

    def _known(self, uid: str) -> AgentView:
        if uid not in self.views:
            raise AgentUnknown(f"no agent of uid {uid[:80]!r} is registered")
        return self.views[uid]

    def agents(self, **conditions: Any) -> tuple[list[AgentView], int]:
        found = [
            one
            for one in self.views.values()
            if conditions["label"] is None or conditions["label"] in one.labels
            if conditions["hostname"] is None or conditions["hostname"] == one.hostname
            if conditions["host_id"] is None or conditions["host_id"] == one.host_id
            if conditions["address"] is None or conditions["address"] == one.remote_address
        ]
        return found[conditions["offset"] :][: conditions["limit"]], len(found)

    def agent(self, uid: str) -> AgentView:
        return self._known(uid)

    async def set_labels(self, uid: str, *, add: Sequence[str] = (), remove: Sequence[str] = ()) -> list[str]:
        labels = sorted({*self._known(uid).labels, *add} - set(remove))
        self.views[uid] = msgspec.structs.replace(self.views[uid], labels=labels)
        return labels

    async def set_note(self, uid: str, note: str) -> None:
        self.views[uid] = msgspec.structs.replace(self._known(uid), note=note)

    def heard(self, uid: str, *, last_seen_ns: int | None = None) -> AgentView:
        self.beats.append((uid, last_seen_ns))
        return msgspec.structs.replace(self._known(uid), last_seen_ns=last_seen_ns)

    async def send(self, order: Order, *, wait_s: float = 0.0) -> Sent:
        if self.failure is not None:
            raise self.failure
        view = self._known(order.uid)
        self.sent.append((order, wait_s))
        identity = f"msg_{len(self.sent)}"
        if not view.connected:
            return Sent(message_id=identity, agent_uid=order.uid, status=SentStatus.QUEUED)
        if not wait_s:
            return Sent(message_id=identity, agent_uid=order.uid, status=SentStatus.SENT)
        if not view.ours:
            await asyncio.sleep(min(wait_s, 0.05))
            return Sent(message_id=identity, agent_uid=order.uid, status=SentStatus.TIMEOUT)
        answer = self.answers(order)
        return Sent(message_id=identity, agent_uid=order.uid, status=SentStatus.ANSWERED, answer=answer)

    async def send_many(self, orders: Sequence[Order], *, wait_s: float = 0.0) -> list[Sent]:
        made = []
        for order in orders:
            try:
                made.append(await self.send(order, wait_s=wait_s))
            except AgentUnknown as error:
                made.append(
                    Sent(message_id="", agent_uid=order.uid, status=SentStatus.FAILED, error=str(error))
                )
        return made

    async def broadcast(
        self, order: Order, *, uids: Iterable[str] | None = None, wait_s: float = 0.0
    ) -> list[Sent]:
        to = list(self.views) if uids is None else list(uids)
        return await self.send_many([msgspec.structs.replace(order, uid=uid) for uid in to], wait_s=wait_s)

    async def message(self, message_id: str) -> MessageView | None:
        return self.messages.get(message_id)

    def register_init(self, body: bytes, *, address: str) -> bytes:
        try:
            key = json.loads(body)["agent_pubkey"]
        except (ValueError, KeyError, TypeError):
            raise RegistrationRefused("Invalid JSON", status=400) from None
        try:
            raw = base64.b64decode(key, validate=True)
        except (ValueError, TypeError):
            raw = b""
        if len(raw) != 32:
            raise RegistrationRefused("bad pubkey", status=400)
        return b'{"registration_id":"r","nonce":"n","server_time":"2026-01-01T00:00:00Z"}'

    async def register_complete(self, body: bytes, *, address: str) -> bytes:
        raise RegistrationRefused("unknown registration", status=404)

    async def items(self, query: Query) -> Page:
        self.queries.append(query)
        if self.failure is not None:
            raise self.failure
        numbered = [
            (place, item)
            for place, item in enumerate(self.stored)
            if query.uid is None or item.uid == query.uid
            if query.since_ns is None or item.time_ns >= query.since_ns
            if query.until_ns is None or item.time_ns < query.until_ns
        ]
        try:
            if query.after is not None:
                begin = int(query.after or 0)
                ahead = [one for one in numbered if one[0] >= begin][: query.limit]
                return Page(
                    items=[item for _, item in ahead],
                    next=str(ahead[-1][0] + 1) if ahead else str(len(self.stored)),
                )
            before = len(self.stored) if query.cursor is None else int(query.cursor)
        except ValueError:
            raise QueryInvalid("this is no cursor of ours") from None
        behind = [one for one in reversed(numbered) if one[0] < before]
        page = behind[: query.limit]
        return Page(
            items=[item for _, item in page],
            next=str(page[-1][0]) if len(behind) > len(page) else None,
        )

    async def place(self) -> str:
        return str(len(self.stored))

    async def more(self, query: Query, within_s: float) -> None:
        if not self.stopping and query.after == str(len(self.stored)):
            with contextlib.suppress(TimeoutError):
                self.changed.clear()
                await asyncio.wait_for(self.changed.wait(), within_s)

    def stop_waiting(self) -> None:
        self.stopping = True
        self.changed.set()

    def readiness(self) -> Readiness:
        return Readiness(
            ready=self.ready,
            checks={"store": "ok" if self.ready else "closed"},
            heartbeat_total=3,
            connections=1,
            started_ns=NOW_NS,
            uptime_s=12.0,
        )

    def metrics(self) -> bytes:
        return b"# HELP aegis_agents Agents known.\n# TYPE aegis_agents gauge\naegis_agents 1.0\n"

    def store(self, *contents: dict[str, Any], uid: str = UID) -> None:
        """Items as if a batch of that agent had come."""
        for content in contents:
            whole = {"schema": "aegis.event", "version": 1, "time_ns": NOW_NS + len(self.stored), **content}
            self.stored.append(
                Item(
                    uid=uid,
                    time_ns=whole["time_ns"],
                    received_ns=whole["time_ns"],
                    json=msgspec.json.encode(whole),
                )
            )
        self.changed.set()


class Answered(msgspec.Struct, frozen=True):
    """One HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Api:
    """A running API: `call` asks from another thread, as a client would, with the operator's token by default."""

    def __init__(self, hub: ScriptedHub, app: Application, port: int) -> None:
        self.hub = hub
        self.app = app
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        token: str | None = TOKEN,
        headers: dict[str, str] | None = None,
        raw: bytes | None = None,
    ) -> Answered:
        sent = dict(headers or {})
        if token is not None:
            sent.setdefault("Authorization", f"Bearer {token}")
        content = raw
        if body is not None:
            content = msgspec.json.encode(body)
        if content is not None:
            sent.setdefault("Content-Type", "application/json")
        return await asyncio.to_thread(self._call, method, path, content, sent)

    def _call(self, method: str, path: str, content: bytes | None, headers: dict[str, str]) -> Answered:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body=content, headers=headers)
            answer = connection.getresponse()
            told = {name.lower(): value for name, value in answer.getheaders()}
            return Answered(answer.status, told, answer.read())
        finally:
            connection.close()


@asynccontextmanager
async def running_api(
    hub: ScriptedHub | None = None, *, allow_v1: bool = True, websocket_url: str | None = None
) -> AsyncIterator[Api]:
    """An API of its own port for the block."""
    hub = hub or ScriptedHub()
    app = application(
        hub, OperatorToken(TOKEN), allow_v1=allow_v1, version="0.1.0", websocket_url=websocket_url
    )
    sock = socket.create_server(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    async with serve(app, sock):
        yield Api(hub, app, port)
