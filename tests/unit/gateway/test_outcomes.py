from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aegis.errors import StorageError
from aegis.gateway.metrics import Metrics
from aegis.gateway.outcomes import Outcomes
from aegis.gateway.store.base import MessageChange
from tests.support.gateway_agents import eventually


class FakeStore:
    """Takes changes unless it is to fail; each call is a transaction."""

    def __init__(self) -> None:
        self.fails = 0
        self.kept: list[list[str]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def change_messages(self, changes: list[MessageChange]) -> None:
        await self.gate.wait()
        if self.fails:
            self.fails -= 1
            raise StorageError("the disk is full")
        self.kept.append([each.id for each in changes])


def change(name: str) -> MessageChange:
    return MessageChange(id=name, status="sent")


def made(store: Any) -> Outcomes:
    return Outcomes(store, Metrics())


async def test_what_cannot_be_written_is_written_later_in_its_order() -> None:
    store = FakeStore()
    store.fails = 1
    outcomes = made(store)
    running = asyncio.create_task(outcomes.run())
    outcomes.add(change("a"))
    await eventually(lambda: store.fails == 0)
    outcomes.add(change("b"))
    await eventually(lambda: store.kept == [["a", "b"]])
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_it_is_told_once_it_is_stored() -> None:
    store = FakeStore()
    store.fails = 1
    outcomes = made(store)
    told: list[str] = []
    outcomes.add(change("a"), lambda: told.append("a"))
    with pytest.raises(StorageError):
        await outcomes.save()
    assert told == []
    await outcomes.save()
    assert (told, store.kept) == (["a"], [["a"]])


async def test_one_that_is_cancelled_while_it_writes_writes_it_at_the_end() -> None:
    store = FakeStore()
    store.gate.clear()
    outcomes = made(store)
    running = asyncio.create_task(outcomes.run())
    outcomes.add(change("a"))
    await asyncio.sleep(0.05)
    running.cancel()
    await asyncio.sleep(0.01)
    store.gate.set()
    await asyncio.gather(running, return_exceptions=True)
    assert store.kept == [["a"]]
