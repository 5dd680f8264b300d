"""Links, addresses and routes, made and read back in namespaces of the test's own."""

from __future__ import annotations

import errno
import ipaddress
import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis.errors import HostError
from aegis.host import rtnetlink
from aegis.host.namespaces import NetworkNamespace
from aegis.host.rtnetlink import RouteSocket
from tests.support import testers
from tests.support.world import World


@pytest.fixture
def netlink(require):
    require("root")
    with NetworkNamespace.create() as namespace:
        with namespace.entered():
            socket = RouteSocket()
        with socket:
            yield socket


def names(netlink: RouteSocket) -> list[str]:
    return [link.name for link in netlink.links()]


def test_a_pair_is_made_moved_and_deleted(netlink: RouteSocket) -> None:
    netlink.add_veth("one", "two", mac=b"\2\0\0\0\0\1")
    one, two = netlink.link("one"), netlink.link("two")
    assert (one.kind, one.mac, one.up, one.peer_namespace) == ("veth", b"\2\0\0\0\0\1", False, None)
    assert (one.peer_index, two.peer_index) == (two.index, one.index)
    assert one.statistics is not None
    assert one.statistics.rx_packets == 0
    with NetworkNamespace.create() as elsewhere:
        netlink.move("two", namespace=elsewhere.fd)
        assert names(netlink) == ["lo", "one"]
        assert netlink.link("one").peer_namespace is not None
        with elsewhere.entered(), RouteSocket() as there:
            assert names(there) == ["lo", "two"]
    netlink.add_veth("three", "four")
    netlink.move("four", pid=os.getpid())
    try:
        with RouteSocket() as here:
            assert "four" in names(here)
    finally:
        netlink.delete("three")
    with RouteSocket() as here:
        assert "four" not in names(here)


def test_move_wants_one_goal(netlink: RouteSocket) -> None:
    for goals in ({}, {"namespace": 1, "pid": 1}):
        with pytest.raises(HostError, match="one of them"):
            netlink.move("lo", **goals)


def test_the_same_name_twice_is_refused(netlink: RouteSocket) -> None:
    netlink.add_veth("one", "two")
    with pytest.raises(HostError) as caught:
        netlink.add_veth("one", "other")
    assert caught.value.errno == errno.EEXIST
    with pytest.raises(HostError) as missing:
        netlink.link("nobody")
    assert missing.value.errno == errno.ENODEV


def test_addresses_and_routes_of_both_families(netlink: RouteSocket) -> None:
    netlink.add_veth("one", "two")
    netlink.set_up("one")
    netlink.set_up("two")
    netlink.add_address("one", "192.0.2.1/24")
    netlink.add_address("one", "2001:db8::1/64")
    netlink.add_route("198.51.100.0/24", "one", "192.0.2.2")
    netlink.add_route("2001:db8:1::/48", "one")
    index = netlink.link("one").index
    own = {str(entry.address): entry for entry in netlink.addresses() if not entry.address.is_link_local}
    assert set(own) == {"192.0.2.1", "2001:db8::1"}
    assert {(entry.index, entry.prefix) for entry in own.values()} == {(index, 24), (index, 64)}
    routes = {route.destination: route for route in netlink.routes() if route.table == rtnetlink.MAIN_TABLE}
    by_gateway = routes[ipaddress.ip_network("198.51.100.0/24")]
    assert (by_gateway.gateway, by_gateway.indexes) == (ipaddress.ip_address("192.0.2.2"), (index,))
    assert routes[ipaddress.ip_network("2001:db8:1::/48")].indexes == (index,)
    assert ipaddress.ip_network("192.0.2.0/24") in routes


def test_a_new_v6_address_can_be_used_at_once(netlink: RouteSocket) -> None:
    netlink.add_veth("one", "two")
    netlink.set_up("one")
    netlink.set_up("two")
    netlink.add_address("one", "2001:db8::1/64")
    tentative = 0x40
    bodies = netlink.dump("list", 22, struct.pack("=BBBBI", 10, 0, 0, 0, 0))
    own = [body for body in bodies if str(rtnetlink.parse_address(body).address) == "2001:db8::1"]
    assert [body[2] & tentative for body in own] == [0]


def test_a_port_of_a_bridge_names_its_master(netlink: RouteSocket) -> None:
    netlink.add_bridge("br")
    netlink.add_veth("one", "two")
    netlink.set_master("one", "br")
    port = netlink.link("one")
    assert (port.master, port.slave_kind) == (netlink.link("br").index, "bridge")
    netlink.set_master("one", None)
    assert netlink.link("one").master is None


def test_rename_and_state(netlink: RouteSocket) -> None:
    netlink.add_veth("one", "two")
    netlink.rename("one", "uplink")
    netlink.set_up("uplink")
    assert netlink.link("uplink").up
    netlink.set_up("uplink", up=False)
    assert not netlink.link("uplink").up


def test_a_list_has_the_same_statistics_as_the_link_alone(world: World) -> None:
    world.b.run(testers.udp_datagrams, world.b.v4, world.a.v4, 9, 7, 31)
    with world.a.netlink() as netlink:
        (listed,) = (link for link in netlink.links() if link.name == world.a.interface)
        assert listed == netlink.link(world.a.interface)
        assert listed.statistics is not None
        assert listed.statistics.rx_packets == 7


@given(st.binary(max_size=120))
def test_any_bytes_parse_or_are_refused(data: bytes) -> None:
    for parse in (rtnetlink.parse_link, rtnetlink.parse_address, rtnetlink.parse_route):
        try:
            parse(data)
        except HostError:
            continue


def test_a_multipath_route_leaves_by_each_of_its_hops() -> None:
    hops = struct.pack("=HBBi", 8, 0, 0, 3) + struct.pack("=HBBi", 8, 0, 0, 5)
    body = struct.pack("=BBBBBBBBI", 2, 0, 0, 0, 254, 4, 0, 1, 0)
    body += struct.pack("=HH", 4 + len(hops), 9) + hops
    route = rtnetlink.parse_route(body)
    assert (str(route.destination), route.indexes) == ("0.0.0.0/0", (3, 5))
