"""Who is judged: the task that connects or sends, the maker of the socket, and for packets the last who used it."""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import testers
from tests.support.flows import family_of
from tests.support.subjects import Judged, deny, judged
from tests.support.world import World

pytestmark = pytest.mark.require("root", "bpf", "cgroup", "tracing", "sk_storage", "iterators")

DENIED, ALLOWED = "system.slice/denied.service", "system.slice/allowed.service"


@pytest.fixture(params=[4, 6])
def ends(request: pytest.FixtureRequest, world: World) -> tuple[str, str]:
    return (world.a.v4, world.b.v4) if request.param == 4 else (world.a.v6, world.b.v6)


@pytest.fixture
def units(world: World) -> tuple[Path, Path]:
    return world.make_cgroup(DENIED), world.make_cgroup(ALLOWED)


@pytest.fixture
def host(world: World, units: tuple[Path, Path]) -> Iterator[Judged]:
    with judged(world) as made:
        made.apply(deny(unit="denied.service"))
        yield made


def outcome(call: object, *arguments: object) -> str:
    try:
        call(*arguments)  # type: ignore[operator]
    except TimeoutError:
        return "ETIMEDOUT"
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "passed"


@contextlib.contextmanager
def piped() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


def connect(address: str, port: int, kind: int = socket.SOCK_STREAM) -> str:
    with socket.socket(family_of(address), kind) as client:
        client.settimeout(5)
        return outcome(client.connect, (address, port))


def connect_passed(channel: socket.socket, address: str, port: int) -> str:
    _, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
    with socket.socket(fileno=descriptors[0]) as client:
        client.settimeout(5)
        return outcome(client.connect, (address, port))


def make_and_pass(channel: socket.socket, address: str, kind: int) -> None:
    with socket.socket(family_of(address), kind) as made:
        socket.send_fds(channel, [b"!"], [made.fileno()])


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
@pytest.mark.parametrize(
    ("maker", "user", "passes"), [(0, 1, False), (1, 0, False), (1, 1, True), (0, 0, False)]
)
def test_a_descriptor_handed_over(
    world: World,
    host: Judged,
    units: tuple[Path, Path],
    ends: tuple[str, str],
    kind: int,
    maker: int,
    user: int,
    *,
    passes: bool,
) -> None:
    """Neither may connect what the other may not."""
    ours, theirs = socket.socketpair()
    with ours, theirs, testers.tcp_server(world.b, ends[1]) as port:
        world.a.run(make_and_pass, ours, ends[1], kind, cgroup=units[maker])
        found = world.a.run(connect_passed, theirs, ends[1], port, cgroup=units[user])
        assert found == ("passed" if passes else "EPERM")


def make_move_and_connect(to: Path, address: str, port: int) -> str:
    with socket.socket(family_of(address)) as client:
        client.settimeout(5)
        (to / "cgroup.procs").write_text("0")
        return outcome(client.connect, (address, port))


@pytest.mark.parametrize("before", [0, 1])
def test_a_process_that_moves(
    world: World, host: Judged, units: tuple[Path, Path], ends: tuple[str, str], before: int
) -> None:
    """Its socket stays its maker's, and the task is where it is now."""
    with testers.tcp_server(world.b, ends[1]) as port:
        after = units[1 - before]
        found = world.a.run(make_move_and_connect, after, ends[1], port, cgroup=units[before])
        assert found == "EPERM"


def send_move_and_send(to: Path, address: str, port: int) -> tuple[str, str]:
    with socket.socket(family_of(address), socket.SOCK_DGRAM) as sender:
        first = outcome(sender.sendto, b"x", (address, port))
        (to / "cgroup.procs").write_text("0")
        return first, outcome(sender.sendto, b"x", (address, port))


def test_datagrams_without_connect(
    world: World, host: Judged, units: tuple[Path, Path], ends: tuple[str, str]
) -> None:
    with world.b.socket(family_of(ends[1]), socket.SOCK_DGRAM) as sink:
        sink.bind((ends[1], 0))
        port = sink.getsockname()[1]
        found = world.a.run(send_move_and_send, units[0], ends[1], port, cgroup=units[1])
        assert found == ("passed", "EPERM")
        found = world.a.run(send_move_and_send, units[1], ends[1], port, cgroup=units[0])
        assert found == ("EPERM", "EPERM"), "its maker was denied"
        sink.settimeout(0.2)
        assert sink.recv(10) == b"x"
        with pytest.raises(TimeoutError):
            sink.recv(10)


def test_v4_by_a_socket_of_v6(world: World, host: Judged, units: tuple[Path, Path]) -> None:
    with testers.tcp_server(world.b, world.b.v4) as port:
        assert world.a.run(connect, f"::ffff:{world.b.v4}", port, cgroup=units[0]) == "EPERM"
        assert world.a.run(connect, f"::ffff:{world.b.v4}", port, cgroup=units[1]) == "passed"


def connect_here(address: str) -> str:
    with socket.create_server((address, 0), family=family_of(address)) as server:
        return connect(address, server.getsockname()[1])


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_this_host_itself_is_no_peer(
    world: World, host: Judged, units: tuple[Path, Path], address: str
) -> None:
    assert world.a.run(connect_here, address, cgroup=units[0]) == "passed"


def test_only_what_the_rule_says(world: World, units: tuple[Path, Path]) -> None:
    with judged(world) as host, testers.tcp_server(world.b, world.b.v4) as port:
        rule = {"toCIDRSet": [{"cidr": f"{world.b.v4}/32"}], "toPorts": [{"ports": [{"port": port}]}]}
        host.apply({"mode": "enforce", "subject": {"unit": "denied.service"}, "egressDeny": [rule]})
        assert world.a.run(connect, world.b.v4, port, cgroup=units[0]) == "EPERM"
        assert world.a.run(connect, world.b.v4, port + 1, cgroup=units[0]) == "ECONNREFUSED"
        assert world.a.run(connect, world.b.v6, port, cgroup=units[0]) == "ECONNREFUSED"


def test_observe_refuses_nothing_and_counts(
    world: World, units: tuple[Path, Path], ends: tuple[str, str]
) -> None:
    with judged(world) as host, testers.tcp_server(world.b, ends[1]) as port:
        host.apply({**deny(unit="denied.service"), "mode": "observe"})
        assert world.a.run(connect, ends[1], port, cgroup=units[0]) == "passed"
        assert (host.counted("audited"), host.counted("refused")) == (1, 0)


def connect_as(uid: int, address: str, port: int) -> str:
    os.setuid(uid)
    return connect(address, port)


def test_users(world: World, units: tuple[Path, Path], ends: tuple[str, str]) -> None:
    nobody = pwd.getpwnam("nobody").pw_uid
    with judged(world) as host, testers.tcp_server(world.b, ends[1]) as port:
        host.apply(deny(user="nobody"), deny(user="4242", unit="denied.service"))
        assert world.a.run(connect_as, nobody, ends[1], port, cgroup=units[1]) == "EPERM"
        assert world.a.run(connect_as, 4241, ends[1], port, cgroup=units[0]) == "passed"
        assert world.a.run(connect_as, 4242, ends[1], port, cgroup=units[1]) == "passed"
        assert world.a.run(connect_as, 4242, ends[1], port, cgroup=units[0]) == "EPERM"
        assert world.a.run(connect, ends[1], port, cgroup=units[0]) == "passed"


def accept_one(address: str, announce: int) -> str:
    with socket.create_server((address, 0), family=family_of(address)) as listener:
        listener.settimeout(3)
        os.write(announce, listener.getsockname()[1].to_bytes(2, "little"))
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            return "nobody came"
        with connection:
            connection.sendall(b"hello")
            return "passed"


def try_connect(address: str, port: int) -> str:
    with socket.socket(family_of(address)) as client:
        client.settimeout(1)
        try:
            client.connect((address, port))
        except TimeoutError:
            return "ETIMEDOUT"
        return client.recv(10).decode()


@pytest.mark.parametrize(("unit", "answer"), [(0, "ETIMEDOUT"), (1, "hello")])
def test_what_comes_in_is_judged_by_who_receives(
    world: World, units: tuple[Path, Path], ends: tuple[str, str], unit: int, answer: str
) -> None:
    with piped() as ready, judged(world) as host:
        host.apply(deny(egress=False, unit="denied.service"))
        with world.a.start(accept_one, ends[0], ready[1], cgroup=units[unit]) as server:
            port = int.from_bytes(os.read(ready[0], 2), "little")
            assert world.b.run(try_connect, ends[0], port) == answer
            assert server.result(10) == ("passed" if unit else "nobody came")
        refused = world.b.run(connect, ends[0], port)
        assert refused == "ECONNREFUSED", "nobody's port is nobody's"


def sends_on(address: str, port: int, announce: int, go: int) -> list[str]:
    """A connection open before the policy, used after it."""
    with socket.create_connection((address, port), timeout=5) as client:
        os.write(announce, b"!")
        os.read(go, 1)
        client.sendall(b"x" * 100)
        client.shutdown(socket.SHUT_WR)
        client.settimeout(1)
        try:
            return ["closed" if not client.recv(1) else "data"]
        except TimeoutError:
            return ["ETIMEDOUT"]


@pytest.mark.parametrize(("unit", "answer"), [(0, "ETIMEDOUT"), (1, "closed")])
def test_an_open_connection_is_cut_by_its_packets(
    world: World, units: tuple[Path, Path], ends: tuple[str, str], unit: int, answer: str
) -> None:
    with (
        piped() as ready,
        piped() as go,
        judged(world) as host,
        testers.tcp_server(world.b, ends[1]) as port,
        world.a.start(sends_on, ends[1], port, ready[1], go[0], cgroup=units[unit]) as client,
    ):
        os.read(ready[0], 1)
        host.apply(deny(unit="denied.service"))
        os.write(go[1], b"!")
        assert client.result(10) == [answer]


@pytest.mark.parametrize(("unit", "answer"), [(0, "ETIMEDOUT"), (1, "closed")])
def test_a_socket_older_than_the_agent(
    world: World, units: tuple[Path, Path], ends: tuple[str, str], unit: int, answer: str
) -> None:
    """Its control group is known before the policy comes, though not when it was labelled."""
    with (
        piped() as ready,
        piped() as go,
        testers.tcp_server(world.b, ends[1]) as port,
        world.a.start(sends_on, ends[1], port, ready[1], go[0], cgroup=units[unit]) as client,
    ):
        os.read(ready[0], 1)
        with judged(world) as host:
            # In the middle of a connection who began it is taken from the ports, which are random here.
            host.apply(deny(unit="denied.service"), deny(egress=False, unit="denied.service"))
            os.write(go[1], b"!")
            assert client.result(10) == [answer]


def receive_one(address: str, port: int, announce: int) -> str:
    with socket.socket(family_of(address), socket.SOCK_DGRAM) as receiver:
        receiver.bind((address, port))
        receiver.settimeout(1)
        os.write(announce, receiver.getsockname()[1].to_bytes(2, "little"))
        try:
            return receiver.recv(10).decode()
        except TimeoutError:
            return "nothing came"


def test_a_port_that_passes_to_another_subject(
    world: World, units: tuple[Path, Path], ends: tuple[str, str]
) -> None:
    """The flow was allowed for who had the port before, and denied for who has it now, and the other way round."""
    with (
        piped() as ready,
        judged(world) as host,
        world.b.socket(family_of(ends[1]), socket.SOCK_DGRAM) as peer,
    ):
        host.apply(deny(egress=False, unit="denied.service"))
        port = 0
        for unit, answer in ((1, "x"), (0, "nothing came"), (1, "x")):
            with world.a.start(receive_one, ends[0], port, ready[1], cgroup=units[unit]) as server:
                port = int.from_bytes(os.read(ready[0], 2), "little")
                peer.sendto(b"x", (ends[0], port))
                assert server.result(10) == answer
