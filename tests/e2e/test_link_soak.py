"""Many messages and many reconnects: what both ends hold of the machine is afterwards what it was before.

At full scale (`./dev soak link`) 10^6 messages and 1,000 reconnects; a message is an event in the gateway's store. Memory
is what is the process's own (RssAnon: neither files nor what is shared), looked at after each part of the way, and its
slope is Theil and Sen's over the second half. What has a cap gets a low one and is filled first: the agent's history,
the processes that have ended, and at both ends room for the largest backlog. The agent gives free memory back each
second, as others do each minute, so that what is judged is what it holds. What an allocator rounds is allowed for; that a
leak of 64 bytes a message is beyond it is shown with programs that have one.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.e2e.test_link_faults import Rig
from tests.support.awaiting import await_condition
from tests.support.left_over import Held, held, slope, status
from tests.support.link_mutants import planted
from tests.support.placed import connected
from tests.support.scale import scaled, seed
from tests.support.world import open_world

pytestmark = [pytest.mark.require("root", "bpf", "bpffs", "nft"), pytest.mark.timeout(3600)]

MESSAGES = scaled(100_000, 1_000_000)
RECONNECTS = scaled(20, 1_000)
LOOKS = scaled(20, 100)
PER_START = 2  # events of one program: its start and its end
WARM_STARTS = 8_000
WARM_CUTS = scaled(5, 60)
KEPT = 200  # events of the history, and processes that have ended
CAPS = f"""
[agent]
history_events = {KEPT}
[modules.observability]
keep_ended = {KEPT}
"""
SLOPE_KIB = 1024.0  # in a million messages
ROUNDING_KIB = scaled(1024, 256)  # of growth that says nothing
Points = list[tuple[float, float]]


class Soaked:
    """A rig at work, and what its two ends held at each look."""

    def __init__(self, rig: Rig, tester: Path) -> None:
        self.rig = rig
        self.points: dict[str, Points] = {"agent": [], "gateway": []}
        self._tester = tester

    def work(self, count: int) -> None:
        self.rig.ledger.work(count, tester=self._tester)

    def held(self) -> tuple[Held, Held]:
        return held(self.rig.agent.pid, self.rig.agent.pins), held(self.rig.gate.pid)

    def at_rest(self) -> tuple[Held, Held]:
        """What both hold once nothing is under way: the same three times."""
        before = self.held()
        same = 0
        deadline = time.monotonic() + 20
        while same < 3 and time.monotonic() < deadline:
            time.sleep(0.3)
            now = self.held()
            same = same + 1 if now == before else 0
            before = now
        return before

    def cut(self, way: str) -> None:
        """End the connection in one of the ways there are, and wait until there is another."""
        rig = self.rig
        connections = rig.proxy.connections
        match way:
            case "reset":
                assert rig.proxy.reset() == 1
            case "stall and reset":
                rig.proxy.up.stalled = True
                self.work(5)
                rig.proxy.reset()
                rig.proxy.up.stalled = False
            case "module":
                rig.agent.ask("modules.stop", name="websocket_communication")
                rig.agent.ask("modules.start", name="websocket_communication")
        await_condition(lambda: rig.proxy.connections > connections, 30, every=0.02)
        connected(rig.agent)

    def fill(self) -> None:
        """What has a cap is filled, and there was a backlog larger than any that follows."""
        self.rig.proxy.up.stalled = True
        self.work(WARM_STARTS)
        self.rig.proxy.up.stalled = False
        for _ in range(WARM_CUTS):
            self.cut("stall and reset")
        self.rig.ledger.judge(60)
        history = self._history()
        assert history["kept"] == KEPT < history["evicted"]

    def _history(self) -> dict[str, int]:
        rows = self.rig.agent.ask("counters")
        return next(row for row in rows if row["stage"] == "history")

    def go(self, ways: list[str]) -> None:
        """All messages, and between them these ends of the connection."""
        for look in range(LOOKS):
            self.work(MESSAGES // PER_START // LOOKS)
            for way in ways[look * len(ways) // LOOKS : (look + 1) * len(ways) // LOOKS]:
                self.cut(way)
            self.rig.ledger.settle(60)
            assert self._history()["kept"] == KEPT
            time.sleep(1.1)  # the agent gives back what it does not need
            sent = PER_START * len(self.rig.ledger.issued)
            for name, pid in (("agent", self.rig.agent.pid), ("gateway", self.rig.gate.pid)):
                self.points[name].append((sent, status(pid, "RssAnon")))

    def leaking(self) -> set[str]:
        """Those whose memory grows by more than a million messages may cost, and by more than is rounded."""
        found = set()
        for name, points in self.points.items():
            half = points[len(points) // 2 :]
            million, in_all = slope(half) * 1e6, half[-1][1] - half[0][1]
            print(
                f"{name}: {million:.0f} KiB a million messages, {in_all:.0f} KiB in the second half; "
                f"{points[0][1]:.0f} to {points[-1][1]:.0f} KiB over {len(points)} looks"
            )
            if million > SLOPE_KIB and in_all > SLOPE_KIB * MESSAGES / 2e6 + ROUNDING_KIB:
                found.add(name)
        return found


def test_nothing_is_left_behind(tmp_path: Path, tester: Path) -> None:
    dice = random.Random(seed())
    ways = [dice.choice(("reset", "stall and reset", "module")) for _ in range(RECONNECTS)]
    with open_world() as world:
        rig = Rig(world, tmp_path)
        rig.more = CAPS
        rig.agent.command = planted("looks-each-second", rig.agent.command)
        with rig.running(), rig.proxied():
            soaked = Soaked(rig, tester)
            soaked.fill()
            before = soaked.at_rest()
            soaked.go(ways)
            rig.ledger.judge(60)
            after = soaked.at_rest()
            assert rig.proxy.connections > RECONNECTS
            leaking = soaked.leaking()
            for name, one, other in zip(("agent", "gateway"), before, after, strict=True):
                assert other == one, name
            assert not leaking


def test_64_bytes_a_message_are_found(tmp_path: Path, tester: Path) -> None:
    with open_world() as world:
        rig = Rig(world, tmp_path)
        rig.more = CAPS
        rig.agent.command = planted("agent-keeps-64-bytes", rig.agent.command)
        rig.gate.command = planted("gateway-keeps-64-bytes", rig.gate.command)
        with rig.running(), rig.proxied():
            soaked = Soaked(rig, tester)
            soaked.fill()
            soaked.go([])
            assert soaked.leaking() == {"agent", "gateway"}
