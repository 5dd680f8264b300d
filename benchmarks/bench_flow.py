"""Flow accounting and cached verdict a packet, by BPF_PROG_TEST_RUN above an empty program, under a policy of 10 rules.

`flow_rotation` meets 32,768 flows one after the other, again and again, in the order they were made; `flow_shuffled` in
another order, so that neither key nor entry is where the last one was: that reading is the memory's, and moves with
what the neighbours of this machine do to its caches. Programs take turns; a reading is the mean of many runs (above a
program that only writes the flow's number into the packet), and the value is the median of the readings.
"""

from __future__ import annotations

import contextlib
import json
import struct

from aegis.kernel.constants import Constants
from aegis.kernel.maps import Map
from aegis.kernel.object import BpfObject, Program
from aegis.kernel.policy_image import compile_policies
from aegis.kernel.policy_slots import PolicySlots
from aegis.model.policy import PolicySet
from aegis.model.policy_document import parse_document
from benchmarks.rows import Row, median

RUNS = 200_000
TURNS = 61
FLOWS = 32_768
IN_ORDER, SHUFFLED = 1, 20_503  # odd, so that each order meets every flow
PASSED = 0xFFFFFFFF


def ten_rules() -> PolicySet:
    """Ten rules that deny other packets than those measured."""
    rules = [
        {
            "toCIDRSet": [{"cidr": f"192.0.2.{16 * number}/28"}],
            "toPorts": [{"ports": [{"port": 1000 + number}]}],
        }
        for number in range(10)
    ]
    document = {
        "apiVersion": "aegis/v1",
        "kind": "HostNetworkPolicy",
        "metadata": {"name": "ten"},
        "spec": {"mode": "enforce", "egressDeny": rules},
    }
    return PolicySet().with_policy(parse_document(json.dumps(document).encode()))


def datagram() -> bytes:
    """98 bytes of UDP over IPv4 over Ethernet."""
    payload = 98 - 14 - 20 - 8
    ethernet = bytes.fromhex("020000000002020000000001") + b"\x08\x00"
    addresses = bytes([10, 1, 0, 1, 10, 1, 0, 2])
    ipv4 = struct.pack("!BBHHHBBH", 0x45, 0, 98 - 14, 0, 0, 64, 17, 0) + addresses
    return ethernet + ipv4 + struct.pack("!HHHH", 40000, 53, 8 + payload, 0) + bytes(payload)


def above(program: Program, empty: Program, packet: bytes) -> list[float]:
    """Nanoseconds of `program` above `empty`, turn by turn."""
    found = []
    for _ in range(TURNS):
        base = empty.run(packet, repeat=RUNS).duration_ns
        result = program.run(packet, repeat=RUNS)
        assert result.retval == PASSED
        found.append(float(result.duration_ns - base))
    return found


def order(rotation: Map, step: int) -> None:
    """Begin again at flow 0 and go on in steps of `step`."""
    rotation.update(bytes(4), struct.pack("=IIII", 0, FLOWS - 1, step, 0))


def run() -> list[Row]:
    constants = Constants(agent_tgid=0, ring_bytes=1 << 20, ring_reserved_bytes=0)
    packet = datagram()
    with BpfObject.open("probe_flow", constants=constants, map_sizes={"aegis_flows": 65_536}) as core:
        core.load()
        with contextlib.closing(PolicySlots.of(core)) as slots:
            slots.switch(compile_policies(ten_rules()), 1)
        one = above(core.program("tc_egress_flow"), core.program("probe_empty"), packet)
        rotation = core.map("probe_rotation")
        rotate = core.program("probe_rotate_flow")
        empty = core.program("probe_rotate_empty")
        order(rotation, IN_ORDER)
        rotate.run(packet, repeat=FLOWS)
        many = above(rotate, empty, packet)
        order(rotation, SHUFFLED)
        shuffled = above(rotate, empty, packet)
        entries = sum(count for _, _, count in core.map("aegis_flows").batches())
        assert entries >= FLOWS, f"{entries} flows in the table"
    kept = f"{FLOWS:,} flows, 10 rules"
    return [
        Row(name="flow_one", value=median(one), unit="ns", samples=one, note="one flow, 10 rules"),
        Row(name="flow_rotation", value=median(many), unit="ns", samples=many, note=f"{kept}, in rotation"),
        Row(
            name="flow_shuffled",
            value=median(shuffled),
            unit="ns",
            samples=shuffled,
            note=f"{kept}, shuffled",
        ),
    ]
