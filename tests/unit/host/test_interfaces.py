"""Which interfaces are watched by default: built in namespaces, not imagined."""

from __future__ import annotations

from aegis.host import interfaces
from aegis.host.namespaces import NetworkNamespace
from aegis.host.rtnetlink import RouteSocket
from tests.support.world import World


def defaults(netlink: RouteSocket) -> list[str]:
    found = interfaces.defaults(netlink.links(), netlink.addresses(), netlink.routes())
    return [link.name for link in found]


def test_an_interface_with_a_route_is_watched_and_loopback_is_not(world: World) -> None:
    with world.a.netlink() as netlink:
        assert defaults(netlink) == [world.a.interface]
        netlink.set_up(world.a.interface, up=False)
        assert defaults(netlink) == []


def test_of_a_bridge_and_its_ports_the_bridge_is_watched(world: World) -> None:
    with world.a.netlink() as netlink, NetworkNamespace.create() as container:
        netlink.add_bridge("br0")
        netlink.add_veth("port", "eth0", peer_namespace=container.fd)
        netlink.set_master("port", "br0")
        netlink.set_up("port")
        netlink.set_up("br0")
        netlink.add_address("br0", "198.51.100.1/24")
        assert defaults(netlink) == [world.a.interface, "br0"]


def test_of_a_routed_container_only_the_inner_end_is_watched(world: World) -> None:
    """As plugins do that give each container a /32 and a route to it."""
    with world.a.netlink() as netlink, NetworkNamespace.create() as container:
        netlink.add_veth("cali1", "eth0", peer_namespace=container.fd)
        netlink.set_up("cali1")
        with container.entered(), RouteSocket() as inner:
            inner.add_address("eth0", "203.0.113.7/32")
            inner.set_up("eth0")
            inner.add_route("169.254.1.1/32", "eth0")
            inner.add_route("0.0.0.0/0", "eth0", "169.254.1.1")
            assert defaults(inner) == ["eth0"]
        netlink.add_route("203.0.113.7/32", "cali1")
        assert defaults(netlink) == [world.a.interface]
        assert all(
            ("interface", "cali1") not in labels
            for _, labels, _ in interfaces.interfaces(netlink.links(), netlink.addresses())
        )


def test_readings_carry_name_and_index(world: World) -> None:
    with world.a.netlink() as netlink:
        found = {
            (name, labels): value
            for name, labels, value in interfaces.interfaces(netlink.links(), netlink.addresses())
        }
    labels = (("interface", world.a.interface), ("index", str(world.a.index)))
    assert found["interface.up", labels] == 1
    assert found["interface.received_packets", labels] == 0
