"""What an agent that starts over the one before does to the policy in the kernel, when start goes another way."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
from collections.abc import Iterator
from typing import Any

import pytest

from aegis.agent import kernel_room
from aegis.agent.kernel_room import KernelRoom
from aegis.errors import AbiMismatch, LoadRejected
from aegis.host.reader import Host
from aegis.kernel import object as objects
from aegis.kernel import tc
from aegis.kernel.filters import list_filters
from aegis.kernel.maps import Map
from aegis.kernel.pins import PinDirectory
from aegis.kernel.policy_slots import PolicySlots
from aegis.kernel.tc import Direction, Way
from aegis.runtime import log
from aegis.runtime.clock import SystemClock
from aegis.runtime.health import Conditions
from aegis.runtime.settings import Settings
from tests.support.world import World

pytestmark = pytest.mark.require("root", "bpf", "tcx", "clsact", "bpffs")
POLICY = b"""
apiVersion: aegis/v1
kind: HostNetworkPolicy
metadata: {name: kept, version: 1}
spec: {mode: enforce, egressDeny: [{toCIDRSet: [{cidr: 10.255.0.1/32}]}]}
"""


class Rooms:
    """One host's kernel rooms, one after the other; each is an agent's."""

    def __init__(self, world: World, name: str = "aegis") -> None:
        self._world = world
        self.pins = PinDirectory(world.bpffs / name)
        self.host = Host(wall_ns=lambda: 0, monotonic_ns=lambda: 0)
        self.conditions = Conditions(SystemClock())

    def make(self, *interfaces: str, hook: Way | str = "auto") -> KernelRoom:
        values: dict[str, Any] = {
            "interfaces": interfaces or (self._world.a.interface,),
            "ring_bytes": 1 << 16,
            "flow_entries": 1024,
            "cgroup_root": str(self._world.cgroup),
            "pin_dir": str(self.pins.base),
            "btf": None,
            "hook": hook,
        }
        state = self._world.directory / "state"
        state.mkdir(exist_ok=True)
        health = self.conditions.scoped("agent")
        return KernelRoom(Settings("kernel", values), state, self.host, health, log.logger())

    def leave_policy(self, **given: Any) -> None:
        """What an agent leaves that enforced a policy and was told to keep it."""
        room = self.make(**given)
        room.attach()
        room.enforce()
        room.enforcer.apply(POLICY)
        room.close(keep=True)

    def left(self) -> tuple[object, ...]:
        """Pins, and the packet programs at their hooks."""
        index = self._world.a.index
        return (
            self.pins.map_names(),
            self.pins.link_names(),
            *(len(tc.tcx_program_ids(index, direction)) for direction in Direction),
        )

    def codes(self) -> set[str]:
        return {one.code for one in self.conditions.all()}

    def replace_table(self) -> None:
        """Pin a table of another shape where one of ours was."""
        self.pins.drop_map("aegis_flows")
        with_other = Map.create("HASH", "aegis_flows", key_size=16, value_size=8, max_entries=7)
        self.pins.put_map(with_other)
        with_other.close()


@pytest.fixture
def rooms(world: World) -> Iterator[Rooms]:
    """The host's rooms, with the descriptors of its host given back."""
    made = Rooms(world)
    yield made
    made.host.close()


def test_a_stop_before_the_policy_is_taken_over_keeps_it(world: World, rooms: Rooms) -> None:
    with world.a.entered():
        rooms.leave_policy()
        left = rooms.left()
        assert left[2:] == (1, 1)
        room = rooms.make()
        room.attach()
        room.close(keep=True)
        assert rooms.left() == left
        room = rooms.make()
        room.attach()
        assert room.enforce().state == "enforcing"
        room.enforcer.remove("kept")
        room.close(keep=True)
        assert not rooms.pins.base.exists()


def test_a_stop_before_there_was_a_policy_leaves_nothing(world: World, rooms: Rooms) -> None:
    with world.a.entered():
        room = rooms.make()
        room.attach()
        room.close(keep=True)
        assert not rooms.pins.base.exists()


def test_policy_tables_that_cannot_be_used_keep_the_policy(
    world: World, rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(_tables: object) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    with world.a.entered():
        rooms.leave_policy()
        left = rooms.left()
        with monkeypatch.context() as patch:
            patch.setattr(PolicySlots, "of", exhausted)
            room = rooms.make()
            room.attach()
            state = room.enforce()
        assert state.state == "unavailable"
        assert "Too many open files" in str(state.reason)
        assert "policy_not_loaded" in rooms.codes()
        room.close(keep=True)
        assert rooms.left() == left
        room = rooms.make()
        room.attach()
        room.close(keep=False)


def test_a_damaged_object_file_leaves_what_is_enforced(
    world: World, rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(name: str) -> bytes:
        raise AbiMismatch("open", f"{name}.bpf.o", detail="differs from the file that was built")

    with world.a.entered():
        rooms.leave_policy()
        left = rooms.left()
        with monkeypatch.context() as patch:
            patch.setattr(objects, "read_object", damaged)
            room = rooms.make()
            room.attach()
            room.enforce()
            room.close(keep=True)
        assert rooms.codes() >= {"kernel_unavailable"}
        assert "pins_replaced" not in rooms.codes()
        assert rooms.left() == left
        room = rooms.make()
        room.attach()
        room.close(keep=False)


def test_tables_of_another_shape_go_only_when_the_new_programs_load(
    world: World, rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> Any:
        raise LoadRejected("load", "core", errno.EACCES)

    with world.a.entered():
        rooms.leave_policy()
        rooms.replace_table()
        left = rooms.left()
        with monkeypatch.context() as patch:
            patch.setattr(kernel_room, "load_most", refused)
            room = rooms.make()
            room.attach()
            room.close(keep=True)
        assert rooms.left() == left
        room = rooms.make()
        room.attach()
        assert "pins_replaced" in rooms.codes()
        assert room.enforce().state == "enforcing"  # what is on disk
        room.close(keep=False)


def test_clsact_filters_of_an_agent_with_other_tables_go_with_its_pins(world: World, rooms: Rooms) -> None:
    with world.a.entered():
        rooms.leave_policy(hook="clsact")
        assert list_filters(world.a.index, egress=True)
        rooms.replace_table()
        room = rooms.make("none")
        room.attach()
        assert "pins_replaced" in rooms.codes()
        assert [list_filters(world.a.index, egress=egress) for egress in (False, True)] == [(), ()]
        room.close(keep=False)


def test_a_program_before_ours_is_told_of_until_it_is_gone(world: World, rooms: Rooms) -> None:
    other = Rooms(world, "other")
    other.host = rooms.host
    with world.a.entered():
        room, second = rooms.make(), other.make()
        room.attach()
        room.hooks.look()
        assert "hook_preceded" not in rooms.codes()
        second.attach()  # at the head, so before ours
        room.hooks.look()
        (told,) = [one for one in rooms.conditions.all() if one.code == "hook_preceded"]
        assert f"egress of interface {world.a.index}: tc_egress_flow" in told.text
        assert told.hint
        second.close(keep=False)
        room.hooks.look()
        assert "hook_preceded" not in rooms.codes()
        room.close(keep=False)


def test_a_process_without_descriptors_to_spare_runs_with_what_it_has(world: World, rooms: Rooms) -> None:
    """At every number of descriptors that is left: nothing is raised, and what is missing is a condition."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    codes: list[set[str]] = []
    loop = asyncio.new_event_loop()
    with world.a.entered():
        rooms.leave_policy()  # libbpf tries features of the kernel once a process, and remembers what failed
        room = rooms.make()
        room.attach()
        room.close(keep=False)
        lowest = os.dup(0)  # a new descriptor takes the lowest number, and the limit is one of numbers
        os.close(lowest)
        try:
            for left in range(0, 300, 6):
                rooms.conditions.clear_all("agent")
                room = rooms.make()
                resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + left, hard))
                try:
                    room.attach()
                    room.enforce()
                    room.listen(lambda _topic, _batch: None, loop)
                finally:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                    room.close(keep=False)
                codes.append(rooms.codes())
                if not codes[-1]:
                    break
        finally:
            loop.close()
    assert codes[-1] == set(), "it never had enough"
    assert all(codes[:-1])
    assert "kernel_unavailable" in set().union(*codes)


def test_without_the_ring_packets_are_judged(
    world: World, rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(_table: Map) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    loop = asyncio.new_event_loop()
    with world.a.entered():
        room = rooms.make()
        room.attach()
        room.enforce()
        with monkeypatch.context() as patch:
            patch.setattr(os, "dup", exhausted)
            room.listen(lambda _topic, _batch: None, loop)
        assert rooms.codes() == {"records_unavailable"}
        assert room.hub is None
        room.enforcer.apply(POLICY)
        assert room.enforcer.state().state == "enforcing"
        room.close(keep=False)
    loop.close()
