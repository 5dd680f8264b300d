"""Agents that are killed while they harvest and reap: not a byte is lost or counted twice."""

from __future__ import annotations

import os
import random
import select
import signal
import socket
import time
from pathlib import Path

import pytest

from aegis.kernel.datapath import Datapath
from aegis.kernel.datapath_plan import CORE
from aegis.kernel.flows import Count, FlowReader, IdleRules
from aegis.kernel.tc import Way
from tests.support import testers
from tests.support.flows import CONSTANTS, boottime_ns
from tests.support.world import World

pytestmark = pytest.mark.require("root", "bpf", "tcx")

NOTHING_IS_TOO_YOUNG = IdleRules(
    tcp_established=0, tcp_opening=0, tcp_ended=0, datagram_established=0, datagram_new=0
)
KILLS = 13
DATAGRAMS = 30_011


def install(pins: Path, interface: int, way: Way) -> Datapath:
    return Datapath.install(
        CORE,
        constants=CONSTANTS,
        map_sizes={"aegis_flows": 1024},
        interfaces=[interface],
        cgroup_root=None,
        pin_dir=pins,
        prefer=way,
    )


def agent(pins: Path, interface: int, way: Way, reaped: int) -> None:
    """Adopt what is there and read it until killed; a byte to `reaped` once that worked."""
    path = install(pins, interface, way)
    with FlowReader(path.object, boottime_ns) as reader:
        while True:
            reader.harvest()
            if reader.reap(NOTHING_IS_TOO_YOUNG) and reaped >= 0:
                os.write(reaped, b"!")
                reaped = -1


@pytest.mark.parametrize("way", ["tcx", "clsact"])
def test_kill_at_any_moment(world: World, way: Way) -> None:
    dice = random.Random()
    pins = world.bpffs / "aegis"
    with world.a.entered():
        install(pins, world.a.index, way).close()
    before = world.a.statistics()
    with world.b.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.bind((world.b.v4, 0))
        port = sink.getsockname()[1]
        with world.a.start(
            testers.udp_datagrams, world.a.v4, world.b.v4, port, DATAGRAMS, 73, 10_000
        ) as traffic:
            for turn in range(KILLS):
                reaped = os.pipe()
                with world.a.start(agent, pins, world.a.index, way, reaped[1]) as child:
                    os.close(reaped[1])
                    if turn % 2 and traffic.running():
                        select.select([reaped[0]], [], [], 20)
                    time.sleep(dice.uniform(0, 0.15))
                    child.signal(signal.SIGKILL)
                    child.wait(10)
                os.close(reaped[0])
            assert traffic.result(60).done == DATAGRAMS
    after = world.a.statistics()
    with world.a.entered():
        path = install(pins, world.a.index, way)
    with FlowReader(path.object, boottime_ns) as reader:
        totals = reader.totals()
        assert totals.balanced()
        assert totals.seen == Count(
            egress_packets=after.tx_packets - before.tx_packets,
            ingress_packets=after.rx_packets - before.rx_packets,
            egress_bytes=after.tx_bytes - before.tx_bytes,
            ingress_bytes=after.rx_bytes - before.rx_bytes,
        )
        assert totals.reaped.egress_packets > 0
        reader.reap(NOTHING_IS_TOO_YOUNG)
        totals = reader.totals()
        assert totals.live == Count()
        assert totals.balanced()
    with world.a.entered():
        path.detach()
