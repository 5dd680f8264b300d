"""What became of orders, written down in bulk and in its order; what cannot be written waits until it can.

One writer at a time: that an order was sent never lands on top of its answer.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from aegis.errors import AegisError
from aegis.gateway.metrics import Metrics
from aegis.gateway.store.base import MessageChange, Store
from aegis.runtime.log import logger

_GATHER_S: Final = 0.05  # for more to be written with it, unless one is urgent
_AGAIN_S: Final = 0.5  # after a write that failed


class Outcomes:
    """Changes of messages that the store does not have yet."""

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics
        self._waiting: list[tuple[MessageChange, Callable[[], None] | None]] = []
        self._changed = asyncio.Event()
        self._urgent = asyncio.Event()
        self._one_writer = asyncio.Lock()
        self._failing = False
        self._log = logger(part="orders")

    def add(self, change: MessageChange, stored: Callable[[], None] | None = None) -> None:
        """Write it down soon; `stored` is called once it is committed, and makes it urgent."""
        self._waiting.append((change, stored))
        self._changed.set()
        if stored is not None:
            self._urgent.set()

    async def run(self) -> None:
        """Until cancelled, and then once more."""
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                self._urgent.clear()
                if not await self._saved():
                    self._changed.set()
                    await asyncio.sleep(_AGAIN_S)
                    continue
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._urgent.wait(), _GATHER_S)
        finally:
            await self.save()

    async def save(self) -> None:
        """What waits, all or nothing. Raises StorageError, and then it still waits."""
        async with self._one_writer:
            taken, self._waiting = self._waiting, []
            if not taken:
                return
            try:
                await self._store.change_messages([change for change, _ in taken])
            except BaseException:
                self._waiting[:0] = taken
                raise
        for _, stored in taken:
            if stored is not None:
                stored()

    async def _saved(self) -> bool:
        try:
            await self.save()
        except AegisError as error:
            if not self._failing:
                self._log.error("what became of orders cannot be kept", error=str(error), hint=error.hint)
            self._failing = True
            self._metrics.count("outcome_failed")
            return False
        self._failing = False
        return True
