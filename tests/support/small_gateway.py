"""A gateway for tests of the agent's end: one listening socket, what agents said in lists, and ways to misbehave.

    async with serving(SmallGateway(), port) as gateway:          # on the test's own loop
    with on_a_thread(SmallGateway(), listener) as gateway:        # for agents that are processes

Built on the sans-IO session of the gateway; the store is a dictionary. It is no judge of the protocol: both ends of it are ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import itertools
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import msgspec
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from aegis.protocol import gateway_happenings as happenings
from aegis.protocol import upgrade
from aegis.protocol.gateway import GatewayKeys, GatewaySession
from aegis.protocol.registration import Registrations
from aegis.protocol.replay import ReplayCache
from aegis.protocol.shared_items import expand


class Link:
    """One connection of an agent."""

    def __init__(self, number: int, connection: ServerConnection, session: GatewaySession) -> None:
        self.number = number
        self.connection = connection
        self.session = session

    async def push(self, message: dict[str, Any], channel: str = "backend.modules") -> None:
        identity = message.get("command_id", f"message_{self.number}")
        await self.connection.send(
            self.session.push(channel, message, message_id=identity, wall_s=int(time.time()))
        )


class SmallGateway:
    """Behaviour is set by the attributes; what happened is in the lists."""

    def __init__(self, *, seed: bytes | None = None, ours: bool = True) -> None:
        self.keys = GatewayKeys(seed or os.urandom(32))
        self.ours = ours  # False: says nothing of itself, as a deployed gateway, and forgets
        self.acknowledges = True
        self.refuses: str | None = None  # a text: every authentication is turned away with it
        self.unavailable: tuple[int, str, dict[str, str]] | None = (
            None  # status, text and headers instead of the upgrade
        )
        self.links: list[Link] = []  # open ones
        self.opened = 0
        self.known: dict[bytes, str] = {}
        self.registrations: list[happenings.RegistrationProven] = []
        self.heartbeats: list[happenings.Heartbeat] = []
        self.batches: list[happenings.Batch] = []
        self.answers: list[happenings.Answer] = []
        self.states: list[dict[str, Any]] = []
        self.refused: list[Any] = []
        self.headers: list[dict[str, str]] = []
        self.closes: list[str] = []  # how agents ended connections
        self._replay = ReplayCache()
        self._registrations = Registrations(entropy=os.urandom)
        self._numbers = itertools.count(1)
        self._server: Server | None = None

    # ---- the socket

    async def open(self, sock: socket.socket) -> None:
        self._server = await serve(
            self._serve,
            sock=sock,
            process_request=self._upgrade,
            compression=None,
            max_size=1 << 20,
            ping_interval=None,
            close_timeout=0.5,
        )

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    def _upgrade(self, connection: ServerConnection, request: Request) -> Response | None:
        self.headers.append(dict(request.headers.raw_items()))
        if self.unavailable is not None:
            status, text, more = self.unavailable
            return Response(status, http.HTTPStatus(status).phrase, Headers(more), text.encode())
        found = upgrade.check(request.headers.raw_items())
        if isinstance(found, upgrade.UpgradeRefused):
            return connection.respond(http.HTTPStatus(found.status), found.text + "\n")
        connection.upgrade = found  # type: ignore[attr-defined]
        return None

    async def _serve(self, connection: ServerConnection) -> None:
        number = next(self._numbers)
        session = GatewaySession(
            self.keys,
            connection.upgrade,  # type: ignore[attr-defined]
            connection=str(number),
            entropy=os.urandom,
            replay=self._replay,
            registrations=self._registrations,
        )
        if not self.ours:
            _says_nothing_of_itself(session)
        link = Link(number, connection, session)
        self.links.append(link)
        self.opened += 1
        session.opened(time.monotonic_ns())
        try:
            while True:
                frame = await connection.recv()
                for one in session.receive(frame, time.monotonic_ns(), int(time.time())):
                    await self._take(link, one)
                for said in session.outgoing():
                    await connection.send(said)
        except ConnectionClosed as error:
            self.closes.append(f"{error.rcvd.code} {error.rcvd.reason}" if error.rcvd else "cut")
        finally:
            session.gone()
            self.links.remove(link)

    async def _take(self, link: Link, one: happenings.GatewayHappening) -> None:
        wall_s = int(time.time())
        match one:
            case happenings.Authenticated():
                if self.refuses is not None:
                    link.session.turn_away(self.refuses, wall_s)
                    return
                uid = self.known.get(one.key) if self.ours else None
                link.session.accept(uid, ours=self.ours, now_ns=time.monotonic_ns(), wall_s=wall_s)
            case happenings.RegistrationProven():
                self.registrations.append(one)
                self.known[one.key] = one.uid
                link.session.registered(wall_s)
                if not self.ours:
                    link.session._ours = False  # it asks for no signature of ours
            case happenings.Heartbeat():
                self.heartbeats.append(one)
            case happenings.Batch():
                self.batches.append(one)
                if self.acknowledges:
                    next_ = one.first + len(one.items)
                    await link.connection.send(link.session.acknowledge(one.stream, one.cls, next_, wall_s))
            case happenings.Answer():
                self.answers.append(one)
            case happenings.State():
                self.states.append(one.state)
            case happenings.Closed():
                for said in link.session.outgoing():
                    await link.connection.send(said)
                await link.connection.close(one.code, one.reason)
            case happenings.Refused() | happenings.Ignored():
                self.refused.append(one)
            case happenings.RegistrationBegun():
                pass

    async def pause(self) -> None:
        """Read nothing more of any agent."""
        for link in self.links:
            link.connection.transport.pause_reading()

    # ---- what a test asks

    def items(self, cls: str) -> list[dict[str, Any]]:
        """Every item of a class that came, decoded, with what it shares with others; duplicates too."""
        return [
            msgspec.json.decode(expand(bytes(item), [bytes(each) for each in batch.shared]))
            for batch in self.batches
            if batch.cls == cls
            for item in batch.items
        ]

    def answer(self, identity: str) -> happenings.Answer | None:
        return next((one for one in self.answers if one.in_reply_to == identity), None)


def _says_nothing_of_itself(session: GatewaySession) -> None:
    answer = session._answer_auth

    def plain(response: Any, wall_s: int) -> None:
        answer(msgspec.structs.replace(response, aegis=msgspec.Raw(b"null")), wall_s)

    session._answer_auth = plain  # type: ignore[method-assign]


@contextlib.asynccontextmanager
async def serving(gateway: SmallGateway, port: int = 0) -> AsyncIterator[str]:
    """Serve on the loopback of this loop; the address."""
    listener = socket.create_server(("127.0.0.1", port))
    await gateway.open(listener)
    try:
        yield f"ws://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        await gateway.close()


class OnThread:
    """A gateway on a thread of its own, with calls into its loop."""

    def __init__(self, gateway: SmallGateway) -> None:
        self.gateway = gateway
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def call(self, make: Callable[[], Any]) -> Any:
        """The result of the coroutine that `make` gives, run there."""

        async def run() -> Any:
            return await make()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(30)

    def push(self, message: dict[str, Any], channel: str = "backend.modules") -> None:
        """An order to the newest connection."""
        self.call(lambda: self.gateway.links[-1].push(message, channel))

    def listen(self, listener: socket.socket) -> None:
        self.call(lambda: self.gateway.open(listener))

    def stop(self) -> None:
        self.call(self.gateway.close)

    def end(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@contextlib.contextmanager
def on_a_thread(gateway: SmallGateway, listener: socket.socket) -> Iterator[OnThread]:
    """Serve `listener` until the block ends."""
    made = OnThread(gateway)
    try:
        made.listen(listener)
        yield made
    finally:
        made.end()
