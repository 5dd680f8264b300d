"""The obligation ledger from a program's start to a gateway's store: each marked start is there once, and nothing else.

A mark is the last argument of a program that was started in the agent's namespace: the kernel tells of it, whoever else
starts programs on the machine.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from pathlib import Path

from tests.support import testers
from tests.support.placed import PlacedGateway
from tests.support.world import World


class Ledger:
    """What was started, and what a gateway has of it."""

    def __init__(self, world: World, gate: PlacedGateway) -> None:
        self.gate = gate
        self.issued: set[str] = set()
        self.maybe: set[str] = set()  # of which at most one is to be there
        self.stored: Counter[str] = Counter()
        self._world = world
        self._name = f"mark-{secrets.token_hex(4)}"
        self._run = 0
        self._after = gate.get("/events?after=now")[1]["next"]

    def work(self, count: int, *, certain: bool = True, tester: Path | None = None) -> None:
        """Start so many programs, one after the other. Not `certain`: the agent may not live to write them down.

        With the C tester they are some thousand a second, with the shell one thousand.
        """
        self._run += 1
        name = f"{self._name}-{self._run}"
        if tester is not None:
            said = self._world.a.command(tester, "marked", name, str(count)).stdout
            assert testers.parse(said).done == count
        else:
            loop = f"i=0; while [ $i -lt {count} ]; do /bin/true {name}-$i; i=$((i+1)); done"
            self._world.a.command("/bin/sh", "-c", loop)
        (self.issued if certain else self.maybe).update(f"{name}-{i}" for i in range(count))

    def look(self) -> None:
        """Take what is new in the store."""
        while True:
            status, page = self.gate.get(f"/events?limit=1000&type=exec&after={self._after}")
            assert status == 200, page
            self._after = page["next"]
            self.count(page["items"])
            if not page["items"]:
                return

    def count(self, items: list[dict[str, object]]) -> None:
        for item in items:
            args = item["args"]
            if isinstance(args, list) and args and str(args[-1]).startswith(self._name):
                self.stored[str(args[-1])] += 1

    @property
    def missing(self) -> set[str]:
        return self.issued - set(self.stored)

    @property
    def twice(self) -> set[str]:
        return {mark for mark, times in self.stored.items() if times > 1}

    def settle(self, seconds: float = 30) -> float:
        """Wait until nothing is missing, or the time is over; the seconds it took."""
        begun = time.monotonic()
        while True:
            self.look()
            if not self.missing or time.monotonic() > begun + seconds:
                return time.monotonic() - begun
            time.sleep(0.05)

    def judge(self, seconds: float = 30) -> None:
        """Each obligation is kept exactly once, and nothing was invented."""
        self.settle(seconds)
        assert self.issued, "nothing was asked of anybody"
        lost = sorted(self.missing)
        assert not lost, f"{len(lost)} of {len(self.issued)} did not arrive: {lost[:3]}"
        assert not self.twice, f"arrived more than once: {sorted(self.twice)[:3]}"
        assert set(self.stored) <= self.issued | self.maybe
