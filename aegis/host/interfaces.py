"""Which interfaces there are, which of them Aegis watches unless told otherwise, and what they counted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from aegis.host.rtnetlink import LOOPBACK, MAIN_TABLE, UP, Link, LinkAddress, Route
from aegis.host.usage import Reading
from aegis.model.absent import Absent

_COUNTERS = (
    ("interface.received_packets", "rx_packets"),
    ("interface.received_bytes", "rx_bytes"),
    ("interface.receive_errors", "rx_errors"),
    ("interface.receive_dropped", "rx_dropped"),
    ("interface.sent_packets", "tx_packets"),
    ("interface.sent_bytes", "tx_bytes"),
    ("interface.send_errors", "tx_errors"),
    ("interface.send_dropped", "tx_dropped"),
)


def foreign_veth(link: Link) -> bool:
    """A veth whose other end is in another network namespace: a container's interface, seen from either side."""
    return link.kind == "veth" and link.peer_namespace is not None


def defaults(
    links: Iterable[Link], addresses: Iterable[LinkAddress], routes: Iterable[Route]
) -> tuple[Link, ...]:
    """Interfaces that are up and hold a route, without loopback, ports (of a bridge, bond, VRF) and containers' veths.

    A packet on a bridge and on its port would be two flows. Of the two ends of a container's veth, the one inside has
    the address of a network or the default route; the host's has neither, or only a host route to the container.
    """
    routes = [route for route in routes if route.table == MAIN_TABLE]
    routed = {index for route in routes for index in route.indexes}
    inside = {index for route in routes if route.destination.prefixlen == 0 for index in route.indexes}
    inside |= {
        entry.index
        for entry in addresses
        if entry.prefix < entry.address.max_prefixlen and not entry.address.is_link_local
    }
    return tuple(
        link
        for link in links
        if link.index in routed
        and link.flags & UP
        and not link.flags & LOOPBACK
        and link.master is None
        and (not foreign_veth(link) or link.index in inside)
    )


def interfaces(links: Iterable[Link], addresses: Iterable[LinkAddress]) -> Iterator[Reading]:
    """State and counters of all interfaces but containers' veths without an address, which come by the thousand."""
    addressed = {entry.index for entry in addresses if not entry.address.is_link_local}
    for link in links:
        if foreign_veth(link) and link.index not in addressed:
            continue
        labels = (("interface", link.name), ("index", str(link.index)))
        yield "interface.up", labels, int(link.up)
        for metric, member in _COUNTERS:
            if link.statistics is None:
                yield metric, labels, Absent("the kernel gave no statistics")
            else:
                yield metric, labels, getattr(link.statistics, member)
