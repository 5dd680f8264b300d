"""A policy that needs larger images: the programs are loaded again and swapped, under packets, and adopted so later."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from aegis.errors import PolicyUnenforceable
from aegis.kernel import abi
from aegis.kernel.constants import Constants
from aegis.kernel.datapath import Datapath
from aegis.kernel.datapath_plan import CORE
from aegis.kernel.enforcer import Enforcer, Seed
from aegis.kernel.policy_slots import PolicySlots
from aegis.kernel.tc import Way
from tests.support.flows import CONSTANTS
from tests.support.world import World

pytestmark = pytest.mark.require("root", "bpf")

DENIED, ALLOWED = 2323, 2424
SIZES = {"aegis_flows": 4096, "aegis_owners": 1024}


def document(name: str, rules: int) -> bytes:
    """Denies one port, and prefixes nobody asks for."""
    denied: list[dict[str, object]] = [{"toPorts": [{"ports": [{"port": DENIED, "protocol": "UDP"}]}]}]
    denied += [{"toCIDRSet": [{"cidr": f"100.{64 + at // 256}.{at % 256}.0/24"}]} for at in range(rules)]
    spec = {"mode": "enforce", "egressDeny": denied}
    metadata = {"name": name}
    whole = {"apiVersion": "aegis/v1", "kind": "HostNetworkPolicy", "metadata": metadata, "spec": spec}
    return json.dumps(whole).encode()


class Agent:
    """The kernel side of an agent at a's interface."""

    def __init__(self, world: World, way: Way, state_dir: Path) -> None:
        self.world = world
        with world.a.entered():
            self.path = Datapath.install(
                CORE,
                constants=CONSTANTS,
                map_sizes=SIZES,
                interfaces=[world.a.index],
                cgroup_root=world.cgroup,
                pin_dir=world.bpffs / "agent",
                prefer=way,
            )
        self.enforcer = Enforcer(state_dir, PolicySlots.of(self.path), grow=self.grow)
        self.enforcer.start()

    def grow(self, image_bytes: int, seed: Seed) -> PolicySlots:
        constants = Constants(
            agent_tgid=0, ring_bytes=1 << 20, ring_reserved_bytes=0, image_bytes=image_bytes
        )
        with self.world.a.entered():
            self.path.grow(constants, SIZES, seed)
        return PolicySlots.of(self.path)

    @property
    def room(self) -> int:
        with contextlib.closing(PolicySlots.of(self.path)) as slots:
            return slots.room

    def leave(self, *, last: bool = False) -> None:
        self.enforcer.close()
        with self.world.a.entered():
            (self.path.detach if last else self.path.close)()


@contextlib.contextmanager
def traffic(world: World) -> Iterator[dict[int, int]]:
    """Datagrams to both ports all the while; what came by port, and under 0 how many were sent to each."""
    came = {0: 0, DENIED: 0, ALLOWED: 0}
    stop = threading.Event()
    with contextlib.ExitStack() as stack:
        sinks = {}
        for port in (DENIED, ALLOWED):
            sinks[port] = stack.enter_context(world.b.socket(kind=socket.SOCK_DGRAM))
            sinks[port].bind((world.b.v4, port))
            sinks[port].settimeout(10)
        source = stack.enter_context(world.a.socket(kind=socket.SOCK_DGRAM))

        def send() -> None:
            while not stop.is_set():
                for port in (DENIED, ALLOWED):
                    with contextlib.suppress(PermissionError):
                        source.sendto(b"x", (world.b.v4, port))
                came[0] += 1
                sinks[ALLOWED].recv(16)
                came[ALLOWED] += 1

        thread = threading.Thread(target=send)
        thread.start()
        try:
            yield came
        finally:
            stop.set()
            thread.join()
            sinks[DENIED].setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while sinks[DENIED].recv(16):
                    came[DENIED] += 1


@pytest.mark.parametrize("way", ["tcx", "clsact"])
def test_images_grow_under_packets_and_stay_grown(world: World, way: Way, tmp_path: Path) -> None:
    agent = Agent(world, way, tmp_path)
    try:
        agent.enforcer.apply(document("small", 3))
        assert agent.room == abi.IMAGE_SMALL
        with traffic(world) as came:
            agent.enforcer.apply(document("medium", 2000))
            assert agent.room == abi.IMAGE_MEDIUM
            agent.enforcer.apply(document("large", 15_000))
            assert agent.room == abi.IMAGE_LARGE
            agent.enforcer.remove("large")
        assert came[DENIED] == 0
        assert came[ALLOWED] == came[0] > 20
        with world.a.entered():
            assert agent.path.in_place()
        agent.leave()
        agent = Agent(world, way, tmp_path)
        assert agent.path.adopted
        assert agent.room == abi.IMAGE_LARGE
        assert agent.enforcer.state().state == "enforcing"
        assert [each.name for each in agent.enforcer.list()] == ["medium", "small"]
        with traffic(world) as came:
            agent.enforcer.apply(document("other", 10))
        assert (came[DENIED], came[ALLOWED]) == (0, came[0])
    finally:
        agent.leave(last=True)


def test_tables_that_were_not_filled_first_are_caught(world: World, tmp_path: Path) -> None:
    """The planted bug: between the swap and the switch the new programs find no image, and deny everything."""
    agent = Agent(world, "tcx", tmp_path)
    try:
        agent.enforcer.apply(document("small", 3))
        with contextlib.ExitStack() as stack, mock.patch.object(PolicySlots, "seed"):
            source = stack.enter_context(world.a.socket(kind=socket.SOCK_DGRAM))
            sink = stack.enter_context(world.b.socket(kind=socket.SOCK_DGRAM))
            sink.bind((world.b.v4, ALLOWED))
            sink.settimeout(0.2)
            real = PolicySlots.switch
            seen = []

            def switch(slots: PolicySlots, *arguments: object, **options: object) -> object:
                source.sendto(b"x", (world.b.v4, ALLOWED))
                try:
                    seen.append(sink.recv(16))
                except TimeoutError:
                    seen.append(b"")
                return real(slots, *arguments, **options)  # type: ignore[arg-type]

            stack.enter_context(mock.patch.object(PolicySlots, "switch", switch))
            agent.enforcer.apply(document("medium", 2000))
            assert seen == [b""]
    finally:
        agent.leave(last=True)


def test_without_a_way_to_grow_it_is_refused(world: World, tmp_path: Path) -> None:
    agent = Agent(world, "tcx", tmp_path)
    try:
        with contextlib.closing(Enforcer(tmp_path / "other", PolicySlots.of(agent.path))) as fixed:
            fixed.start()
            fixed.apply(document("small", 3))
            with pytest.raises(PolicyUnenforceable, match="room for 65536"):
                fixed.apply(document("medium", 2000))
            assert [each.name for each in fixed.list()] == ["small"]
    finally:
        agent.leave(last=True)
