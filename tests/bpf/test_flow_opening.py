"""Who opened a TCP connection, on real stacks: a denied peer does not open what this host may not."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from aegis.kernel import abi
from aegis.kernel.datapath import Datapath
from aegis.kernel.datapath_plan import CORE
from aegis.kernel.flows import FlowReader
from aegis.kernel.policy_image import compile_policies
from aegis.kernel.policy_slots import PolicySlots
from aegis.model.policy import PolicySet
from aegis.model.policy_document import parse_document
from tests.support import packets as p
from tests.support.flows import CONSTANTS, boottime_ns, harvested
from tests.support.world import Place, World

pytestmark = pytest.mark.require("root", "bpf")

OURS, THEIRS = 40_001, 4_444


class Guarded:
    """The core object on a's interface, and the policy by hand."""

    def __init__(self, reader: FlowReader, slots: PolicySlots) -> None:
        self.reader = reader
        self._slots = slots

    def deny(self, address: str) -> None:
        """Nothing may be opened towards the address."""
        document: dict[str, Any] = {
            "apiVersion": "aegis/v1",
            "kind": "HostNetworkPolicy",
            "metadata": {"name": "cut"},
            "spec": {"mode": "enforce", "egressDeny": [{"toCIDRSet": [{"cidr": f"{address}/32"}]}]},
        }
        policies = PolicySet().with_policy(parse_document(json.dumps(document).encode()))
        self._slots.switch(compile_policies(policies), self._slots.position().generation + 1)


@pytest.fixture
def guarded(world: World) -> Iterator[Guarded]:
    with world.a.entered():
        path = Datapath.install(
            CORE,
            constants=CONSTANTS,
            map_sizes={"aegis_flows": 4096, "aegis_owners": 1024},
            interfaces=[world.a.index],
            cgroup_root=world.cgroup,
            pin_dir=None,
        )
    try:
        with (
            FlowReader(path.object, boottime_ns) as reader,
            contextlib.closing(PolicySlots.of(path)) as slots,
        ):
            yield Guarded(reader, slots)
    finally:
        with world.a.entered():
            path.close()


def at(place: Place, port: int) -> socket.socket:
    """A TCP socket bound to a port of the place; close() resets."""
    made = place.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    made.bind((place.v4, port))
    made.settimeout(10)
    return made


def test_opening_from_both_sides_at_once(world: World, guarded: Guarded) -> None:
    guarded.deny(world.b.v4)
    with at(world.a, OURS) as ours, at(world.b, THEIRS) as theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        with pytest.raises(BlockingIOError):
            ours.connect((world.b.v4, THEIRS))
        with pytest.raises(BlockingIOError):
            theirs.connect((world.a.v4, OURS))
        assert select.select([], [ours, theirs], [], 2.5) == ([], [], []), "neither is connected"
    (row,) = [each for each in harvested(guarded.reader) if each.protocol == p.TCP]
    assert (row.initiator, row.verdict) == (abi.EGRESS, abi.VERDICT_DENY)


def test_a_listener_on_reused_ports(world: World, guarded: Guarded) -> None:
    """What this host opened is over; the peer connects from the same port to the same port, and is served."""
    with at(world.b, THEIRS) as listener, at(world.a, OURS) as ours:
        listener.listen()
        ours.connect((world.b.v4, THEIRS))
        served, _ = listener.accept()
        with served:
            ours.close()
            assert select.select([served], [], [], 10)[0], "reset"
    guarded.deny(world.b.v4)
    with at(world.a, OURS) as listener, at(world.b, THEIRS) as theirs:
        listener.listen()
        theirs.connect((world.a.v4, OURS))
        served, _ = listener.accept()
        with served:
            served.settimeout(10)
            served.sendall(b"from a")
            assert theirs.recv(100) == b"from a"
            theirs.sendall(b"from b")
            assert served.recv(100) == b"from b"
            (row,) = [each for each in harvested(guarded.reader) if each.protocol == p.TCP]
            assert (row.initiator, row.verdict, row.state) == (
                abi.INGRESS,
                abi.VERDICT_ALLOW,
                abi.FLOW_ESTABLISHED,
            )


def test_a_syn_from_the_peer_of_a_cut_connection(world: World, guarded: Guarded) -> None:
    """The host answers it with a challenge ACK; neither that nor what both sides go on sending passes."""
    with at(world.b, THEIRS) as listener, at(world.a, OURS) as ours:
        listener.listen()
        ours.connect((world.b.v4, THEIRS))
        served, _ = listener.accept()
        with served, world.b.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            guarded.deny(world.b.v4)
            raw.bind((world.b.interface, 0))
            syn = p.tcp(THEIRS, OURS, p.SYN)
            pseudo = p.address(world.b.v4) + p.address(world.a.v4) + struct.pack("!HH", p.TCP, len(syn))
            syn = syn[:16] + p.checksum(pseudo + syn) + syn[18:]
            macs = world.a.mac + world.b.mac
            for _ in range(3):
                raw.send(p.ethernet(p.IPV4, p.ipv4(world.b.v4, world.a.v4, p.TCP, syn), macs=macs))
                ours.send(b"out")
                served.send(b"in")
                assert select.select([ours, served], [], [], 0.5)[0] == []
            (row,) = [each for each in harvested(guarded.reader) if each.protocol == p.TCP]
            assert (row.initiator, row.verdict) == (abi.EGRESS, abi.VERDICT_DENY)
