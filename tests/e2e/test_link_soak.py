"""Many messages and many reconnects: what both ends hold of the machine is afterwards what it was before.

10^5 messages and 200 reconnects, in a soak (`./dev soak link`) 10^6 and 1,000; a message is an event in the gateway's
store. What a process holds of memory is the bytes in blocks that it asked for and has not given back: that is what leaks,
and it is known to some kilobytes, where pages come and go by hundreds of them with where an allocator happens to put
things. Its slope is Theil and Sen's over the last half. Pages (RssAnon, neither files nor what is shared) are held to the
same slope, beside what an allocator rounds.

What may grow is 1 MiB in 10^6 messages. In the 50,000 that the short run judges by, that is 51 KiB, less than buffers and
caches move by themselves (up to 170 KiB was seen); 256 KiB beside it make the short run one that finds 6 bytes a message.

What has a cap gets a low one and is filled first: the agent's history, the processes that have ended, what the gateway
remembers of streams and authentications, caches of databases, at both ends room for the largest backlog. That a leak of 64
bytes a message is found is shown with programs that have one.
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
from tests.support.weighed import weighed, weight
from tests.support.world import World, open_world

pytestmark = [pytest.mark.require("root", "bpf", "bpffs", "nft"), pytest.mark.timeout(3600)]

MESSAGES = scaled(100_000, 1_000_000)
RECONNECTS = scaled(200, 1_000)
LOOKS = scaled(40, 200)
PER_START = 2  # events of one program: its start and its end
WARM_STARTS = 8_000
WARM_CUTS = 40
KEPT = 200  # events of the history, and processes that have ended
CAPS = f"""
[agent]
history_events = {KEPT}
[modules.observability]
keep_ended = {KEPT}
"""
SLOPE_KIB = 1024.0  # in a million messages
# Growth that says nothing: buffers that happen to be larger, and in pages an arena more, once.
BLOCKS_KIB, PAGES_KIB = scaled(256, 64), scaled(2048, 1024)
NAMES = ("agent", "gateway")
Points = list[tuple[float, float]]


class Soaked:
    """A rig at work, and what its two ends held at each look: KiB in blocks, and in pages of their own."""

    def __init__(
        self, world: World, directory: Path, tester: Path, *, agent: str = "", gate: str = ""
    ) -> None:
        """`agent` and `gate` are bugs to plant."""
        self.rig = rig = Rig(world, directory)
        rig.more = CAPS
        self._balances = [directory / f"{name}.balance" for name in NAMES]
        for end, path, plants in (
            (rig.agent, self._balances[0], ("small-agent", agent)),
            (rig.gate, self._balances[1], ("small-gateway", gate)),
        ):
            for bug in filter(None, plants):
                end.command = planted(bug, end.command)
            end.command = weighed(path, end.command)
        self.blocks: dict[str, Points] = {name: [] for name in NAMES}
        self.pages: dict[str, Points] = {name: [] for name in NAMES}
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

    def go(self, messages: int, ways: list[str], looks: int) -> None:
        """So many messages, and between them these ends of the connection."""
        for look in range(looks):
            self.work(messages // PER_START // looks)
            for way in ways[look * len(ways) // looks : (look + 1) * len(ways) // looks]:
                self.cut(way)
            self.rig.ledger.settle(60)
            assert self._history()["kept"] == KEPT
            self._look()

    def _look(self) -> None:
        sent = PER_START * len(self.rig.ledger.issued)
        pids = (self.rig.agent.pid, self.rig.gate.pid)
        for name, pid, balance in zip(NAMES, pids, self._balances, strict=True):
            self.blocks[name].append((sent, weight(balance) / 1024))
            self.pages[name].append((sent, status(pid, "RssAnon")))

    def leaking(self) -> set[str]:
        """Those whose memory grows by more than a million messages may cost."""
        found = set()
        for name in NAMES:
            blocks, pages = self.blocks[name], self.pages[name]
            late, half = blocks[len(blocks) // 2 :], pages[len(pages) // 2 :]
            million, touched = slope(late) * 1e6, slope(half) * 1e6
            print(
                f"{name}: {million:.0f} KiB a million messages in blocks, {touched:.0f} in pages; {len(blocks)} looks: "
                f"{blocks[0][1]:.0f} to {blocks[-1][1]:.0f} KiB and {pages[0][1]:.0f} to {pages[-1][1]:.0f}"
            )
            for points, slope_kib, said_nothing in ((late, million, BLOCKS_KIB), (half, touched, PAGES_KIB)):
                way = (points[-1][0] - points[0][0]) / 1e6
                if slope_kib * way > SLOPE_KIB * way + said_nothing:
                    found.add(name)
        return found


def test_nothing_is_left_behind(tmp_path: Path, tester: Path) -> None:
    dice = random.Random(seed())
    ways = [dice.choice(("reset", "stall and reset", "module")) for _ in range(RECONNECTS)]
    with open_world() as world:
        soaked = Soaked(world, tmp_path, tester)
        rig = soaked.rig
        with rig.running(), rig.proxied():
            soaked.fill()
            before, connections = soaked.at_rest(), rig.proxy.connections
            soaked.go(MESSAGES, ways, LOOKS)
            rig.ledger.judge(60)
            after = soaked.at_rest()
            assert rig.proxy.connections >= connections + RECONNECTS
            leaking = soaked.leaking()
            for name, one, other in zip(NAMES, before, after, strict=True):
                assert other == one, name
            assert not leaking


def test_64_bytes_a_message_are_found(tmp_path: Path, tester: Path) -> None:
    with open_world() as world:
        soaked = Soaked(world, tmp_path, tester, agent="agent-keeps-64-bytes", gate="gateway-keeps-64-bytes")
        with soaked.rig.running(), soaked.rig.proxied():
            soaked.fill()
            soaked.go(MESSAGES // 5, [], 20)
            assert soaked.leaking() == set(NAMES)
