"""What the gateway does by the clock: last_seen written down, nonces kept, old items and messages pruned, orders expired."""

from __future__ import annotations

import asyncio
from typing import Final

from aegis.errors import AegisError, StorageError
from aegis.gateway.agents import AgentTable
from aegis.gateway.ingest import Ingest
from aegis.gateway.metrics import Metrics
from aegis.gateway.nonces import Nonces
from aegis.gateway.orders import Orders
from aegis.gateway.store.base import MESSAGE_AGE_NS, RETENTION, Keep, Store
from aegis.runtime.clock import SystemClock
from aegis.runtime.log import logger

NONCES_S: Final = 1.0
SEEN_S: Final = 15.0
PRUNE_S: Final = 30.0
STEP: Final = 256  # batches of one transaction: some 10 ms
_PAUSE_S: Final = 0.05  # between two, for those who write


class Upkeep:
    """`run` until cancelled; `last` writes down what would be lost with the process."""

    def __init__(
        self,
        *,
        store: Store,
        agents: AgentTable,
        orders: Orders,
        ingest: Ingest,
        nonces: Nonces,
        metrics: Metrics,
        clock: SystemClock,
        retention: dict[str, Keep] = RETENTION,
    ) -> None:
        self._store = store
        self._agents = agents
        self._orders = orders
        self._ingest = ingest
        self._nonces = nonces
        self._metrics = metrics
        self._clock = clock
        self._retention = retention
        self._log = logger(part="upkeep")

    async def run(self) -> None:
        beat = 0
        while True:
            await self._clock.sleep(NONCES_S)
            beat += 1
            await self._look_again()
            await self._try(self._nonces.save)
            self._orders.expire()
            if beat % int(SEEN_S) == 0:
                await self._try(self._save_seen)
            if beat % int(PRUNE_S) == 0:
                await self._try(self.prune)

    async def last(self) -> None:
        await self._try(self._nonces.save)
        await self._try(self._save_seen)

    async def prune(self) -> None:
        """Until nothing is over age or size, a step at a time."""
        now_ns = self._clock.wall_ns()
        while gone := await self._store.prune(now_ns, self._retention, most_batches=STEP):
            self._metrics.events["pruned_batches"] += gone
            await self._clock.sleep(_PAUSE_S)
        while await self._store.prune_messages(now_ns - MESSAGE_AGE_NS, most=STEP * 4):
            await self._clock.sleep(_PAUSE_S)

    async def _look_again(self) -> None:
        """After a write that failed: both places are written to before an agent is let in again."""
        if not self._ingest.failing:
            return
        try:
            self._nonces.probe()
        except StorageError:
            return
        await self._ingest.probe()

    async def _save_seen(self) -> None:
        seen = self._agents.take_unsaved()
        if not seen:
            return
        try:
            await self._store.save_seen(seen)
        except AegisError:
            for uid, instant in seen:
                agent = self._agents.get(uid)
                if agent is not None:
                    self._agents.seen(agent, max(instant, agent.last_seen_ns))
            raise

    async def _try(self, work: object) -> None:
        assert callable(work)
        try:
            await work()
        except AegisError as error:
            self._metrics.count("upkeep_failed")
            self._log.warning("upkeep failed", error=str(error))
            if isinstance(error, StorageError):
                self._ingest.refused(error)
        except asyncio.CancelledError:
            raise
