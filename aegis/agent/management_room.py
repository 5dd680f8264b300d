"""The management path while the agent runs: the gateway's addresses, DNS servers and what the operator allows.

From local configuration only. An address of the gateway that its name no longer has stays until a session came about
after that: the one that is open may use it. What an agent before put there stays until this one knows better.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Final

from aegis.errors import AegisError, PolicyInvalid
from aegis.kernel.datapath import Datapath
from aegis.kernel.management import MOST, PROTOCOLS, Managed, ManagementPath, parse_allowed, to_host
from aegis.kernel.names_resolvers import Resolvers, find_resolvers
from aegis.model.absent import Absent
from aegis.model.link import LinkState, LinkStatus
from aegis.model.net import Direction
from aegis.runtime.gateway_url import GatewayUrl
from aegis.runtime.module import Health, Log

LOOK_S: Final = 20.0
DNS: Final = 53
MOST_RESOLVERS: Final = 8
CONDITION: Final = "management_incomplete"

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


async def resolve_host(host: str, port: int) -> Sequence[str]:
    """The addresses of a host. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(each[4][0]).partition("%")[0] for each in found]


class ManagementRoom:
    """Made without I/O; `open` acquires, `close` releases, `keep` runs beside."""

    def __init__(
        self,
        health: Health,
        log: Log,
        *,
        gateway: GatewayUrl | None = None,
        allowed: Collection[str] = (),
        resolvers: Collection[str] = (),
        find: Callable[[tuple[str, ...]], Resolvers] = find_resolvers,
        resolve: Resolve = resolve_host,
    ) -> None:
        """`allowed` and `resolvers`: of the options policy.management_allow and policy.resolvers."""
        self._health, self._log = health, log
        self._gateway, self._allow, self._named = gateway, tuple(allowed), tuple(resolvers)
        self._find, self._resolve = find, resolve
        self._path: ManagementPath | None = None
        self._known: frozenset[str] = frozenset()  # what the gateway's name stands for now
        self._old: frozenset[str] = frozenset()
        self._session: object = None  # when the session came about that may use the old ones

    def open(self, datapath: Datapath) -> None:
        """Make the path what is known without asking anybody. Raises KernelError."""
        self._path = ManagementPath.of(datapath)
        if self._gateway is not None:
            if _is_address(self._gateway.host):
                self._known = frozenset({self._gateway.host})
            else:
                self._old = frozenset(self._left())
        self.put()

    def close(self) -> None:
        """Leave; the path stays."""
        if self._path is not None:
            self._path.close()
            self._path = None

    def put(self) -> bool:
        """Give the kernel what is known now; whether that changed anything. What is left out is a condition."""
        if self._path is None:
            return False
        wanted, wrong = self._wanted()
        try:
            changed = self._path.put(wanted)
        except AegisError as error:
            self._health.raise_(CONDITION, str(error))
            return False
        if wrong:
            self._health.raise_(CONDITION, "; ".join(wrong), "aegis config show policy")
        else:
            self._health.clear(CONDITION)
        return changed

    async def keep(self, status: Callable[[], LinkStatus]) -> None:
        """Look each 20 seconds where the gateway is now, and who answers names; until cancelled."""
        while True:
            await self.look(status())
            await asyncio.sleep(LOOK_S)

    async def look(self, status: LinkStatus) -> None:
        """Once. The gateway's old addresses go when a session came about without them."""
        gateway = self._gateway
        if gateway is not None and not _is_address(gateway.host):
            try:
                found = frozenset(await self._resolve(gateway.host, gateway.port))
            except (OSError, UnicodeError) as error:
                self._log.debug("gateway not resolved", error=str(error))
            else:
                self._moved(found, status)
        self.put()

    def _moved(self, found: frozenset[str], status: LinkStatus) -> None:
        session = None if isinstance(status.authenticated_ns, Absent) else status.authenticated_ns
        if found and found != self._known:
            self._old = (self._old | self._known) - found
            self._known, self._session = found, session
        elif status.state is LinkState.CONNECTED and session != self._session:
            self._old = frozenset()

    def _wanted(self) -> tuple[list[Managed], list[str]]:
        """The entries, the dearest first, and in words what is not among them."""
        wrong: list[str] = []
        wanted: dict[Managed, None] = {}
        if self._gateway is not None:
            for address in (*sorted(self._known), *sorted(self._old)):
                wanted[to_host(address, PROTOCOLS["tcp"], self._gateway.port)] = None
        for number, text in enumerate(self._allow):
            try:
                wanted[parse_allowed((text,))[0]] = None
            except PolicyInvalid as error:
                wrong.append(f"policy.management_allow[{number}]: {error.reason}")
        for packed in self._find(self._named).addresses[:MOST_RESOLVERS]:
            address = str(ipaddress.IPv6Address(packed).ipv4_mapped or ipaddress.IPv6Address(packed))
            for protocol in ("udp", "tcp"):
                wanted[to_host(address, PROTOCOLS[protocol], DNS)] = None
        if len(wanted) > MOST:
            wrong.append(f"{len(wanted) - MOST} entries beyond {MOST}")
        return list(wanted)[:MOST], wrong

    def _left(self) -> set[str]:
        """Addresses of the gateway that an agent before put."""
        assert self._path is not None
        assert self._gateway is not None
        return {
            each.network.partition("/")[0]
            for each in self._path.held()
            if each.direction is Direction.EGRESS
            and each.protocol == PROTOCOLS["tcp"]
            and each.port == self._gateway.port != DNS
            and each.network.endswith(("/32", "/128"))
        }


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
