"""The agent's end of a link on the test's loop: a real uplink over real sockets, and an outbox that is a list."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from aegis.agent.link.choice import choose
from aegis.agent.link.facts import facts
from aegis.agent.link.unsaid import Change
from aegis.agent.uplink import Uplink
from aegis.model.block import Block, BlockClass
from aegis.runtime import log as logging
from aegis.runtime.clock import SystemClock
from aegis.runtime.health import Conditions
from aegis.runtime.settings import Settings

LINK = "websocket_communication"


class Shelf:
    """Fulfils what a link needs of an outbox."""

    def __init__(self) -> None:
        self.on_ready: Callable[[], None] | None = None
        self.waiting: list[Block] = []
        self.in_flight: list[Block] = []
        self.acknowledgements: list[tuple[int, BlockClass, int]] = []
        self.disconnects = 0
        self.findings_alone = False

    def confine(self, *, to_findings: bool) -> None:
        self.findings_alone = to_findings

    def put(self, block: Block) -> None:
        self.waiting.append(block)
        if self.on_ready is not None:
            self.on_ready()

    def sendable(self, most_bytes: int) -> list[Block]:
        given: list[Block] = []
        going = [one for one in self.waiting if one.cls is BlockClass.FINDING or not self.findings_alone]
        while going and (not given or sum(len(one.records) for one in given) < most_bytes):
            given.append(going.pop(0))
            self.waiting.remove(given[-1])
        self.in_flight += given
        return given

    def ready(self) -> bool:
        return bool(self.waiting)

    def acknowledged(self, stream: int, cls: BlockClass, next_: int) -> None:
        self.acknowledgements.append((stream, cls, next_))
        self.in_flight = [
            one for one in self.in_flight if (one.stream, one.cls) != (stream, cls) or one.next > next_
        ]

    def disconnected(self) -> None:
        self.disconnects += 1
        self.findings_alone = False
        self.waiting, self.in_flight = self.in_flight + self.waiting, []


class Linked:
    """An uplink and what belongs to it. `pauses` are the seconds it waited for; none of them is really waited."""

    def __init__(self, url: str, state: Path, **settings: Any) -> None:
        self.settings = Settings(
            f"modules.{LINK}",
            {"heartbeat_interval_s": 20.0, "in_flight_bytes": 1 << 20, "longest_pause_s": 60.0} | settings,
        )
        gateway = {"url": url, "protocol": "v1", "min_protocol": None, "ca": None, "reregister": None}
        self.state = state
        self.clock = Clock()
        self.pauses = self.clock.pauses
        self.conditions = Conditions(self.clock)
        self.changes: list[Change] = []
        self.orders: list[Any] = []
        self.shelf = Shelf()
        self.uplink = Uplink(
            choice=choose(Settings("gateway", gateway)),
            agent_id="host-1",
            state_dir=str(state),
            clock=self.clock,
            log=logging.logger(source="link"),
            facts=lambda: facts("host-1", ["eth0"], "/nonexistent"),
            standing=lambda: list(self.changes),
        )
        shelf: Any = self.shelf
        self.uplink.outbox = shelf
        self.uplink.on_order = self.orders.append

    @contextlib.asynccontextmanager
    async def kept(self) -> AsyncIterator[Linked]:
        """The link is kept while the block runs; what `keep` raises ends the test."""
        task = asyncio.create_task(self.uplink.keep(self.settings, self.conditions.scoped(LINK)))
        try:
            yield self
        finally:
            if task.done():
                task.result()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def codes(self) -> set[str]:
        return {one.code for one in self.conditions.all()}


class Clock(SystemClock):
    """The host's, but for pauses, which are noted and end at once."""

    def __init__(self) -> None:
        self.pauses: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await asyncio.sleep(0.01)


async def comes(holds: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait on the loop until it holds; fail where it does not."""
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110  it may be anything
            await asyncio.sleep(0.005)
