"""Puts a gateway together, and takes it apart: the only place that knows all its parts."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import ssl
from contextlib import AsyncExitStack
from typing import Any, Final, Self

import aegis
from aegis.errors import AegisError, ConnectFailed
from aegis.gateway.admission import Bucket, Rates
from aegis.gateway.agents import AgentTable
from aegis.gateway.connection import Connection, Receiver
from aegis.gateway.hub import Hub
from aegis.gateway.ingest import Ingest
from aegis.gateway.keys import DataDirectory, gateway_seed, operator_token
from aegis.gateway.metrics import Metrics
from aegis.gateway.nonces import Nonces
from aegis.gateway.options import Address, GatewayOptions, check
from aegis.gateway.orders import Orders
from aegis.gateway.registration import Enrolment
from aegis.gateway.sessions import Hall, Session
from aegis.gateway.store.sqlite import SqliteStore
from aegis.gateway.upkeep import Upkeep
from aegis.gateway.websocket import AgentPort
from aegis.protocol.gateway import GatewayKeys, GatewayLimits
from aegis.protocol.registration import Registrations
from aegis.protocol.replay import ReplayCache
from aegis.protocol.upgrade import Upgrade
from aegis.runtime.clock import SystemClock
from aegis.runtime.log import logger

SETTLE_S: Final = 1.5  # for the store to take what came before the end


class Gateway:
    """`async with Gateway(options) as gateway`: inside, it takes agents and operators.

    `hub` and `token` are what the Actions API stands on; `agent_address` and `actions_address` are what it listens on.
    """

    def __init__(self, options: GatewayOptions) -> None:
        self._options = options
        self._stack = AsyncExitStack()
        self._ready = False
        self._log = logger(part="gateway")
        self.agent_address: Address = options.listen
        self.actions_address: Address | None = None

    async def __aenter__(self) -> Self:
        """Raises ConfigError, NotBuilt, PermissionDenied, StorageError, ConnectFailed; nothing is left open then."""
        try:
            await self._open()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ready = False
        await self._stack.aclose()

    async def _open(self) -> None:
        options = self._options
        tls = check(options)
        directory = self._stack.enter_context(DataDirectory.take(options.data_dir))
        self.data_dir = directory.path
        self._clock = clock = SystemClock()
        self._metrics = metrics = Metrics()
        metrics.gauges = self._gauges
        keys = GatewayKeys(gateway_seed(directory))
        self.token = operator_token(directory)
        self.key_text = keys.public_text
        self._store = store = SqliteStore(directory.path)
        self._stack.push_async_callback(store.close)
        await store.open()
        self._agents = agents = AgentTable()
        agents.load(await store.agents())
        limits = options.caps
        replay = ReplayCache()
        nonces = Nonces(directory.path, store, clock)
        self._stack.callback(nonces.close)
        await nonces.load(replay)
        registrations = Registrations(
            entropy=secrets.token_bytes,
            capacity=limits.pending_registrations,
            life_s=limits.pending_registration_s,
        )
        enrolment = Enrolment(store, agents, clock, limits.agents, crowd=registrations.__len__)
        self._ingest = Ingest(store, clock, limits, metrics)
        orders = Orders(store, agents, clock, limits, metrics)
        await orders.load()
        upkeep = Upkeep(
            store=store,
            agents=agents,
            orders=orders,
            ingest=self._ingest,
            nonces=nonces,
            metrics=metrics,
            clock=clock,
        )
        self._hall = Hall(
            keys=keys,
            clock=clock,
            agents=agents,
            enrolment=enrolment,
            ingest=self._ingest,
            metrics=metrics,
            replay=replay,
            nonces=nonces,
            registrations=registrations,
            limits=GatewayLimits(
                first_message_s=limits.authenticate_s, idle_s=limits.idle_s, session_s=limits.session_s
            ),
            ping_s=limits.ping_s,
            silent_s=limits.silent_s,
        )
        self._hall.orders = orders
        self._port = port = AgentPort(
            self, clock, limits, allow_v1=options.allow_v1, any_user_agent=options.any_user_agent
        )
        self._hall.port = port
        self.hub = Hub(
            store=store,
            agents=agents,
            enrolment=enrolment,
            orders=orders,
            registrations=Registrations(
                entropy=secrets.token_bytes,
                capacity=limits.http_registrations,
                life_s=limits.pending_registration_s,
            ),
            rates=Rates(
                Bucket(limits.http_registrations_s, limits.http_registrations_burst, clock.monotonic_ns()),
                limits.http_registrations_of_address_s,
                limits.http_registrations_of_address_burst,
            ),
            metrics=metrics,
            clock=clock,
            allow_v1=options.allow_v1,
            checks=self._checks,
            connections=lambda: port.upgraded,
        )
        self._stack.push_async_callback(upkeep.last)
        self._stack.push_async_callback(self._settle)
        for work in (upkeep.run(), orders.upkeep()):
            self._stack.push_async_callback(_ended, asyncio.create_task(work))
        await self._listen(tls)
        self._ready = True

    async def _listen(self, tls: ssl.SSLContext | None) -> None:
        options = self._options
        api = options.actions_listen
        if api is not None:
            from aegis.gateway.api import application  # noqa: PLC0415  300 ms, of which a gateway without it needs none
            from aegis.gateway.api.server import serve  # noqa: PLC0415

            listening = _bound(api, "--actions-listen")
            self.actions_address = listening.getsockname()[:2]
            app = application(
                self.hub,
                self.token,
                allow_v1=options.allow_v1,
                version=aegis.__version__,
                websocket_url=options.advertise,
            )
            await self._stack.enter_async_context(serve(app, listening, ssl=tls))
        self._stack.push_async_callback(self._port.close)
        await self._port.open(*options.listen, tls)
        self.agent_address = self._port.addresses[0]

    # What the agents' port asks

    def session(self, connection: Connection, upgrade: Upgrade) -> Receiver:
        return Session(self._hall, connection, upgrade)

    def ready(self) -> bool:
        return self._ready and not self._ingest.failing

    def count(self, what: str) -> None:
        self._metrics.count(what)

    # Inside

    def _checks(self) -> dict[str, str]:
        return {
            "store": "failing" if self._ingest.failing else "ok",
            "agents": "ok" if self._ready else "closed",
        }

    def _gauges(self) -> tuple[tuple[str, str, float], ...]:
        return (
            ("aegis_gateway_connections", "WebSocket connections", self._port.upgraded),
            ("aegis_gateway_agents", "Agents that are registered", len(self._agents)),
            (
                "aegis_gateway_unauthenticated",
                "Sockets that did not authenticate yet",
                self._port.admission.unauthenticated,
            ),
        )

    async def _settle(self) -> None:
        """What was received is stored; what cannot be in time was not acknowledged, and comes again."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_S):
                await self._ingest.settle()
                while self._hall.tasks:
                    await asyncio.wait(list(self._hall.tasks))


def _bound(address: Address, flag: str) -> socket.socket:
    """A listening socket. Raises ConnectFailed."""
    try:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        made = socket.create_server(address, family=family, backlog=256)
    except OSError as error:
        raise ConnectFailed(
            f"{address[0]}:{address[1]}: {error.strerror}", hint=f"choose another address with {flag}"
        ) from error
    made.setblocking(False)  # noqa: FBT003  the name of the method says what
    return made


async def _ended(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, AegisError):
        await task
