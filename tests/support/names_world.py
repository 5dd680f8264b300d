"""Who resolves and connects at once: a host whose connections need a name, a resolver and any number of addresses."""

from __future__ import annotations

import contextlib
import ipaddress
import random
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

from aegis.host.netlink import CREATE, EXCLUSIVE, attribute, number
from aegis.kernel import tc
from aegis.kernel.tc import Direction
from tests.support import dns
from tests.support.names_kernel import NamesProbe
from tests.support.world import Place, World

PORT = 7000  # what the gate of probe_names guards
FOUR, SIX = "198.18.0.0/15", "fdaa::/16"  # the server has every address of these
_RTM_NEWROUTE, _LOCAL_TABLE, _LOCAL, _RTA_DST, _RTA_OIF = 24, 255, 2, 1, 4


def own_network(place: Place, network: str) -> None:
    """Make every address of a network one of the place's own."""
    parsed = ipaddress.ip_network(network)
    family = socket.AF_INET if parsed.version == 4 else socket.AF_INET6
    with place.netlink() as netlink:
        payload = bytes(
            [family, parsed.prefixlen, 0, 0, _LOCAL_TABLE, 4, 254 if parsed.version == 4 else 0, _LOCAL]
        )
        payload += bytes(4) + attribute(_RTA_DST, parsed.network_address.packed)
        payload += number(_RTA_OIF, netlink.link("lo").index)
        netlink.change(f"own {network}", _RTM_NEWROUTE, payload, CREATE | EXCLUSIVE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the resolver will say: the message, and the addresses in it."""

    message: bytes
    addresses: tuple[str, ...]


class Resolving:
    """Place `a` asks and connects; place `b` is the resolver and has every address."""

    def __init__(self, world: World, rng: random.Random, stack: contextlib.ExitStack) -> None:
        self.world, self.rng = world, rng
        self._fresh = 0
        for network, gateway in ((FOUR, world.b.v4), (SIX, world.b.v6)):
            own_network(world.b, network)
            with world.a.netlink() as netlink:
                netlink.add_route(network, world.a.interface, gateway)
        self.resolver: dict[int, socket.socket] = {}
        self.listener: dict[int, socket.socket] = {}
        for family, address in ((socket.AF_INET, world.b.v4), (socket.AF_INET6, world.b.v6)):
            one = stack.enter_context(world.b.socket(family, socket.SOCK_DGRAM))
            one.bind((address, 53))
            one.settimeout(5)
            self.resolver[family] = one
            other = stack.enter_context(world.b.socket(family, socket.SOCK_STREAM))
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            other.bind(("", PORT))
            other.listen(64)
            self.listener[family] = other

    def fresh_name(self, below: str) -> str:
        """A name nobody has asked for, in any case."""
        self._fresh += 1
        name = f"{'x' * self.rng.randrange(1, 20)}{self._fresh}.{below}"
        return "".join(self.rng.choice((each.lower(), each.upper())) for each in name)

    def fresh_address(self, kind: int) -> str:
        """An address nobody has been told."""
        self._fresh += 1
        if kind == dns.A:
            return str(
                ipaddress.IPv4Address(int(ipaddress.IPv4Address("198.18.0.1")) + self._fresh % 130_000)
            )
        return f"fdaa::{self.rng.randrange(65536):x}:{self._fresh >> 16:x}:{self._fresh & 0xFFFF:x}"

    def reply(self, query: bytes, name: str, kind: int, *, aliases: int, addresses: int) -> Reply:
        """A right answer to a query, its aliases in order, the names compressed or not."""
        owner = dns.pointer(dns.HEADER)
        records: list[bytes] = []
        end = dns.HEADER + len(dns.question(name))
        for place in range(aliases):
            target = f"edge{place}-{self._fresh}.cdn.test"
            records.append(dns.alias(owner, target, ttl=self.rng.randrange(300)))
            shorter = addresses > 8 or self.rng.randrange(2)  # else the answer could be longer than a packet
            owner = dns.pointer(end + len(owner) + 10) if shorter else dns.labels(target)
            end += len(records[-1])
        told = [self.fresh_address(kind) for _ in range(addresses)]
        records += [dns.address_record(owner, address, ttl=self.rng.randrange(300)) for address in told]
        message = dns.answer(name, records, kind, number=int.from_bytes(query[:2], "big"), behind=dns.EDNS)
        return Reply(message=message, addresses=tuple(told))

    def resolve(self, family: int, name: str, kind: int, *, aliases: int = 0, addresses: int = 1) -> Reply:
        """Ask and be answered, as a client does: when this returns the answer has been delivered."""
        edns = bool(self.rng.randrange(2))
        query = dns.query(name, kind, number=self.rng.randrange(65536), edns=edns)
        with self.world.a.socket(family, socket.SOCK_DGRAM) as client:
            client.settimeout(5)
            client.connect((self.world.b.v4 if family == socket.AF_INET else self.world.b.v6, 53))
            client.send(query)
            asked, sender = self.resolver[family].recvfrom(4096)
            assert asked == query
            reply = self.reply(query, name, kind, aliases=aliases, addresses=addresses)
            self.resolver[family].sendto(reply.message, sender)
            assert client.recv(8192) == reply.message
        return reply

    def connects(self, address: str, *, wait_s: float = 3.0, late: bool = False) -> bool:
        """Whether a TCP connection is opened with the first SYN (the second, `late`, comes after a second)."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with self.world.a.socket(family, socket.SOCK_STREAM) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.settimeout(wait_s)
            begin = time.monotonic()
            try:
                client.connect((address, PORT))
            except TimeoutError:
                return False
            assert late or time.monotonic() - begin < 0.9
            self.listener[family].accept()[0].close()
        return True


class ResolveWorld(Resolving):
    """With the probe's programs at a's interface."""

    def __init__(
        self, world: World, probe: NamesProbe, rng: random.Random, stack: contextlib.ExitStack
    ) -> None:
        super().__init__(world, rng, stack)
        self.probe = probe
        probe.names.set_resolvers([dns.mapped(world.b.v4), dns.mapped(world.b.v6)])


@contextlib.contextmanager
def resolving(world: World, rng: random.Random, data: bytes | None = None) -> Iterator[ResolveWorld]:
    """The world with the probe's programs at a's interface."""
    with contextlib.ExitStack() as stack:
        probe = stack.enter_context(NamesProbe(addresses=16384, data=data))
        with world.a.entered():
            for direction, name in ((Direction.EGRESS, "egress"), (Direction.INGRESS, "ingress")):
                hook = tc.attach(probe.object.program(f"probe_names_{name}"), world.a.index, direction)
                stack.callback(hook.close)
        yield ResolveWorld(world, probe, rng, stack)
