"""Resolve, then connect at once, in namespaces of the test's own: what is allowed by name passes, nothing else does."""

from __future__ import annotations

import random
import socket

import pytest

from aegis.kernel.names_reference import Count
from tests.support import dns
from tests.support.dns_vectors import DEEP, VECTORS, WWW
from tests.support.names_kernel import GRACE_S, boot_s
from tests.support.names_mutants import PASSING, REFUSING, compiled
from tests.support.names_world import ResolveWorld, resolving
from tests.support.scale import scaled, seed
from tests.support.world import World

pytestmark = pytest.mark.require("root", "bpf", "tcx")

FAMILIES = (socket.AF_INET, socket.AF_INET6)


def refused(where: ResolveWorld) -> int:
    """SYNs the gate has dropped so far."""
    return int.from_bytes(where.probe.object.map("probe_gate").lookup(bytes(4))[8:16], "little")  # type: ignore[index]


def refused_of_allowed(where: ResolveWorld, turns: int) -> int:
    """Fresh names of interest with fresh addresses, the last of which is connected to at once: how many are refused."""
    rng, lost = where.rng, 0
    where.probe.watch(WWW, f"**.{DEEP}")
    for turn in range(turns):
        reply = where.resolve(
            rng.choice(FAMILIES),
            where.fresh_name(DEEP),
            rng.choice((dns.A, dns.AAAA)),
            aliases=rng.randrange(4),
            addresses=rng.choice((1, 1, 2, 3, 8, 32)),
        )
        before = refused(where)
        connected = where.connects(reply.addresses[-1], wait_s=0.3)
        lost += not connected or refused(where) != before
        if not turn % 500:
            where.probe.forget()
    return lost


def passed_of_others(where: ResolveWorld, turns: int) -> int:
    """Addresses of names of no interest, of names next to those of interest, and of no name: how many are let through."""
    rng, passed = where.rng, 0
    where.probe.watch(WWW, f"**.{DEEP}")
    for turn in range(turns):
        kind = rng.choice((dns.A, dns.AAAA))
        known = where.resolve(rng.choice(FAMILIES), where.fresh_name(DEEP), kind)
        near = (f"x{WWW}", f"x.{WWW}", f"{WWW}.test", DEEP, "example.com")
        name = (where.fresh_name("of-no-interest.test"), *near)[turn % 6]
        other = where.resolve(rng.choice(FAMILIES), name, kind, addresses=2)
        passed += where.connects(other.addresses[0], wait_s=0.02)
        passed += where.connects(where.fresh_address(kind), wait_s=0.02)
        assert where.connects(known.addresses[0])
    return passed


def test_who_resolves_connects_at_once(world: World) -> None:
    with resolving(world, random.Random(seed())) as where:
        assert refused_of_allowed(where, scaled(300, 10_000)) == 0, seed()


def test_no_other_address_passes(world: World) -> None:
    with resolving(world, random.Random(seed())) as where:
        assert passed_of_others(where, scaled(20, 1_000)) == 0, seed()
        assert where.probe.names.counts()["asked_other"] >= 20


@pytest.mark.parametrize("name", REFUSING)
def test_a_planted_bug_that_refuses_is_caught(world: World, name: str) -> None:
    with resolving(world, random.Random(1), compiled(name, REFUSING)) as where:
        assert refused_of_allowed(where, 8) > 0


@pytest.mark.parametrize("name", PASSING)
def test_a_planted_bug_that_lets_through_is_caught(world: World, name: str) -> None:
    with resolving(world, random.Random(1), compiled(name, PASSING)) as where:
        assert passed_of_others(where, 10) > 0


def test_what_is_over_does_not_pass(world: World) -> None:
    with resolving(world, random.Random(1)) as where:
        (number,) = where.probe.watch(WWW).values()
        address, now = where.fresh_address(dns.A), boot_s()
        where.probe.names.bind(dns.mapped(address), number, 0, now - GRACE_S)
        assert not where.connects(address, wait_s=0.02)
        where.probe.names.bind(dns.mapped(address), number, 10, now)
        assert where.connects(address)


@pytest.mark.parametrize("family", FAMILIES, ids=["v4", "v6"])
def test_hostile_answers_bind_nothing(world: World, family: int) -> None:
    """Every vector once more, through the network stack, so also those that are too long for a test run."""
    server = (world.b.v4 if family == socket.AF_INET else world.b.v6, 53)
    _set_mtu(world)
    with resolving(world, random.Random(1)) as where:
        where.probe.watch(WWW, f"**.{DEEP}")
        for name, vector in VECTORS.items():
            if vector.others:
                continue
            raw = b"".join(bytes([len(part)]) + part.encode("latin-1") for part in vector.name.split("."))
            with world.a.socket(family, socket.SOCK_DGRAM) as client:
                client.settimeout(5)
                client.connect(server)
                client.send(dns.query(raw + b"\0", vector.kind))
                _, sender = where.resolver[family].recvfrom(4096)
                where.probe.counted()
                where.resolver[family].sendto(vector.message, sender)
                assert client.recv(8192) == vector.message, name
            counted = {key: value for key, value in where.probe.counted().items() if key in set(Count)}
            assert counted == {vector.count.value: 1}, name
            assert set(where.probe.bound()) == {dns.mapped(address) for address, _ in vector.teaches}, name
            where.probe.forget()


def _set_mtu(world: World) -> None:
    for place in (world.a, world.b):
        place.command("ip", "link", "set", place.interface, "mtu", "9000")


def test_an_answer_over_tcp(world: World) -> None:
    """After a truncated one, as clients do: question and answer of one segment each."""
    with resolving(world, random.Random(1)) as where, world.b.socket() as listener:
        where.probe.watch(WWW)
        listener.bind((world.b.v4, 53))
        listener.listen()
        for aliases in (0, 3):
            name = WWW
            query = dns.query(name, number=77)
            with world.a.socket() as client:
                client.connect((world.b.v4, 53))
                accepted, _ = listener.accept()
                with accepted:
                    client.sendall(len(query).to_bytes(2, "big") + query)
                    assert accepted.recv(4096)[2:] == query
                    reply = where.reply(query, name, dns.A, aliases=aliases, addresses=3)
                    accepted.sendall(len(reply.message).to_bytes(2, "big") + reply.message)
                    assert client.recv(4096)[2:] == reply.message
            assert where.connects(reply.addresses[2])
        assert refused(where) == 0


def test_an_answer_over_tcp_in_two_segments_is_not_read(world: World) -> None:
    with resolving(world, random.Random(1)) as where, world.b.socket() as listener:
        where.probe.watch(WWW)
        listener.bind((world.b.v4, 53))
        listener.listen()
        query = dns.query(WWW, number=78)
        with world.a.socket() as client:
            client.connect((world.b.v4, 53))
            accepted, _ = listener.accept()
            with accepted:
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                client.sendall(len(query).to_bytes(2, "big") + query)
                accepted.recv(4096)
                reply = where.reply(query, WWW, dns.A, aliases=0, addresses=3)
                accepted.sendall(len(reply.message).to_bytes(2, "big") + reply.message[:20])
                assert client.recv(4096)
                accepted.sendall(reply.message[20:])
                assert client.recv(4096)
        assert where.probe.bound() == {}
        assert where.probe.names.counts()["split"] >= 1


def test_a_stub_on_the_loopback(world: World) -> None:
    """The resolver is 127.0.0.53: question and answer never leave the host, and its loopback has the programs."""
    from aegis.kernel import tc
    from aegis.kernel.tc import Direction

    with resolving(world, random.Random(1)) as where:
        where.probe.watch(WWW)
        where.probe.names.set_resolvers([dns.mapped("127.0.0.53")])
        with world.a.entered():
            loopback = socket.if_nametoindex("lo")
            hooks = [
                tc.attach(where.probe.object.program(f"probe_names_{way.name.lower()}"), loopback, way)
                for way in Direction
            ]
        with (
            world.a.socket(kind=socket.SOCK_DGRAM) as stub,
            world.a.socket(kind=socket.SOCK_DGRAM) as client,
        ):
            stub.bind(("127.0.0.53", 53))
            stub.settimeout(5)
            client.settimeout(5)
            client.connect(("127.0.0.53", 53))
            for number in range(scaled(50, 3_000)):
                query = dns.query(WWW, number=number)
                client.send(query)
                asked, sender = stub.recvfrom(4096)
                reply = where.reply(asked, WWW, dns.A, aliases=number % 3, addresses=2)
                stub.sendto(reply.message, sender)
                assert client.recv(4096) == reply.message
                assert where.connects(reply.addresses[1])
        for hook in hooks:
            hook.close()
        assert refused(where) == 0


def test_fragments_teach_nothing(world: World) -> None:
    """An answer longer than the link's packets comes in pieces: nothing of it is believed."""
    with resolving(world, random.Random(1)) as where:
        where.probe.watch(WWW)
        query = dns.query(WWW, number=9)
        with world.a.socket(kind=socket.SOCK_DGRAM) as client:
            client.settimeout(5)
            client.connect((world.b.v4, 53))
            client.send(query)
            _, sender = where.resolver[socket.AF_INET].recvfrom(4096)
            reply = where.reply(query, WWW, dns.A, aliases=0, addresses=3)
            where.resolver[socket.AF_INET].sendto(reply.message + bytes(2000), sender)
            assert len(client.recv(8192)) == len(reply.message) + 2000
        assert where.probe.bound() == {}
        assert where.probe.names.counts()["split"] >= 1
