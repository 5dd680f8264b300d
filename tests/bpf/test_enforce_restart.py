"""An agent that is gone leaves what it enforced; the next one takes it over with its names and its numbers."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from aegis.kernel.datapath import Datapath
from aegis.kernel.datapath_plan import CORE
from aegis.kernel.enforcer import Enforcer
from aegis.kernel.policy_slots import Hits, PolicySlots
from aegis.kernel.tc import Way
from tests.support.flows import CONSTANTS
from tests.support.world import World

pytestmark = pytest.mark.require("root", "bpf")

DENIED, ALLOWED = 2323, 2424
POLICY = (
    "{apiVersion: aegis/v1, kind: HostNetworkPolicy, metadata: {name: p}, spec: {mode: enforce, egressDeny: "
    f"[{{toPorts: [{{ports: [{{port: {DENIED}, protocol: UDP}}]}}]}}]}}}}"
).encode()


@pytest.fixture(params=["tcx", "clsact"])
def way(request: pytest.FixtureRequest) -> Way:
    return "tcx" if request.param == "tcx" else "clsact"


@contextlib.contextmanager
def agent(
    world: World, way: Way, state_dir: Path, *, last: bool = False
) -> Iterator[tuple[Enforcer, Datapath]]:
    """The kernel side of an agent at a's interface; it stays pinned at the end, but for the last one."""
    with world.a.entered():
        path = Datapath.install(
            CORE,
            constants=CONSTANTS,
            map_sizes={"aegis_flows": 4096, "aegis_owners": 1024},
            interfaces=[world.a.index],
            cgroup_root=world.cgroup,
            pin_dir=world.bpffs / "agent",
            prefer=way,
        )
    try:
        with contextlib.closing(Enforcer(state_dir, PolicySlots.of(path))) as enforcer:
            enforcer.start()
            yield enforcer, path
    finally:
        with world.a.entered():
            (path.detach if last else path.close)()


class Ports:
    """Two sockets of b, and what a can get to them."""

    def __init__(self, world: World, stack: contextlib.ExitStack) -> None:
        self._world = world
        self._stack = stack
        self._sinks = {port: self._sink(port) for port in (DENIED, ALLOWED)}
        self._source = stack.enter_context(world.a.socket(kind=socket.SOCK_DGRAM))

    def _sink(self, port: int) -> socket.socket:
        sink = self._stack.enter_context(self._world.b.socket(kind=socket.SOCK_DGRAM))
        sink.bind((self._world.b.v4, port))
        sink.settimeout(10)
        return sink

    def reached(self, times: int = 1) -> tuple[int, int]:
        """How many of `times` datagrams come to the denied and to the allowed port."""
        for _ in range(times):
            for port in (DENIED, ALLOWED):
                self._source.sendto(b"x", (self._world.b.v4, port))
        for _ in range(times):  # sent last, so whatever else passed has come
            self._sinks[ALLOWED].recv(16)
        self._sinks[DENIED].setblocking(False)
        came = 0
        with contextlib.suppress(BlockingIOError):
            while self._sinks[DENIED].recv(16):
                came += 1
        return came, times


def test_enforcement_outlives_the_agent_and_is_adopted(world: World, way: Way, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        ports = Ports(world, stack)
        with agent(world, way, tmp_path) as (enforcer, _):
            assert ports.reached() == (1, 1)
            enforcer.apply(POLICY)
            assert ports.reached(3) == (0, 3)
        assert ports.reached(5) == (0, 5), "nobody is there"
        with agent(world, way, tmp_path, last=True) as (enforcer, path):
            assert path.adopted
            state = enforcer.state()
            assert (state.state, state.generation) == ("enforcing", 1)
            (policy,) = enforcer.list()
            assert policy.name == "p"
            assert policy.rules[0].packets == 8
            assert ports.reached(2) == (0, 2)
            assert enforcer.hits()["p", "egressDeny[0]"] == Hits(packets=10, bytes=10 * (14 + 20 + 8 + 1))
            gone = enforcer.remove("p")
            assert gone.generation == 2
            assert [(rule.packets, rule.bytes) for rule in gone.rules if rule.deny] == [(10, 430)]
            assert ports.reached(2) == (2, 2)
        assert ports.reached() == (1, 1)


def test_a_removed_pin_of_the_images_denies_nothing_that_is_allowed(
    world: World, way: Way, tmp_path: Path
) -> None:
    """The state word's pin is left and names a slot of a table that is new and empty."""
    with contextlib.ExitStack() as stack:
        ports = Ports(world, stack)
        with agent(world, way, tmp_path) as (enforcer, _):
            enforcer.apply(POLICY)
        (pin,) = (world.bpffs / "agent").rglob("aegis_images")
        pin.unlink()
        with agent(world, way, tmp_path, last=True) as (enforcer, path):
            assert path.adopted
            assert (enforcer.state().state, enforcer.state().generation) == ("enforcing", 2)
            assert ports.reached(3) == (0, 3)
