"""A policy with toFQDNs under default deny, by the installed datapath: its own words, its own hooks, real connections."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aegis.kernel.datapath import Datapath
from aegis.kernel.datapath_plan import CORE
from aegis.kernel.enforcer import Enforcer
from aegis.kernel.names import Names
from aegis.kernel.names_resolve import look_up
from aegis.kernel.names_side import NamesSide, learn
from aegis.kernel.policy_sides import Sides
from aegis.kernel.policy_slots import PolicySlots
from aegis.model.policy_selectors import Feature
from tests.support import dns
from tests.support.dns_vectors import DEEP, WWW
from tests.support.flows import CONSTANTS
from tests.support.names_kernel import boot_s
from tests.support.names_policy import document, named
from tests.support.names_world import PORT, Resolving
from tests.support.scale import scaled, seed
from tests.support.world import World

pytestmark = pytest.mark.require("root", "bpf", "tcx")

FAMILIES = (socket.AF_INET, socket.AF_INET6)


class Enforced(Resolving):
    """The resolving world under the installed datapath, and who gives it policies."""

    def __init__(
        self,
        world: World,
        rng: random.Random,
        stack: contextlib.ExitStack,
        directory: Path,
        pin_dir: Path | None = None,
    ) -> None:
        super().__init__(world, rng, stack)
        self._directory, self._pin_dir = directory, pin_dir
        self.start()
        stack.callback(self.stop)
        self.names.set_resolvers([dns.mapped(world.b.v4), dns.mapped(world.b.v6)])

    def start(self) -> None:
        """As an agent starts."""
        with self.world.a.entered():
            self.path = Datapath.install(
                CORE,
                constants=CONSTANTS,
                map_sizes={"aegis_flows": 16384, "aegis_owners": 1024, "aegis_names": 16384},
                interfaces=[self.world.a.index],
                cgroup_root=self.world.cgroup,
                pin_dir=self._pin_dir,
            )
        self.names = Names.of(self.path.object)
        self.side = NamesSide(self.names)
        self.enforcer = Enforcer(
            self._directory, PolicySlots.of(self.path), sides=Sides({Feature.NAMES: self.side})
        )
        self.enforcer.start()

    def stop(self) -> None:
        """As an agent ends; what is pinned stays."""
        self.enforcer.close()
        self.names.close()
        with self.world.a.entered():
            self.path.close()


@pytest.fixture
def enforced(world: World, tmp_path: Path) -> Iterator[Enforced]:
    with contextlib.ExitStack() as stack:
        yield Enforced(world, random.Random(seed()), stack, tmp_path)


def test_who_resolves_connects_at_once_and_nobody_else(enforced: Enforced) -> None:
    enforced.enforcer.apply(document(named(WWW, f"**.{DEEP}")))
    rng = enforced.rng
    for turn in range(scaled(150, 3_000)):
        kind = rng.choice((dns.A, dns.AAAA))
        reply = enforced.resolve(
            rng.choice(FAMILIES),
            enforced.fresh_name(DEEP),
            kind,
            aliases=rng.randrange(4),
            addresses=rng.choice((1, 2, 32)),
        )
        assert enforced.connects(reply.addresses[-1]), (seed(), turn)
        if not turn % 10:
            other = enforced.resolve(rng.choice(FAMILIES), enforced.fresh_name("other.test"), kind)
            assert not enforced.connects(other.addresses[0], wait_s=0.02), (seed(), turn)
            assert not enforced.connects(enforced.fresh_address(kind), wait_s=0.02), (seed(), turn)


def test_a_name_opens_what_its_rule_says(enforced: Enforced) -> None:
    """Ports of the rule, and of several rules about one name the better."""
    other_port = {"toPorts": [{"ports": [{"port": PORT + 1, "protocol": "TCP"}]}]}
    this_port = {"toPorts": [{"ports": [{"port": PORT, "protocol": "TCP"}]}]}
    enforced.enforcer.apply(document(named("one.test", **other_port), named("two.test", **this_port)))
    one = enforced.resolve(socket.AF_INET, "one.test", dns.A).addresses[0]
    two = enforced.resolve(socket.AF_INET, "two.test", dns.A).addresses[0]
    assert not enforced.connects(one, wait_s=0.02)
    assert enforced.connects(two)


def test_a_denied_name_is_denied(enforced: Enforced) -> None:
    enforced.enforcer.apply(document(named("*"), egressDeny=[named("*.evil.test")]))
    good = enforced.resolve(socket.AF_INET, "a.good.test", dns.A).addresses[0]
    bad = enforced.resolve(socket.AF_INET, "a.evil.test", dns.A).addresses[0]
    assert enforced.connects(good)
    assert not enforced.connects(bad, wait_s=0.02)


def test_a_syn_that_came_too_early_passes_when_it_comes_again(enforced: Enforced) -> None:
    """What the kernel did not read in time (TCP in pieces) is bound a little later by user space."""
    enforced.enforcer.apply(document(named(WWW)))
    plan = enforced.side.plan(enforced.enforcer._policies)
    address = enforced.fresh_address(dns.A)

    def bind() -> None:
        time.sleep(0.3)
        enforced.names.bind(dns.mapped(address), plan.class_of(WWW), 60, boot_s())

    thread = threading.Thread(target=bind)
    thread.start()
    begin = time.monotonic()
    assert enforced.connects(address, wait_s=3, late=True)
    assert 0.9 < time.monotonic() - begin < 2.5  # the second SYN
    thread.join()


def test_what_is_over_is_refused_and_what_is_open_stays_open(enforced: Enforced) -> None:
    enforced.enforcer.apply(document(named(WWW)))
    plan = enforced.side.plan(enforced.enforcer._policies)
    address = enforced.fresh_address(dns.A)
    now = boot_s()
    enforced.names.bind(dns.mapped(address), plan.class_of(WWW), 1 - 60, now)
    with enforced.world.a.socket() as client:
        client.settimeout(3)
        client.connect((address, PORT))
        accepted, _ = enforced.listener[socket.AF_INET].accept()
        with accepted:
            while boot_s() <= now + 2:
                time.sleep(0.05)
            assert not enforced.connects(address, wait_s=0.02)
            client.sendall(b"still here")
            accepted.settimeout(3)
            assert accepted.recv(64) == b"still here"


def test_addresses_stay_known_over_a_change_of_the_policy(enforced: Enforced) -> None:
    enforced.enforcer.apply(document(named(f"*.{DEEP}", f"a.{DEEP}")))
    address = enforced.resolve(socket.AF_INET, f"a.{DEEP}", dns.A).addresses[0]
    for texts in ((f"*.{DEEP}",), (f"a.{DEEP}", "new.test"), ("new.test",), (f"*.{DEEP}",)):
        enforced.enforcer.apply(document(named(*texts)))
        assert enforced.connects(address, wait_s=0.5) == (texts != ("new.test",)), texts


def test_names_are_looked_up_once_when_a_policy_is_committed(enforced: Enforced) -> None:
    """Nobody asks for what he knows already: the agent does."""
    enforced.enforcer.apply(document(named(WWW, "none.test", f"**.{DEEP}")))
    plan = enforced.side.plan(enforced.enforcer._policies)
    assert set(plan.exact) == {WWW, "none.test"}
    enforced.names.set_resolvers([])  # so that only what the agent binds is bound
    told: list[str] = []

    def serve() -> None:
        for _ in range(4):
            query, sender = enforced.resolver[socket.AF_INET].recvfrom(4096)
            name = WWW if b"\x03www" in query else "none.test"
            kind = int.from_bytes(query[-15:-13], "big")
            if name == WWW and kind == dns.A:
                reply = enforced.reply(query, name, dns.A, aliases=1, addresses=2)
                told.extend(reply.addresses)
                enforced.resolver[socket.AF_INET].sendto(reply.message, sender)
                continue
            number = int.from_bytes(query[:2], "big")
            enforced.resolver[socket.AF_INET].sendto(dns.answer(name, [], kind, number=number), sender)

    thread = threading.Thread(target=serve)
    thread.start()
    with enforced.world.a.entered():
        found = look_up(plan.exact, [dns.mapped(enforced.world.b.v4)], time.monotonic)
    thread.join()
    assert learn(enforced.names, plan, found, boot_s()) == {"none.test": "it has no address"}
    assert len(told) == 2
    assert all(enforced.connects(address) for address in told)


def test_names_outlive_the_agent(world: World, tmp_path: Path) -> None:
    """What was learnt holds while no agent runs and for the next one, whose programs go on learning."""
    with contextlib.ExitStack() as stack:
        enforced = Enforced(world, random.Random(seed()), stack, tmp_path, pin_dir=world.bpffs / "pins")
        enforced.enforcer.apply(document(named(WWW, f"**.{DEEP}")))
        before = enforced.resolve(socket.AF_INET, WWW, dns.A).addresses[0]
        generation = enforced.enforcer.state().generation
        enforced.stop()
        between = enforced.resolve(socket.AF_INET6, f"a.{DEEP}", dns.AAAA).addresses[0]
        assert enforced.connects(before)
        assert enforced.connects(between)
        enforced.start()
        assert enforced.enforcer.state().generation == generation
        after = enforced.resolve(socket.AF_INET, f"b.{DEEP}", dns.A).addresses[0]
        assert all(enforced.connects(address) for address in (before, between, after))
        assert not enforced.connects(enforced.fresh_address(dns.A), wait_s=0.02)
        enforced.enforcer.apply(document(named(f"**.{DEEP}")))
        assert not enforced.connects(before, wait_s=0.02)
        assert enforced.connects(between)
        with world.a.entered():
            enforced.path.detach()
