"""The agents' port: listens, answers plain HTTP, lets agents in as far as there is room, and lets them go at the end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from websockets.http11 import Response

from aegis.errors import ConnectFailed
from aegis.gateway import answers
from aegis.gateway.admission import Admission
from aegis.gateway.connection import Connection, Receiver
from aegis.gateway.limits import Limits
from aegis.gateway.wheel import SLOT_NS, Timed, Wheel
from aegis.protocol import v1
from aegis.protocol.upgrade import Upgrade, UpgradeRefused, check
from aegis.runtime.clock import SystemClock
from aegis.runtime.log import logger

BACKLOG: Final = 2048
GOING_AWAY: Final = 1012  # service restart: come back, spread out
TRY_LATER: Final = 1013
_PLAIN: Final = {"/health", "/healthz", "/readyz"}
# Where the deployed gateway passes registrations on; ours is one process, and its Actions API takes them itself.
_ELSEWHERE: Final = frozenset({"/agents/register/init", "/agents/register/complete"})


class Welcome(Protocol):
    """Who takes agents in."""

    def session(self, connection: Connection, upgrade: Upgrade) -> Receiver: ...

    def ready(self) -> bool: ...

    def count(self, what: str) -> None: ...


class AgentPort:
    """`addresses` are those it listens on, with the ports that were found."""

    def __init__(
        self,
        welcome: Welcome,
        clock: SystemClock,
        limits: Limits,
        *,
        allow_v1: bool,
        any_user_agent: bool = False,
    ) -> None:
        self.limits = limits
        self.now_ns: Callable[[], int] = clock.monotonic_ns
        self._welcome = welcome
        self._clock = clock
        self._allow_v1 = allow_v1
        self._any_user_agent = any_user_agent
        self._log = logger(part="agents")
        self._began_ns = clock.monotonic_ns()
        self.admission = Admission(limits, self._began_ns)
        self._wheel = Wheel(self._began_ns)
        self._connections: dict[int, Connection] = {}
        self._numbers = 0
        self._upgraded = 0
        self._server: asyncio.Server | None = None
        self._turning: asyncio.TimerHandle | None = None
        self._leaving = False
        self._left: asyncio.Event | None = None  # set once all are gone, where somebody waits for it
        self.addresses: list[tuple[str, int]] = []

    # Life

    async def open(self, host: str, port: int, tls: ssl.SSLContext | None) -> None:
        """Raises ConnectFailed where the address cannot be had."""
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                self._make,
                host,
                port,
                backlog=BACKLOG,
                ssl=tls,
                ssl_handshake_timeout=None if tls is None else self.limits.authenticate_s,
            )
        except OSError as error:
            raise ConnectFailed(
                f"{host}:{port}: {error.strerror or error}", hint="choose another address with --listen"
            ) from error
        for each in self._server.sockets:
            _watch(each, self.limits)
        self.addresses = [each.getsockname()[:2] for each in self._server.sockets]
        self._turn()

    async def close(self) -> None:
        """Take no more, then let all go one after the other, so that they do not come back at once. Bounded in time."""
        self._leaving = True
        if self._server is not None:
            self._server.close()
        connections = list(self._connections.values())
        spread = min(self.limits.lame_duck_s, len(connections) * 0.001)
        steps = max(1, int(spread / 0.01))
        for step in range(steps):
            for connection in connections[step::steps]:
                if connection.authenticated:
                    connection.close(GOING_AWAY, "the gateway is restarting")
                else:
                    connection.abort()
            if step + 1 < steps:
                await asyncio.sleep(spread / steps)
        await self._all_left(self.limits.close_s)
        for connection in list(self._connections.values()):
            connection.abort()
        await self._all_left(self.limits.close_s)
        if self._turning is not None:
            self._turning.cancel()
            self._turning = None
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None

    async def _all_left(self, within_s: float) -> None:
        if self._connections:
            self._left = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._left.wait(), within_s)

    @property
    def upgraded(self) -> int:
        """WebSocket connections, authenticated or not."""
        return self._upgraded

    def connection(self, number: int) -> Connection | None:
        return self._connections.get(number)

    def _make(self) -> Connection:
        self._numbers += 1
        return Connection(self, self._numbers)

    def _turn(self) -> None:
        self._wheel.turn(self.now_ns(), self._failed)
        self._turning = asyncio.get_running_loop().call_later(SLOT_NS / 1e9, self._turn)

    def _failed(self, thing: Timed, error: Exception) -> None:
        assert isinstance(thing, Connection)
        self.failed(thing, error)

    # What connections call

    def arrived(self, connection: Connection) -> bool:
        if self._leaving:
            return False
        oldest = self.admission.arrived(connection.number, connection.address)
        if oldest is not None:
            self._welcome.count("dropped_unauthenticated")
            self._connections[oldest].abort()
        self._connections[connection.number] = connection
        self._wheel.want(connection, connection.began_ns + int(self.limits.authenticate_s * 1e9))
        return True

    def authenticated(self, connection: Connection) -> None:
        """It counts no longer among those that have to."""
        if not connection.authenticated:
            connection.authenticated_now()
            self.admission.settled(connection.number)
            self.soon(connection, self.now_ns())

    def left(self, connection: Connection) -> None:
        """Compare and delete: a number is one connection's for ever."""
        if self._connections.pop(connection.number, None) is None:
            return
        connection.due_ns = 0
        self.admission.settled(connection.number)
        if connection.upgraded:
            self._upgraded -= 1
        if self._left is not None and not self._connections:
            self._left.set()

    def soon(self, connection: Connection, due_ns: int) -> None:
        self._wheel.want(connection, due_ns)

    def count(self, what: str) -> None:
        self._welcome.count(what)

    def failed(self, connection: Connection, error: Exception) -> None:
        """A fault of ours: told with its place, and the connection is cut."""
        self._welcome.count("internal_error")
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        place = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else ""
        self._log.error("a connection failed", error=repr(error), place=place)
        connection.abort()

    def request(
        self, connection: Connection, method: str, target: str, headers: Iterable[tuple[str, str]]
    ) -> Response | Receiver:
        """The answer to a request, or who receives the messages after the upgrade."""
        path = target.partition("?")[0]
        if path != v1.PATH:
            return self._plain(path, method)
        if method != "GET":
            return answers.text(405, answers.NOT_ALLOWED, more=(("Allow", "GET"),))
        found = check(
            headers,
            any_user_agent=self._any_user_agent,
            full=self._upgraded >= self.limits.connections,
        )
        if isinstance(found, UpgradeRefused):
            self._welcome.count("upgrade_refused")
            if found.status == 503:
                return answers.busy(found.text, 5)
            return answers.text(found.status, found.text)
        if not self._allow_v1:
            self._welcome.count("v1_refused")
            return answers.text(403, answers.V1_REFUSED)
        if self._leaving or not self._welcome.ready():
            return answers.busy(answers.SHUTTING_DOWN if self._leaving else "not ready", 2)
        refusal = self.admission.handshake(connection.address, self.now_ns())
        if refusal is not None:
            self._welcome.count(f"refused_{refusal.reason}")
            return answers.busy(answers.TOO_MANY, refusal.retry_after_s)
        self._upgraded += 1
        connection.upgraded = True
        return self._welcome.session(connection, found)

    def _plain(self, path: str, method: str) -> Response:
        if path not in _PLAIN:
            found = answers.NOT_REGISTERED_HERE if path in _ELSEWHERE else answers.NOT_FOUND
            return answers.text(404, found)
        if method not in {"GET", "HEAD"}:
            return answers.text(405, answers.NOT_ALLOWED, more=(("Allow", "GET"),))
        if path == "/health":
            return answers.json(
                200,
                answers.Health(
                    status="healthy",
                    active_connections=self._upgraded,
                    timestamp=self._clock.wall_ns() // 1_000_000_000,
                    uptime=answers.duration((self.now_ns() - self._began_ns) / 1e9),
                ),
            )
        if path == "/healthz" or (self._welcome.ready() and not self._leaving):
            return answers.text(200, "ok")
        return answers.text(503, "not ready")


def _watch(listening: socket.socket, limits: Limits) -> None:
    """The kernel tells of a peer that is gone without a word, also one that is not ours and gets no pings.

    Each socket that is accepted has what the listening one has: nothing to be set a connection.
    """
    for level, name, value in (
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 3),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(limits.kernel_s * 1000)),
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    ):
        listening.setsockopt(level, name, value)
