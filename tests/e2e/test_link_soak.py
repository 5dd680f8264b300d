"""Many messages and many reconnects: what both ends hold of the machine is afterwards what it was before.

At full scale (`./dev soak link`) 10^5 messages and 200 reconnects; a message is an event in the gateway's store. Memory is
what is the process's own (RssAnon: neither files nor what is shared), looked at each hundredth of the way, and its slope
is Theil and Sen's over the second half. What is bounded is filled first: the agent's history of 10,000 events, and at both
ends room for the largest backlog. What an allocator rounds is allowed for: a small run can show nothing finer.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.e2e.test_link_faults import Rig, made
from tests.support.awaiting import await_condition
from tests.support.left_over import Held, held, slope, status
from tests.support.placed import connected
from tests.support.scale import scaled, seed

pytestmark = [pytest.mark.require("root", "bpf", "bpffs", "nft"), pytest.mark.timeout(1800)]

MESSAGES = scaled(2_000, 100_000)
RECONNECTS = scaled(8, 200)
LOOKS = scaled(20, 100)
PER_START = 2  # events of one program: its start and its end
WARM_STARTS = scaled(200, 8_000)
WARM_CUTS = scaled(1, 60)
SLOPE_KIB = 1024.0  # in a million messages
ROUNDING_KIB = scaled(2048, 256)  # of growth that says nothing


def of_both(rig: Rig) -> tuple[Held, Held]:
    return held(rig.agent.pid, rig.agent.pins), held(rig.gate.pid)


def at_rest(rig: Rig) -> tuple[Held, Held]:
    """What both hold once nothing is under way: the same three times."""
    before = of_both(rig)
    same = 0
    deadline = time.monotonic() + 20
    while same < 3 and time.monotonic() < deadline:
        time.sleep(0.3)
        now = of_both(rig)
        same = same + 1 if now == before else 0
        before = now
    return before


def cut(rig: Rig, way: str) -> None:
    """End the connection in one of the ways there are, and wait until there is another."""
    connections = rig.proxy.connections
    match way:
        case "reset":
            assert rig.proxy.reset() == 1
        case "stall and reset":
            rig.proxy.up.stalled = True
            rig.ledger.work(5)
            rig.proxy.reset()
            rig.proxy.up.stalled = False
        case "module":
            rig.agent.ask("modules.stop", name="websocket_communication")
            rig.agent.ask("modules.start", name="websocket_communication")
    await_condition(lambda: rig.proxy.connections > connections, 30, every=0.02)
    connected(rig.agent)


def growth(points: list[tuple[float, float]]) -> tuple[float, float]:
    """KiB a million messages, and KiB in all, of the second half."""
    half = points[len(points) // 2 :]
    return slope(half) * 1e6, half[-1][1] - half[0][1]


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    dice = random.Random(seed())
    ways = [dice.choice(("reset", "stall and reset", "module")) for _ in range(RECONNECTS)]
    with made(tmp_path) as rig, rig.proxied():
        rig.proxy.up.stalled = True
        rig.ledger.work(WARM_STARTS)
        rig.proxy.up.stalled = False
        for _ in range(WARM_CUTS):
            cut(rig, "stall and reset")
        rig.ledger.judge(60)
        before = at_rest(rig)
        agent: list[tuple[float, float]] = []
        gate: list[tuple[float, float]] = []
        starts = MESSAGES // PER_START
        for look in range(LOOKS):
            rig.ledger.work(starts // LOOKS)
            for way in ways[look * RECONNECTS // LOOKS : (look + 1) * RECONNECTS // LOOKS]:
                cut(rig, way)
            rig.ledger.settle(60)
            sent = PER_START * len(rig.ledger.issued)
            agent.append((sent, status(rig.agent.pid, "RssAnon")))
            gate.append((sent, status(rig.gate.pid, "RssAnon")))
        rig.ledger.judge(60)
        after = at_rest(rig)
        assert rig.proxy.connections > RECONNECTS
        figures = {"agent": growth(agent), "gateway": growth(gate)}
        for name, (million, in_all) in figures.items():
            print(f"{name}: {million:.0f} KiB a million messages, {in_all:.0f} KiB in the second half")
        print(
            f"agent {agent[0][1]:.0f} to {agent[-1][1]:.0f} KiB, gateway {gate[0][1]:.0f} to {gate[-1][1]:.0f} KiB"
        )
        for name, one, other in zip(("agent", "gateway"), before, after, strict=True):
            assert other == one, name
        for name, (million, in_all) in figures.items():
            assert million <= SLOPE_KIB or in_all <= SLOPE_KIB * MESSAGES / 2e6 + ROUNDING_KIB, name
