"""The socket sensor tells each connection's begin and end once, with addresses, ports, process and outcome."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import random
import socket
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from aegis._native import records
from aegis.host import children
from aegis.kernel import abi, links
from aegis.kernel.constants import Constants
from aegis.kernel.object import BpfObject
from tests.support.observed import Observed, Record, observed
from tests.support.scale import scaled
from tests.support.world import World

pytestmark = [pytest.mark.require("root", "bpf", "tracing", "ringbuf")]

PID, START, UID, CGROUP_ID, COOKIE = 3, 4, 5, 6, 7
SOURCE, DESTINATION, SOURCE_PORT, DESTINATION_PORT, PROTOCOL, LABEL, COMM, ERROR = range(8, 16)
SO_COOKIE = 57

PROGRAMS = ("tp_sock_begin", "tp_sock_state", "tp_sock_state_again")


@pytest.fixture(scope="module")
def sensor() -> Iterator[Observed]:
    with observed(*PROGRAMS) as sensor:
        yield sensor


def between(*ports: int) -> Callable[[Record], bool]:
    """Records in which one of these ports has a part: they are of this test alone."""
    wanted = frozenset(ports)
    return lambda record: not wanted.isdisjoint(record[SOURCE_PORT : DESTINATION_PORT + 1])


def packed(address: str) -> bytes:
    parsed = ipaddress.ip_address(address)
    return parsed.packed if parsed.version == 6 else bytes(10) + b"\xff\xff" + parsed.packed


def cookie_of(one: socket.socket) -> int:
    return int.from_bytes(one.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8), "little")


def ends(record: Record) -> tuple[bytes, int, bytes, int]:
    return record[SOURCE], record[SOURCE_PORT], record[DESTINATION], record[DESTINATION_PORT]


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_one_connection(sensor: Observed, family: socket.AddressFamily, address: str) -> None:
    sensor.take()
    with socket.socket(family) as listener, socket.socket(family) as client:
        listener.bind((address, 0))
        listener.listen()
        port = listener.getsockname()[1]
        client.connect((address, port))
        accepted, _ = listener.accept()
        with accepted:
            own = client.getsockname()[1]
            cookies = [cookie_of(one) for one in (listener, client, accepted)]
    listen, connect, accept = sensor.take(between(port))
    assert [listen[0], connect[0], accept[0]] == [records.LISTEN, records.CONNECT, records.ACCEPT]
    assert [listen[COOKIE], connect[COOKIE], accept[COOKIE]] == cookies
    here = packed(address)
    assert ends(listen) == (here, port, bytes(16) if family == socket.AF_INET6 else packed("0.0.0.0"), 0)
    assert ends(connect) == ends(accept) == (here, own, here, port)
    for record in (listen, connect):
        assert record[PID] == os.getpid()
        assert record[UID] == os.getuid()
        assert record[PROTOCOL] == socket.IPPROTO_TCP
        assert record[ERROR] == 0
        assert record[CGROUP_ID] > 0


def test_an_ipv4_connection_of_an_ipv6_socket_is_mapped(sensor: Observed) -> None:
    sensor.take()
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_INET6) as client:
        port = listener.getsockname()[1]
        client.connect(("::ffff:127.0.0.1", port))
        own = client.getsockname()[1]
    connect = next(each for each in sensor.take(between(port)) if each[0] == records.CONNECT)
    assert ends(connect) == (packed("127.0.0.1"), own, packed("127.0.0.1"), port)


def test_a_refused_connection(sensor: Observed) -> None:
    sensor.take()
    with socket.socket() as reserved, socket.socket() as client:
        reserved.bind(("127.0.0.1", 0))  # bound and not listening: refused, and nobody else's
        port = reserved.getsockname()[1]
        client.bind(("127.0.0.1", 0))
        own = client.getsockname()[1]
        assert client.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED
    (connect,) = sensor.take(between(port))
    assert connect[0] == records.CONNECT
    assert connect[ERROR] == errno.ECONNREFUSED
    assert ends(connect) == (packed("127.0.0.1"), own, packed("127.0.0.1"), port)
    assert connect[PID] == os.getpid()


def test_a_refused_connection_has_the_port_the_kernel_picked(sensor: Observed) -> None:
    sensor.take()
    with socket.socket() as reserved, socket.socket() as client:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        client.setblocking(False)
        assert client.connect_ex(("127.0.0.1", port)) in (errno.EINPROGRESS, errno.ECONNREFUSED)
    (connect,) = sensor.take(between(port))
    assert connect[SOURCE_PORT] > 0


def test_a_connection_given_up(sensor: Observed, world: World) -> None:
    """Nobody answers at an address that only has a neighbour entry; the client closes before the kernel gives up."""
    with world.a.netlink() as netlink:
        netlink.add_neighbour(world.a.interface, "10.77.0.99", world.b.mac)
    port = random.randrange(20_000, 60_000)
    sensor.take()
    with world.a.socket() as client:
        client.setblocking(False)
        assert client.connect_ex(("10.77.0.99", port)) == errno.EINPROGRESS
        own = client.getsockname()[1]
        assert sensor.take(between(port)) == []
    (connect,) = sensor.take(between(port))
    assert connect[ERROR] == errno.ECANCELED
    assert ends(connect) == (packed(world.a.v4), own, packed("10.77.0.99"), port)


def connect_often(address: str, port: int, count: int) -> tuple[int, list[int]]:
    """Pid and source ports of a process that connects `count` times, one after the other."""
    ports = []
    for _ in range(count):
        with socket.create_connection((address, port)) as one:
            ports.append(one.getsockname()[1])
            assert one.recv(1) == b""
    return os.getpid(), ports


@pytest.mark.parametrize("version", ["v4", "v6"])
@pytest.mark.parametrize("count", [1, 997])
def test_each_connection_once(sensor: Observed, world: World, version: str, count: int) -> None:
    address = getattr(world.a, version)
    with contextlib.ExitStack() as stack:
        family = socket.AF_INET6 if version == "v6" else socket.AF_INET
        listener = stack.enter_context(world.a.socket(family))
        listener.bind((address, 0))
        listener.listen(64)
        port = listener.getsockname()[1]
        sensor.take()
        child = stack.enter_context(world.b.start(connect_often, address, port, count, cgroup=world.cgroup))
        for _ in range(count):
            one, _ = listener.accept()
            one.close()
        pid, ports = child.result(60)
    found = sensor.take(between(port))
    connects = [record for record in found if record[0] == records.CONNECT]
    accepts = [record for record in found if record[0] == records.ACCEPT]
    assert len(found) == 2 * count
    assert [record[SOURCE_PORT] for record in connects] == ports
    assert sorted(record[SOURCE_PORT] for record in accepts) == sorted(ports)
    assert {record[PID] for record in connects} == {pid}
    assert {record[CGROUP_ID] for record in connects} == {os.stat(world.cgroup).st_ino}
    assert {record[ERROR] for record in found} == {0}
    peer = packed(getattr(world.b, version))
    assert {record[SOURCE] for record in found} == {peer}
    assert {record[DESTINATION] for record in found} == {packed(address)}


def test_a_storm_is_told_to_the_connection(sensor: Observed) -> None:
    """Softirqs interrupt the programs now and then, and the kernel skips the one they interrupt."""
    count, clients = scaled(1_009, 25_013), 4
    sensor.take()
    found: list[Record] = []
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        target = listener.getsockname()
        with contextlib.ExitStack() as stack:
            started = [
                stack.enter_context(children.call(connect_often, *target, count)) for _ in range(clients)
            ]
            for _ in range(clients * count):
                listener.accept()[0].close()
                found += sensor.take(between(target[1]))
            pids = {child.result(60)[0] for child in started}
    found += sensor.take(between(target[1]))
    for kind in (records.CONNECT, records.ACCEPT):
        told = [record for record in found if record[0] == kind]
        assert len(told) == clients * count
        assert len({record[COOKIE] for record in told}) == clients * count
    assert Counter(record[PID] for record in found if record[0] == records.CONNECT) == dict.fromkeys(
        pids, count
    )


def test_who_connects_is_who_called(sensor: Observed) -> None:
    """The socket is made here and connected by a child: the child is named."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as passed:
        target = listener.getsockname()
        sensor.take()
        child = os.fork()
        if not child:
            os._exit(passed.connect_ex(target))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    connect = next(each for each in sensor.take(between(target[1])) if each[0] == records.CONNECT)
    assert connect[PID] == child


def test_without_a_route_nothing_begins(sensor: Observed, world: World) -> None:
    sensor.take()
    with world.b.socket() as client:
        assert client.connect_ex(("192.0.2.1", 7)) == errno.ENETUNREACH
        assert sensor.take(lambda record: record[COOKIE] == cookie_of(client)) == []


def test_accepts_name_the_listener_where_owners_are_kept(world: World) -> None:
    """The object `core` labels sockets; an accepted one inherits its listener's label."""
    with contextlib.ExitStack() as stack:
        core = stack.enter_context(
            BpfObject.open(
                "core",
                constants=Constants(agent_tgid=0, ring_bytes=1 << 20, ring_reserved_bytes=0),
                map_sizes={"aegis_ring": 1 << 20, "aegis_flows": 64},
                autoload={"cgroup_sock_create_owner", "tp_sock_relabel"},
            )
        )
        core.load()
        stack.enter_context(links.attach_tracing(core.program("tp_sock_relabel")))
        reuse = {name: core.map(name) for name in ("aegis_sk_owner", "aegis_owners")}
        sensor = stack.enter_context(observed(*PROGRAMS, reuse=reuse))
        listener = stack.enter_context(world.a.socket())
        listener.bind((world.a.v4, 0))
        listener.listen(64)
        port = listener.getsockname()[1]
        child = stack.enter_context(world.b.start(connect_often, world.a.v4, port, 31))
        for _ in range(31):
            listener.accept()[0].close()
        child.result(60)
        accepts = [record for record in sensor.take(between(port)) if record[0] == records.ACCEPT]
    assert len(accepts) == 31
    assert {record[PID] for record in accepts} == {os.getpid()}
    assert {record[LABEL] for record in accepts} == {abi.OWNER_PROCESS}
    assert {record[UID] for record in accepts} == {os.getuid()}
    assert len({record[START] for record in accepts}) == 1


def test_accepts_without_owners_say_unknown(sensor: Observed) -> None:
    sensor.take()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        target = listener.getsockname()
        with socket.create_connection(target):
            pass
    accept = next(each for each in sensor.take(between(target[1])) if each[0] == records.ACCEPT)
    assert accept[PID] == 0
    assert accept[LABEL] == abi.OWNER_UNKNOWN
