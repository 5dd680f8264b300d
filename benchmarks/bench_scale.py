"""100,000 mixed rules: parsed, compiled, put in force, their image; the harvest of 100,000 flows; load and attach of everything.

A quarter of the rules is for IPv6, a quarter for IPv4 networks, half for single IPv4 addresses; half have a range of ports.
Publishing is `PolicySlots.switch` as a whole: writing the image, reading it back, the store, and the grace period after which
the old image is given up. Two policies take turns, as an operator's changes do.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import random
import struct
import time

from aegis.kernel import abi
from aegis.kernel.constants import Constants
from aegis.kernel.datapath import Datapath
from aegis.kernel.datapath_plan import CORE
from aegis.kernel.flows import FlowReader
from aegis.kernel.hub import Hub
from aegis.kernel.object import BpfObject
from aegis.kernel.policy_image import CompiledImage, compile_policies
from aegis.kernel.policy_slots import PolicySlots
from aegis.kernel.sensors import SENSORS
from aegis.model.policy import PolicySet
from aegis.model.policy_document import parse_document
from benchmarks.bench_flow import datagram
from benchmarks.rows import Row, median
from tests.support.flows import boottime_ns
from tests.support.world import World, open_world

RULES = 100_000
FLOWS, CHANGED = 100_000, 1_000
COMPILES, PUBLISHES, HARVESTS, LOADS = 7, 21, 21, 7


def run() -> list[Row]:
    document = mixed(1)
    started = time.perf_counter()
    policy = parse_document(document)
    parsed = time.perf_counter() - started
    policies = PolicySet().with_policy(policy)
    other = compile_policies(PolicySet().with_policy(parse_document(mixed(2))))
    image, compiles = other, []
    for _ in range(COMPILES):
        started = time.perf_counter()
        image = compile_policies(policies)
        compiles.append(time.perf_counter() - started)
    note = f"{RULES:,} mixed rules"
    return [
        Row(name="policy_parse_100k", value=parsed, unit="s", samples=[parsed], note=f"{note}, JSON"),
        Row(name="policy_compile_100k", value=median(compiles), unit="s", samples=compiles, note=note),
        Row(name="policy_image_100k", value=len(image.data) / 1e6, unit="MB", note=note),
        published(image, other),
        harvested(),
        loaded(),
    ]


def mixed(seed: int) -> bytes:
    """A document of the rules."""
    dice = random.Random(seed)
    rules = []
    for number in range(RULES):
        kind = number % 4
        family, bits = (6, 128) if kind == 3 else (4, 32)
        length = (32, 24, 32, 64)[kind]
        high = dice.randrange(1 << (length - 3)) | (0b001 << (length - 3))
        made = ipaddress.IPv6Address if family == 6 else ipaddress.IPv4Address
        rule: dict[str, object] = {"toCIDRSet": [{"cidr": f"{made(high << (bits - length))}/{length}"}]}
        if number % 2:
            port = dice.randrange(1, 60_000)
            ports = {
                "port": port,
                "endPort": port + dice.randrange(100),
                "protocol": dice.choice(("TCP", "UDP")),
            }
            rule["toPorts"] = [{"ports": [ports]}]
        rules.append(rule)
    spec = {"mode": "enforce", "egressDeny": rules}
    head = {"apiVersion": "aegis/v1", "kind": "HostNetworkPolicy", "metadata": {"name": "mixed"}}
    return json.dumps({**head, "spec": spec}).encode()


def published(one: CompiledImage, other: CompiledImage) -> Row:
    constants = Constants(
        agent_tgid=0, ring_bytes=1 << 20, ring_reserved_bytes=0, image_bytes=abi.IMAGE_LARGE
    )
    samples = []
    with BpfObject.open("probe_policy", constants=constants, map_sizes={}) as probe:
        probe.load()
        with contextlib.closing(PolicySlots.of(probe)) as slots:
            for generation in range(1, PUBLISHES + 3):
                started = time.perf_counter()
                slots.switch(one if generation % 2 else other, generation)
                samples.append((time.perf_counter() - started) * 1e3)
    changed = samples[2:]  # the first two make the tables, as at an agent's start
    return Row(
        name="policy_publish_100k",
        value=median(changed),
        unit="ms",
        samples=samples,
        note=f"a change of {RULES:,} rules; the first two: {samples[0]:.0f} and {samples[1]:.0f} ms",
    )


def harvested() -> Row:
    """Two peers, each with half of the flows: the packet program makes a flow's number its port, of 16 bits."""
    constants = Constants(agent_tgid=0, ring_bytes=1 << 20, ring_reserved_bytes=0)
    samples = []
    with BpfObject.open("probe_flow", constants=constants, map_sizes={"aegis_flows": 131_072}) as core:
        core.load()
        row = abi.struct("aegis_flow_row").size
        with FlowReader(core, boottime_ns) as reader:
            _send(core, FLOWS, 1)
            reader.harvest()
            assert reader.live() == FLOWS
            for _ in range(HARVESTS):
                _send(core, CHANGED, FLOWS // CHANGED)
                started = time.perf_counter()
                rows = reader.harvest()
                samples.append((time.perf_counter() - started) * 1e3)
                assert len(rows) == CHANGED * row
    return Row(
        name="harvest_100k",
        value=median(samples),
        unit="ms",
        samples=samples,
        note=f"{FLOWS:,} flows, {CHANGED:,} of them with packets since",
    )


def _send(core: BpfObject, flows: int, step: int) -> None:
    """A packet in every `step`-th flow of each peer, `flows` in all."""
    for peer in (2, 3):
        packet = bytearray(datagram())
        packet[33] = peer
        core.map("probe_rotation").update(bytes(4), struct.pack("=IIII", 0, (1 << 16) - 1, step, 0))
        core.program("probe_rotate_flow").run(bytes(packet), repeat=flows // 2)


def loaded() -> Row:
    with open_world() as world:
        samples = [_load(world) for _ in range(LOADS)]
    return Row(
        name="load_attach",
        value=median(samples),
        unit="s",
        samples=samples,
        note="core on one interface and every sensor, warm",
    )


def _load(world: World) -> float:
    constants = Constants(agent_tgid=0, ring_bytes=1 << 20, ring_reserved_bytes=0)
    with world.a.entered():
        started = time.perf_counter()
        path = Datapath.install(
            CORE,
            constants=constants,
            map_sizes={},
            interfaces=[world.a.index],
            cgroup_root=world.cgroup_root,
            pin_dir=None,
        )
        hub = Hub(publish=lambda *_: None, constants=constants, map_sizes={}, shared=path.object.maps())
        for sensor in SENSORS:
            hub.wanted(sensor.topic)
        taken = time.perf_counter() - started
        hub.close()
        path.close()
    return taken
