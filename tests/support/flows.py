"""The core object under test: fed by hand through BPF_PROG_TEST_RUN (`Table`), or on an interface (`watched`)."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from aegis._native.flowtable import FlowRow, FlowTable
from aegis.host.rtnetlink import LinkStatistics
from aegis.kernel import abi
from aegis.kernel.constants import Constants
from aegis.kernel.datapath import Datapath
from aegis.kernel.datapath_plan import CORE
from aegis.kernel.flows import Count, FlowReader
from aegis.kernel.object import BpfObject
from aegis.kernel.policy_image import compile_policies
from aegis.kernel.policy_slots import PolicySlots
from aegis.kernel.tc import Way
from aegis.model.policy import PolicySet
from aegis.model.policy_document import parse_document
from tests.support.world import World

EGRESS, INGRESS = "egress", "ingress"
PASSED, DROPPED = 0xFFFFFFFF, 2  # TC_ACT_UNSPEC, TC_ACT_SHOT
CONSTANTS = Constants(agent_tgid=0, ring_bytes=1 << 20, ring_reserved_bytes=0)


def boottime_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Table:
    """A loaded object with its reader and the flows it has told."""

    def __init__(self, core: BpfObject, reader: FlowReader, slots: PolicySlots) -> None:
        self.core = core
        self.reader = reader
        self._slots = slots
        self._known = FlowTable(65536)

    def send(self, direction: str, packet: bytes, *, repeat: int = 1, ctx: bytes = b"") -> int:
        """What the program of that direction returns for the packet."""
        return self.core.program(f"tc_{direction}_flow").run(packet, repeat=repeat, ctx=ctx).retval

    def changed(self) -> list[FlowRow]:
        """Flows with packets since the last call; `added_*` are those."""
        self._known.next_harvest()
        self._known.ingest(self.reader.harvest())
        return self._known.rows(changed=True)

    def term(self, name: str) -> tuple[int, ...]:
        """A term of the identity: packets of egress and ingress, bytes of egress and ingress."""
        number = abi.enum("aegis_packet_total")[f"AEGIS_TOTAL_{name.upper()}"]
        return self.core.map("aegis_packet_totals").sum_u64(number.to_bytes(4, "little"))

    def apply(self, *policies: dict[str, Any]) -> int:
        """Make these specs the policy (none: one that denies nothing); the new generation."""
        known = PolicySet()
        for number, spec in enumerate(policies):
            document = {
                "apiVersion": "aegis/v1",
                "kind": "HostNetworkPolicy",
                "metadata": {"name": f"p{number}"},
                "spec": spec,
            }
            known = known.with_policy(parse_document(json.dumps(document).encode()))
        generation = self._slots.position().generation + 1
        self._slots.switch(compile_policies(known), generation)
        return generation


@contextlib.contextmanager
def open_table(
    name: str = "core", *, flows: int = 4096, clock: Callable[[], int] = boottime_ns
) -> Iterator[Table]:
    """A table of its own for as long as the block lasts; `clock` is what its reader takes for CLOCK_BOOTTIME."""
    with BpfObject.open(name, constants=CONSTANTS, map_sizes={"aegis_flows": flows}) as core:
        core.load()
        with FlowReader(core, clock) as reader, contextlib.closing(PolicySlots.of(core)) as slots:
            yield Table(core, reader, slots)


@contextlib.contextmanager
def watched(
    world: World,
    way: Way | None = None,
    *,
    flows: int = 4096,
    owners: int = 1024,
    interfaces: Sequence[int] = (),
) -> Iterator[FlowReader]:
    """The core object on a's interface (or on `interfaces` of a), without a pin; it knows the owners of sockets made in
    the world's cgroup."""
    with world.a.entered():
        path = Datapath.install(
            CORE,
            constants=CONSTANTS,
            map_sizes={"aegis_flows": flows, "aegis_owners": owners},
            interfaces=interfaces or [world.a.index],
            cgroup_root=world.cgroup,
            pin_dir=None,
            prefer=way,
        )
    try:
        assert path.missing == ()
        with FlowReader(path.object, boottime_ns) as reader:
            yield reader
    finally:
        with world.a.entered():
            path.close()


def counted(before: LinkStatistics, after: LinkStatistics) -> Count:
    return Count(
        egress_packets=after.tx_packets - before.tx_packets,
        ingress_packets=after.rx_packets - before.rx_packets,
        egress_bytes=after.tx_bytes - before.tx_bytes,
        ingress_bytes=after.rx_bytes - before.rx_bytes,
    )


def total(rows: list[FlowRow]) -> Count:
    found = Count()
    for row in rows:
        found += Count(
            egress_packets=row.packets_egress,
            ingress_packets=row.packets_ingress,
            egress_bytes=row.bytes_egress,
            ingress_bytes=row.bytes_ingress,
        )
    return found


def settled(world: World) -> LinkStatistics:
    """The interface's statistics once nothing moves: both ends agree and two readings are equal."""
    last = world.a.statistics()
    while True:
        time.sleep(0.02)
        now, peer = world.a.statistics(), world.b.statistics()
        if now == last and (now.tx_packets, now.rx_packets) == (peer.rx_packets, peer.tx_packets):
            return now
        last = now


def harvested(reader: FlowReader) -> list[FlowRow]:
    known = FlowTable(65536)
    known.next_harvest()
    known.ingest(reader.everything())
    return known.rows()


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET
