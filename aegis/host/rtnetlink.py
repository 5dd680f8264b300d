"""Links, addresses, routes and neighbours of one network namespace, read and changed over NETLINK_ROUTE.

Sources: linux/rtnetlink.h, if_link.h, if_addr.h, neighbour.h. Addresses are `ipaddress` values, MACs six bytes.
"""

from __future__ import annotations

import ipaddress
import select
import socket
import struct
import sys
from dataclasses import dataclass

from aegis.errors import HostError
from aegis.host.netlink import (
    CREATE,
    EXCLUSIVE,
    NESTED,
    REPLACE,
    ROUTE,
    Netlink,
    attribute,
    attributes,
    nested,
    number,
    string,
    text,
)

UP = 0x1
LOOPBACK = 0x8
RUNNING = 0x40
NOARP = 0x80
MULTICAST = 0x1000

MAIN_TABLE = 254
_PAUSE_SECONDS = 0.002
UNICAST = 1

_NEW_LINK, _DEL_LINK, _GET_LINK = 16, 17, 18
_NEW_ADDRESS, _GET_ADDRESS = 20, 22
_NEW_ROUTE, _GET_ROUTE = 24, 26
_NEW_NEIGHBOUR = 28

_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBI")
_ROUTE = struct.Struct("=BBBBBBBBI")
_NEIGHBOUR = struct.Struct("=BxHiHBB")

# enum in if_link.h: IFLA_*
_MAC, _NAME, _MTU, _PEER_INDEX, _MASTER, _OPERATIONAL = 1, 3, 4, 5, 10, 16
_OPERATIONAL_UP = 6  # RFC 2863, as linux/if.h counts: IF_OPER_UP
_INFO, _NET_NS_PID, _STATS64, _NET_NS_FD = 18, 19, 23, 28
_EXT_MASK, _PEER_NAMESPACE = 29, 37
_GSO_MAX_SEGS = 40
_INFO_KIND, _INFO_DATA, _INFO_SLAVE_KIND = 1, 2, 4
_SKIP_PROTOCOL_STATISTICS = 1 << 3
_VETH_PEER = 1

_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_NODAD = 0x02
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_MULTIPATH, _RTA_TABLE = 1, 4, 5, 6, 9, 15
_NDA_DST, _NDA_LLADDR = 1, 2
_PERMANENT = 0x80

# struct rtnl_link_stats64; its members beyond `collisions` differ between kernels and are not read.
_STATISTICS = struct.Struct("=10Q")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkStatistics:
    """What an interface counted since it was made: packets, bytes, errors and drops each way."""

    rx_packets: int
    tx_packets: int
    rx_bytes: int
    tx_bytes: int
    rx_errors: int
    tx_errors: int
    rx_dropped: int
    tx_dropped: int
    multicast: int
    collisions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """An interface. `peer_namespace` is set where its other end lives in another network namespace."""

    index: int
    name: str
    kind: str
    flags: int
    mtu: int
    mac: bytes
    master: int | None
    slave_kind: str
    peer_index: int | None
    peer_namespace: int | None
    operational: int
    statistics: LinkStatistics | None

    @property
    def up(self) -> bool:
        """The interface was set up."""
        return bool(self.flags & UP)

    @property
    def carries(self) -> bool:
        """The interface is set up, its other end too, and the kernel has begun to send by it."""
        return self.operational == _OPERATIONAL_UP


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkAddress:
    """An address of an interface with its prefix length."""

    index: int
    address: Address
    prefix: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A route. `indexes` are the interfaces it leaves by, several for a multipath route."""

    destination: Network
    gateway: Address | None
    indexes: tuple[int, ...]
    table: int
    kind: int
    priority: int


class RouteSocket(Netlink):
    """Reads and changes the network namespace it was opened in. Errors as in Netlink."""

    def __init__(self) -> None:
        super().__init__(ROUTE)

    def links(self) -> tuple[Link, ...]:
        """All interfaces with their counters, by index."""
        request = _LINK.pack(0, 0, 0, 0, 0) + number(_EXT_MASK, _SKIP_PROTOCOL_STATISTICS)
        bodies = self.dump("list links", _GET_LINK, request)
        return tuple(sorted(map(parse_link, bodies), key=lambda link: link.index))

    def link(self, name: str) -> Link:
        """One interface with its counters. HostError with ENODEV where there is none of that name."""
        body = self.get(f"read link {name}", _GET_LINK, _LINK.pack(0, 0, 0, 0, 0) + text(_NAME, name))
        return parse_link(body)

    def addresses(self) -> tuple[LinkAddress, ...]:
        """All addresses, v4 and v6."""
        bodies = self.dump("list addresses", _GET_ADDRESS, _ADDRESS.pack(0, 0, 0, 0, 0))
        return tuple(map(parse_address, bodies))

    def routes(self) -> tuple[Route, ...]:
        """All routes of all tables, v4 and v6, without those of multicast and broadcast."""
        bodies = []
        for family in (socket.AF_INET, socket.AF_INET6):
            header = _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
            bodies += self.dump("list routes", _GET_ROUTE, header)
        routes = (parse_route(body) for body in bodies if body[0] in _FAMILIES)
        return tuple(route for route in routes if route.kind == UNICAST)

    def add_veth(
        self,
        name: str,
        peer: str,
        *,
        peer_namespace: int | None = None,
        mac: bytes | None = None,
        peer_mac: bytes | None = None,
        flags: int = MULTICAST,
    ) -> None:
        """Make a pair, both ends down. `peer_namespace` is the descriptor of the namespace `peer` is born in.

        `flags` are the interface flags of both ends.
        """
        header = _LINK.pack(socket.AF_UNSPEC, 0, 0, flags, flags)

        def end(end_name: str, end_mac: bytes | None) -> bytes:
            members = text(_NAME, end_name)
            members += attribute(_MAC, end_mac) if end_mac else b""
            return members

        there = header + end(peer, peer_mac)
        if peer_namespace is not None:
            there += number(_NET_NS_FD, peer_namespace)
        info = nested(
            _INFO, text(_INFO_KIND, "veth"), nested(_INFO_DATA, attribute(_VETH_PEER | NESTED, there))
        )
        operation = f"make veth pair {name}, {peer}"
        self.change(operation, _NEW_LINK, header + end(name, mac) + info, CREATE | EXCLUSIVE)

    def add_bridge(self, name: str) -> None:
        """Make a bridge, down."""
        payload = _LINK.pack(0, 0, 0, 0, 0) + text(_NAME, name)
        payload += nested(_INFO, text(_INFO_KIND, "bridge"))
        self.change(f"make bridge {name}", _NEW_LINK, payload, CREATE | EXCLUSIVE)

    def set_up(self, name: str, *, up: bool = True) -> None:
        """Set the interface up or down."""
        header = _LINK.pack(0, 0, 0, UP if up else 0, UP)
        self.change(f"set {name} {'up' if up else 'down'}", _NEW_LINK, header + text(_NAME, name))

    def await_carrying(self, name: str, seconds: float = 10.0) -> None:
        """Return once packets given to the interface leave it. HostError after `seconds`.

        The kernel begins to send by the end of a veth that was set up first some time after the other end was, and
        drops without a word what it is given until then.
        """
        for _ in range(max(1, int(seconds / _PAUSE_SECONDS))):
            if self.link(name).carries:
                return
            select.select([], [], [], _PAUSE_SECONDS)
        raise HostError(f"{name} carries no packets after {seconds} s")

    def rename(self, name: str, new: str) -> None:
        """Rename; the interface must be down on kernels before 6.2."""
        header = _LINK.pack(0, 0, self.link(name).index, 0, 0)
        self.change(f"rename {name} to {new}", _NEW_LINK, header + text(_NAME, new))

    def set_master(self, name: str, master: str | None) -> None:
        """Make the interface a port of `master`, or no port."""
        index = self.link(master).index if master else 0
        payload = _LINK.pack(0, 0, 0, 0, 0) + text(_NAME, name) + number(_MASTER, index)
        self.change(f"set master of {name} to {master or 'none'}", _NEW_LINK, payload)

    def set_segments(self, name: str, segments: int) -> None:
        """Largest number of segments in a super-packet it sends; 1: each packet is one on the wire."""
        payload = _LINK.pack(0, 0, 0, 0, 0) + text(_NAME, name) + number(_GSO_MAX_SEGS, segments)
        self.change(f"set segments of {name}", _NEW_LINK, payload)

    def move(self, name: str, *, namespace: int | None = None, pid: int | None = None) -> None:
        """Move the interface to the namespace of a descriptor or of a process."""
        if namespace is not None and pid is None:
            where = number(_NET_NS_FD, namespace)
        elif pid is not None and namespace is None:
            where = number(_NET_NS_PID, pid)
        else:
            raise HostError(f"move {name}: name a namespace or a process, one of them")
        header = _LINK.pack(0, 0, 0, 0, 0) + text(_NAME, name)
        self.change(f"move {name} to another namespace", _NEW_LINK, header + where)

    def delete(self, name: str) -> None:
        """Delete the interface; a veth takes its peer with it."""
        self.change(f"delete link {name}", _DEL_LINK, _LINK.pack(0, 0, 0, 0, 0) + text(_NAME, name))

    def add_address(self, name: str, address: str) -> None:
        """Add `address` (with prefix length); a v6 address is usable at once (no duplicate detection)."""
        interface = ipaddress.ip_interface(address)
        packed = interface.ip.packed
        family, flags = socket.AF_INET, 0
        if interface.version == 6:
            family, flags = socket.AF_INET6, _NODAD
        payload = _ADDRESS.pack(family, interface.network.prefixlen, 0, 0, self.link(name).index)
        payload += attribute(_IFA_LOCAL, packed) + attribute(_IFA_ADDRESS, packed)
        payload += number(_IFA_FLAGS, flags)
        self.change(f"add {address} to {name}", _NEW_ADDRESS, payload, CREATE | EXCLUSIVE)

    def add_route(self, destination: str, name: str, gateway: str | None = None) -> None:
        """Route `destination` through the interface, by `gateway` where one is named."""
        network = ipaddress.ip_network(destination)
        family = socket.AF_INET if network.version == 4 else socket.AF_INET6
        scope = 253 if gateway is None and network.version == 4 else 0  # RT_SCOPE_LINK
        payload = _ROUTE.pack(family, network.prefixlen, 0, 0, MAIN_TABLE, 4, scope, UNICAST, 0)
        payload += attribute(_RTA_DST, network.network_address.packed)
        payload += number(_RTA_OIF, self.link(name).index)
        if gateway is not None:
            payload += attribute(_RTA_GATEWAY, ipaddress.ip_address(gateway).packed)
        self.change(f"add route to {destination} by {name}", _NEW_ROUTE, payload, CREATE | EXCLUSIVE)

    def add_neighbour(self, name: str, address: str, mac: bytes) -> None:
        """A permanent entry, so that nobody has to be asked for the address."""
        value = ipaddress.ip_address(address)
        family = socket.AF_INET if value.version == 4 else socket.AF_INET6
        payload = _NEIGHBOUR.pack(family, 0, self.link(name).index, _PERMANENT, 0, 0)
        payload += attribute(_NDA_DST, value.packed) + attribute(_NDA_LLADDR, mac)
        operation = f"add neighbour {address} of {name}"
        self.change(operation, _NEW_NEIGHBOUR, payload, CREATE | REPLACE)


_FAMILIES = (socket.AF_INET, socket.AF_INET6)


def _header(what: str, layout: struct.Struct, body: bytes) -> tuple[int, ...]:
    if len(body) < layout.size:
        raise HostError(f"netlink: {what} of {len(body)} bytes")
    return layout.unpack_from(body)


def _number(value: memoryview | None) -> int | None:
    return None if value is None else int.from_bytes(value, sys.byteorder)


def parse_link(body: bytes) -> Link:
    """A link message. HostError where it is cut."""
    _, _, index, flags, _ = _header("link", _LINK, body)
    found = attributes(body[_LINK.size :])
    info = attributes(found.get(_INFO, memoryview(b"")))
    counted = found.get(_STATS64)
    statistics = None
    if counted is not None and len(counted) >= _STATISTICS.size:
        rx, tx, rx_b, tx_b, rx_e, tx_e, rx_d, tx_d, multicast, collisions = _STATISTICS.unpack_from(counted)
        statistics = LinkStatistics(
            rx_packets=rx,
            tx_packets=tx,
            rx_bytes=rx_b,
            tx_bytes=tx_b,
            rx_errors=rx_e,
            tx_errors=tx_e,
            rx_dropped=rx_d,
            tx_dropped=tx_d,
            multicast=multicast,
            collisions=collisions,
        )
    return Link(
        index=index,
        name=string(found.get(_NAME, b"")),
        kind=string(info.get(_INFO_KIND, b"")),
        flags=flags,
        mtu=_number(found.get(_MTU)) or 0,
        mac=bytes(found.get(_MAC, b"")),
        master=_number(found.get(_MASTER)),
        slave_kind=string(info.get(_INFO_SLAVE_KIND, b"")),
        peer_index=_number(found.get(_PEER_INDEX)),
        peer_namespace=_number(found.get(_PEER_NAMESPACE)),
        operational=_number(found.get(_OPERATIONAL)) or 0,
        statistics=statistics,
    )


def parse_address(body: bytes) -> LinkAddress:
    """An address message; of a point-to-point link the local address."""
    _, prefix, _, _, index = _header("address", _ADDRESS, body)
    found = attributes(body[_ADDRESS.size :])
    packed = found.get(_IFA_LOCAL, found.get(_IFA_ADDRESS))
    if packed is None or len(packed) not in (4, 16):
        raise HostError("netlink: an address message without an address")
    return LinkAddress(index=index, address=ipaddress.ip_address(bytes(packed)), prefix=prefix)


def parse_route(body: bytes) -> Route:
    """A route message. `table` is the whole number where it needs more than a byte."""
    family, length, _, _, table, _, _, kind, _ = _header("route", _ROUTE, body)
    found = attributes(body[_ROUTE.size :])
    width = 4 if family == socket.AF_INET else 16
    destination = bytes(found.get(_RTA_DST, b"")).ljust(width, b"\0")
    gateway = found.get(_RTA_GATEWAY)
    indexes: tuple[int, ...]
    if _RTA_MULTIPATH in found:
        indexes = _hops(found[_RTA_MULTIPATH])
    else:
        single = _number(found.get(_RTA_OIF))
        indexes = () if single is None else (single,)
    try:
        network = ipaddress.ip_network((destination, length))
        next_hop = None if gateway is None else ipaddress.ip_address(bytes(gateway))
    except ValueError as error:
        raise HostError(f"netlink: route that makes no sense: {error}") from error
    whole_table = _number(found.get(_RTA_TABLE))
    return Route(
        destination=network,
        gateway=next_hop,
        indexes=indexes,
        table=table if whole_table is None else whole_table,
        kind=kind,
        priority=_number(found.get(_RTA_PRIORITY)) or 0,
    )


def _hops(data: memoryview) -> tuple[int, ...]:
    """Interface indexes of a multipath attribute (struct rtnexthop: length, flags, hops, index)."""
    indexes = []
    offset = 0
    while len(data) - offset >= 8:
        length, _, _, index = struct.unpack_from("=HBBi", data, offset)
        if not 8 <= length <= len(data) - offset:
            raise HostError(f"netlink: next hop of {length} bytes")
        indexes.append(index)
        offset += length + 3 & ~3
    return tuple(indexes)
