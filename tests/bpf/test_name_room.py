"""Names while the agent runs, on a host of the test's own: lookups at commit, a resolver on the host, open flows."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aegis.agent.name_room import NameRoom
from aegis.kernel.datapath import Datapath
from aegis.kernel.datapath_plan import CORE
from aegis.kernel.enforcer import Enforcer
from aegis.kernel.names import GRACE_S
from aegis.kernel.names_resolvers import Resolvers
from aegis.kernel.policy_sides import Sides
from aegis.kernel.policy_slots import PolicySlots
from aegis.model.policy_selectors import Feature
from aegis.runtime.clock import SystemClock
from aegis.runtime.health import Conditions
from tests.support import dns
from tests.support.dns_vectors import WWW
from tests.support.flows import CONSTANTS, boottime_ns
from tests.support.names_kernel import boot_s
from tests.support.names_policy import document, named
from tests.support.names_world import PORT, Resolving
from tests.support.world import World

pytestmark = pytest.mark.require("root", "bpf", "tcx")

STUB = "127.0.0.53"


class Quiet:
    """A log nobody reads."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


class Roomed(Resolving):
    """The resolving world under the agent's room of names."""

    def __init__(self, world: World, stack: contextlib.ExitStack, directory: Path, *resolvers: str) -> None:
        super().__init__(world, random.Random(1), stack)
        with world.a.entered():
            self.path = Datapath.install(
                CORE,
                constants=CONSTANTS,
                map_sizes={"aegis_flows": 4096, "aegis_owners": 1024},
                interfaces=[world.a.index],
                cgroup_root=world.cgroup,
                pin_dir=None,
            )
        stack.callback(self.stop)
        self.conditions = Conditions(SystemClock())
        self.resolvers = [dns.mapped(each) for each in resolvers]
        self.room = NameRoom(
            self.conditions.scoped("agent"),
            Quiet(),
            boottime_ns,
            find=lambda _: Resolvers(addresses=tuple(self.resolvers)),
        )
        with world.a.entered():
            side = self.room.open(self.path)
        self.enforcer = Enforcer(directory, PolicySlots.of(self.path), sides=Sides({Feature.NAMES: side}))
        self.enforcer.start()

    def stop(self) -> None:
        self.enforcer.close()
        with self.world.a.entered():
            self.room.close()
            self.path.close()

    def run(self, *steps: Any) -> None:
        """Run coroutines of the room one after the other, in the host's namespace."""

        async def all_of_them() -> None:
            for step in steps:
                await step()

        with self.world.a.entered():
            asyncio.run(all_of_them())

    @property
    def names(self) -> Any:
        return self.room._names

    def lines(self) -> dict[str, str]:
        return {each.name: each.reason for each in self.room.features() if each.state != "ok"}


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as made:
        yield made


def test_names_are_looked_up_at_commit(world: World, tmp_path: Path, stack: contextlib.ExitStack) -> None:
    """What a program knows already nobody asks for again; the answer comes to a socket of the agent's own."""
    roomed = Roomed(world, stack, tmp_path, world.b.v4)
    told: list[str] = []

    def serve() -> None:
        for _ in range(4):
            query, sender = roomed.resolver[socket.AF_INET].recvfrom(4096)
            name = WWW if b"\x03www" in query else "none.test"
            kind = int.from_bytes(query[-15:-13], "big")
            number = int.from_bytes(query[:2], "big")
            reply = dns.answer(name, [], kind, number=number)
            if (name, kind) == (WWW, dns.A):
                answer = roomed.reply(query, name, dns.A, aliases=1, addresses=2)
                told.extend(answer.addresses)
                reply = answer.message
            roomed.resolver[socket.AF_INET].sendto(reply, sender)

    assert roomed.lines() == {}
    roomed.enforcer.apply(document(named(WWW, "none.test", "*.deep.test")))
    thread = threading.Thread(target=serve)
    thread.start()
    roomed.run(roomed.room.look_up)
    thread.join()
    assert len(told) == 2
    assert all(roomed.connects(address) for address in told)
    assert roomed.lines()["names_unresolved"] == "none.test: it has no address"


def test_keep_looks_up_what_is_put(world: World, tmp_path: Path, stack: contextlib.ExitStack) -> None:
    roomed = Roomed(world, stack, tmp_path, world.b.v4)
    roomed.enforcer.apply(document(named(WWW)))
    seen: list[bytes] = []

    def serve() -> None:
        for _ in range(2):
            query, sender = roomed.resolver[socket.AF_INET].recvfrom(4096)
            seen.append(query)
            kind = int.from_bytes(query[-15:-13], "big")
            reply = dns.answer(WWW, [], kind, number=int.from_bytes(query[:2], "big"))
            roomed.resolver[socket.AF_INET].sendto(reply, sender)

    async def a_while() -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(roomed.room.keep(), 1)

    thread = threading.Thread(target=serve)
    thread.start()
    roomed.run(a_while)
    thread.join()
    assert len(seen) == 2


def test_a_resolver_on_the_host(world: World, tmp_path: Path, stack: contextlib.ExitStack) -> None:
    """Its answers cross the loopback only, which is read for names while a policy names some, and judged by nobody."""
    roomed = Roomed(world, stack, tmp_path, STUB)
    roomed.enforcer.apply(document(named(WWW)))
    assert "loopback" in roomed.lines()["names"]
    roomed.run(roomed.room.look)
    assert "names" not in roomed.lines()
    stub = stack.enter_context(world.a.socket(kind=socket.SOCK_DGRAM))
    client = stack.enter_context(world.a.socket(kind=socket.SOCK_DGRAM))
    stub.bind((STUB, 53))
    for each in (stub, client):
        each.settimeout(5)
    client.connect((STUB, 53))
    for number in range(20):
        client.send(dns.query(WWW, number=number))
        query, sender = stub.recvfrom(4096)
        reply = roomed.reply(query, WWW, dns.A, aliases=number % 3, addresses=2)
        stub.sendto(reply.message, sender)
        assert client.recv(4096) == reply.message
        assert roomed.connects(reply.addresses[1])
    roomed.enforcer.remove("names")
    roomed.run(roomed.room.look)
    assert roomed.room._hooks == []


def test_other_resolvers_are_taken_on(world: World, tmp_path: Path, stack: contextlib.ExitStack) -> None:
    roomed = Roomed(world, stack, tmp_path, "192.0.2.53")
    roomed.enforcer.apply(document(named(WWW)))
    assert not roomed.connects(roomed.resolve(socket.AF_INET, WWW, dns.A).addresses[0], wait_s=0.02)
    roomed.resolvers[:] = [dns.mapped(world.b.v4)]
    roomed.run(roomed.room.look)
    assert roomed.connects(roomed.resolve(socket.AF_INET, WWW, dns.A).addresses[0])
    roomed.resolvers.clear()
    roomed.run(roomed.room.look)
    assert [each.code for each in roomed.conditions.all()] == ["names_unavailable"]


def test_what_an_open_flow_uses_is_kept(world: World, tmp_path: Path, stack: contextlib.ExitStack) -> None:
    """So that a change of the policy, which judges flows again, does not cut what was allowed by a name."""
    roomed = Roomed(world, stack, tmp_path, world.b.v4)
    roomed.enforcer.apply(document(named(WWW)))
    plan = roomed.room._plan
    assert plan is not None
    used, unused = roomed.fresh_address(dns.A), roomed.fresh_address(dns.A)
    now = boot_s()
    for address in (used, unused):
        roomed.names.bind(dns.mapped(address), plan.class_of(WWW), 5 - GRACE_S, now)
    client = stack.enter_context(world.a.socket())
    client.connect((used, PORT))
    stack.enter_context(roomed.listener[socket.AF_INET].accept()[0])
    roomed.run(roomed.room.look)
    until = {each.address: max(each.classes.values()) for each in roomed.names.bindings()}
    assert until[dns.mapped(used)] >= now + GRACE_S
    assert until[dns.mapped(unused)] == now + 5
