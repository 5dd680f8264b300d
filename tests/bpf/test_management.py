"""The management path under policies that deny everything: what no policy can cut, by packets, connects and time."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from aegis.errors import MapFull
from aegis.kernel import management
from aegis.kernel.datapath import Datapath
from aegis.kernel.datapath_plan import CORE
from aegis.kernel.management import ALWAYS, MOST, Managed, ManagementPath, parse_allowed, to_host
from aegis.kernel.policy_slots import PolicySlots
from tests.support import packets as p
from tests.support.flows import CONSTANTS, DROPPED, PASSED, Table, open_table

pytestmark = pytest.mark.require("root", "bpf")

HERE, THERE, ROUTER = "192.0.2.1", "198.51.100.7", "192.0.2.254"
HERE6, THERE6 = "fe80::1", "fe80::2"
DENY_ALL: tuple[dict[str, Any], ...] = (
    {
        "mode": "enforce",
        "priority": 1,
        "ingressDeny": [{}],
        "egressDeny": [{}],
        "enableDefaultDeny": {"egress": True, "ingress": True},
    },
)


@pytest.fixture
def table() -> Iterator[Table]:
    with open_table("core") as found:
        found.apply(*DENY_ALL)
        yield found


@pytest.fixture
def path(table: Table) -> Iterator[ManagementPath]:
    with contextlib.closing(ManagementPath.of(table.core)) as found:
        yield found


def udp(source: str, destination: str, source_port: int, port: int) -> bytes:
    return p.ethernet(p.IPV4, p.ipv4(source, destination, p.UDP, p.udp(source_port, port)))


def tcp(source: str, destination: str, source_port: int, port: int, flags: int) -> bytes:
    return p.ethernet(p.IPV4, p.ipv4(source, destination, p.TCP, p.tcp(source_port, port, flags)))


def icmpv6(kind: int, source: str = THERE6, destination: str = HERE6) -> bytes:
    return p.ethernet(p.IPV6, p.ipv6(source, destination, p.ICMPV6, p.icmp(kind, 0)))


def both(table: Table, packet: bytes) -> list[int]:
    return [table.send(direction, packet) for direction in ("egress", "ingress")]


def test_neighbours_and_routers_are_found(table: Table, path: ManagementPath) -> None:
    assert both(table, icmpv6(135)) == [DROPPED, DROPPED], "without a path the policy has its way"
    path.put((), ALWAYS)
    for kind in (133, 134, 135, 136, 137):
        assert both(table, icmpv6(kind)) == [PASSED, PASSED], kind
    for kind in (132, 138, 128, 1):
        assert both(table, icmpv6(kind)) == [DROPPED, DROPPED], kind
    path.put((), ALWAYS & ~management.NEIGHBOURS)
    assert both(table, icmpv6(135)) == [DROPPED, DROPPED]


def test_path_mtu_is_found(table: Table, path: ManagementPath) -> None:
    needed = p.ethernet(p.IPV4, p.ipv4(ROUTER, HERE, p.ICMP, p.icmp(3, 4)))
    other = p.ethernet(p.IPV4, p.ipv4(ROUTER, HERE, p.ICMP, p.icmp(3, 1)))
    assert table.send("ingress", needed) == DROPPED
    path.put((), ALWAYS)
    assert table.send("ingress", needed) == PASSED
    assert table.send("ingress", icmpv6(2)) == PASSED
    assert table.send("ingress", other) == DROPPED


def test_a_routers_error_about_a_flow_of_the_path_arrives(table: Table, path: ManagementPath) -> None:
    """Quoting the flow to the gateway: judged by the flow and by its own sender."""
    path.put((to_host(THERE, 6, 443),), ALWAYS)
    assert table.send("egress", tcp(HERE, THERE, 40000, 443, p.SYN)) == PASSED
    quoted = p.ipv4(HERE, THERE, p.TCP, p.tcp(40000, 443, p.ACK))
    packet = p.ethernet(p.IPV4, p.ipv4(ROUTER, HERE, p.ICMP, p.icmp(3, 4, carried=quoted)))
    assert table.send("ingress", packet) == PASSED


@pytest.mark.parametrize(("client", "server", "v6"), [(68, 67, False), (546, 547, True)])
def test_a_lease_is_taken_and_kept(
    table: Table, path: ManagementPath, client: int, server: int, v6: bool
) -> None:
    """Every packet of two leases: discover, offer to all and to one, renewal, and nothing else on these ports."""

    def packet(source: str, destination: str, source_port: int, port: int) -> bytes:
        if v6:
            return p.ethernet(p.IPV6, p.ipv6(source, destination, p.UDP, p.udp(source_port, port)))
        return udp(source, destination, source_port, port)

    own, far = (HERE6, THERE6) if v6 else (HERE, ROUTER)
    everybody, nobody = ("ff02::1:2", HERE6) if v6 else ("255.255.255.255", "0.0.0.0")
    path.put((), ALWAYS)
    for _ in range(2):
        assert table.send("egress", packet(nobody, everybody, client, server)) == PASSED
        assert table.send("ingress", packet(far, own, server, client)) == PASSED
        assert table.send("ingress", packet(far, everybody, server, client)) == PASSED
        assert table.send("egress", packet(own, far, client, server)) == PASSED
    assert table.send("ingress", packet(far, own, client, server)) == DROPPED, "this host serves nobody"
    assert table.send("egress", packet(own, far, server, client)) == DROPPED
    assert table.send("ingress", packet(far, own, 4000, client)) == DROPPED
    assert table.send("egress", packet(own, far, 4000, server)) == DROPPED


def test_what_is_no_ip_passes(table: Table) -> None:
    assert both(table, p.ethernet(0x0806, bytes(28))) == [PASSED, PASSED]


def test_a_gateway_that_moves(table: Table, path: ManagementPath) -> None:
    """What was denied as it first came is judged again when the path takes its address in, and the other way round."""
    old, new = THERE, "203.0.113.9"
    path.put((to_host(old, 6, 443),), ALWAYS)
    assert table.send("egress", tcp(HERE, old, 40000, 443, p.SYN)) == PASSED
    assert table.send("ingress", tcp(old, HERE, 443, 40000, p.SYN | p.ACK)) == PASSED
    for _ in range(2):
        assert table.send("egress", tcp(HERE, new, 40001, 443, p.SYN)) == DROPPED
    assert path.put((to_host(old, 6, 443), to_host(new, 6, 443)), ALWAYS)
    assert not path.put((to_host(new, 6, 443), to_host(old, 6, 443)), ALWAYS), "the same is no change"
    assert table.send("egress", tcp(HERE, new, 40001, 443, p.SYN)) == PASSED
    assert table.send("ingress", tcp(new, HERE, 443, 40001, p.SYN | p.ACK)) == PASSED
    assert table.send("egress", tcp(HERE, old, 40000, 443, p.ACK)) == PASSED, "a session uses it"
    path.put((to_host(new, 6, 443),), ALWAYS)
    assert table.send("egress", tcp(HERE, old, 40000, 443, p.ACK)) == DROPPED
    assert table.send("ingress", tcp(old, HERE, 443, 40000, p.ACK)) == DROPPED
    assert table.send("egress", tcp(HERE, new, 40001, 443, p.ACK)) == PASSED


def test_two_changes_between_two_packets_hide_nothing(table: Table, path: ManagementPath) -> None:
    """The bit in a verdict is the same after two changes: a denied packet on its way out asks anyway."""
    path.put((), ALWAYS)
    assert table.send("egress", tcp(HERE, THERE, 40000, 443, p.SYN)) == DROPPED
    path.put((to_host("203.0.113.9", 6, 443),), ALWAYS)
    path.put((to_host(THERE, 6, 443),), ALWAYS)
    assert table.send("egress", tcp(HERE, THERE, 40000, 443, p.SYN)) == PASSED


def test_the_path_is_no_hole(table: Table, path: ManagementPath) -> None:
    """The gateway may answer, not call; its address is no free pass for other ports, protocols and neighbours of it."""
    path.put((to_host(THERE, 6, 443), to_host(THERE, 17, 53)), ALWAYS)
    assert table.send("ingress", tcp(THERE, HERE, 443, 22, p.SYN)) == DROPPED
    assert table.send("ingress", tcp(THERE, HERE, 50000, 443, p.SYN)) == DROPPED, "a service of this host's"
    assert table.send("egress", tcp(HERE, THERE, 40000, 444, p.SYN)) == DROPPED
    assert table.send("egress", udp(HERE, THERE, 40000, 443)) == DROPPED
    assert table.send("egress", tcp(HERE, "198.51.100.6", 40000, 443, p.SYN)) == DROPPED
    assert table.send("egress", udp(HERE, THERE, 40000, 53)) == PASSED
    assert table.send("ingress", udp(THERE, HERE, 53, 40000)) == PASSED
    assert table.send("ingress", udp(THERE, HERE, 53, 40001)) == DROPPED, "an answer to nothing"


def test_what_the_operator_allows(table: Table, path: ManagementPath) -> None:
    allowed = parse_allowed(("ingress:tcp:198.51.100.0/24:22", "egress:udp:[2001:db8::123/128]:123"))
    path.put(allowed, ALWAYS)
    assert table.send("ingress", tcp(THERE, HERE, 50000, 22, p.SYN)) == PASSED
    assert table.send("egress", tcp(HERE, THERE, 22, 50000, p.SYN | p.ACK)) == PASSED
    assert table.send("ingress", tcp("198.51.101.7", HERE, 50000, 22, p.SYN)) == DROPPED
    ntp = p.ipv6("2001:db8::1", "2001:db8::123", p.UDP, p.udp(123, 123))
    assert table.send("egress", p.ethernet(p.IPV6, ntp)) == PASSED


def test_it_holds_beside_a_trial_and_the_table_has_room_for_so_many(
    table: Table, path: ManagementPath
) -> None:
    many = [to_host(f"203.0.113.{number}", 6, 443) for number in range(MOST)]
    path.put(many, ALWAYS)
    assert table.send("egress", tcp(HERE, f"203.0.113.{MOST - 1}", 40000, 443, p.SYN)) == PASSED
    with pytest.raises(MapFull):
        path.put([*many, to_host(THERE, 6, 443)], ALWAYS)
    assert table.send("egress", tcp(HERE, "203.0.113.0", 40000, 443, p.SYN)) == PASSED


@contextlib.contextmanager
def denied_host(world: Any, managed: Sequence[Managed]) -> Iterator[ManagementPath]:
    """Everything denied at a's interface and to every subject."""
    with world.a.entered():
        installed = Datapath.install(
            CORE,
            constants=CONSTANTS,
            map_sizes={"aegis_flows": 4096, "aegis_owners": 1024},
            interfaces=[world.a.index],
            cgroup_root=world.cgroup,
            pin_dir=None,
        )
    try:
        with (
            contextlib.closing(PolicySlots.of(installed)) as slots,
            contextlib.closing(ManagementPath.of(installed)) as path,
        ):
            path.put(managed)
            Table(installed.object, None, slots).apply(*DENY_ALL)  # type: ignore[arg-type]
            yield path
    finally:
        with world.a.entered():
            installed.close()


def opens(source: Any, address: str, port: int) -> bool:
    with source.socket() as client:
        client.settimeout(0.4)
        with contextlib.suppress(TimeoutError):
            client.connect((address, port))
            client.sendall(b"hello")
            return bool(client.recv(5) == b"hello")
        return False


def serve(server: socket.socket) -> None:
    """Echo to each who comes, at the same time, until the socket is shut down."""
    while True:
        try:
            peer, _ = server.accept()
        except OSError:
            return
        threading.Thread(target=echo, args=(peer,), daemon=True).start()


def echo(peer: socket.socket) -> None:
    with peer, contextlib.suppress(OSError):
        while data := peer.recv(5):
            peer.sendall(data)


def test_real_connections_past_a_deny_all(world: Any) -> None:
    """A gateway's address that is added while a session to the old one goes on; a service that is none of the path."""
    with world.b.entered():
        servers = [socket.create_server(("0.0.0.0", 0)) for _ in range(2)]
    gateway, other = (each.getsockname()[1] for each in servers)

    threads = [threading.Thread(target=serve, args=(each,), daemon=True) for each in servers]
    for thread in threads:
        thread.start()
    with world.b.netlink() as netlink:
        netlink.add_address(world.b.interface, "10.77.0.3/24")
    with world.a.netlink() as netlink:
        netlink.add_neighbour(world.a.interface, "10.77.0.3", world.b.mac)
    assert opens(world.a, world.b.v4, gateway)
    with denied_host(world, [to_host(world.b.v4, 6, gateway)]) as path:
        assert opens(world.a, world.b.v4, gateway)
        assert not opens(world.a, world.b.v4, other)
        assert not opens(world.a, "10.77.0.3", gateway)
        with world.a.socket() as session:
            session.settimeout(2)
            session.connect((world.b.v4, gateway))
            path.put([to_host(world.b.v4, 6, gateway), to_host("10.77.0.3", 6, gateway)])
            assert opens(world.a, "10.77.0.3", gateway)
            session.sendall(b"still")
            assert session.recv(5) == b"still"
    for each in servers:
        each.shutdown(socket.SHUT_RDWR)
        each.close()
    for thread in threads:
        thread.join(5)
