"""The gateway's store under power cuts: what it said is stored is there, and the order of coming goes on behind it."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from aegis.errors import AgentUnknown
from aegis.gateway.store.base import Query
from aegis.gateway.store.durable import Durable
from aegis.gateway.store.sqlite import SqliteStore
from tests.support.disk import Disk, open_disk
from tests.support.scale import scaled, seed
from tests.unit.gateway.store.test_base import UID, agent, batch, numbers


async def one_power_cut(disk: Disk, chance: random.Random) -> tuple[int, list[int], bool]:
    """Items that were acknowledged, those that are there behind the cut, whether a follower from before hears of new ones."""
    disk.mount()
    state = disk.top / "state"
    state.mkdir(mode=0o700)
    top = os.open(disk.top, os.O_RDONLY)
    os.fsync(top)
    os.close(top)
    store = SqliteStore(str(state))
    await store.open()
    await store.save_agent(agent(UID))
    acknowledged = 0

    def kept(done: asyncio.Future[Any]) -> None:
        nonlocal acknowledged
        if not done.cancelled() and done.exception() is None:
            acknowledged = max(acknowledged, done.result()[-1].next)

    sent = chance.randrange(1, 30)
    for number in range(sent):
        promised = store.append([batch(number, [number])])
        promised.add_done_callback(kept)
        if number == sent - 1 or chance.random() < 0.5:
            await promised
    last = store.append([batch(sent, [sent])])  # on the way to the disk when the light goes out
    last.add_done_callback(kept)
    await asyncio.sleep(chance.random() * 0.003)
    place = await store.place()
    # Not what is acknowledged behind it: a flush that the kernel's shutdown overtakes returns 0 for what is not there.
    at_the_cut = acknowledged
    disk.cut()
    await asyncio.wait([last])
    await store.close()
    disk.unmount()

    disk.mount()
    store = SqliteStore(str(state))
    await store.open()
    there = sorted(numbers(await store.items(Query(limit=1000))))
    try:
        again = [batch(number, [number]) for number in range(len(there), sent + 1)]
        await store.append([*again, batch(sent + 1, [sent + 1])])
        heard = sent + 1 in numbers(await store.items(Query(after=place, limit=1000)))
    except AgentUnknown:  # that was not kept either
        heard = False
    await store.close()
    shutil.rmtree(state)
    disk.unmount()
    return at_the_cut, there, heard


@pytest.mark.timeout(3600)
def test_power_cuts_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    chance = random.Random(seed())
    with open_disk(tmp_path, 64) as disk, asyncio.Runner() as runner:
        for _ in range(scaled(8, 300)):
            acknowledged, there, heard = runner.run(one_power_cut(disk, chance))
            assert there[:acknowledged] == list(range(acknowledged))
            assert heard


def test_the_power_cut_finds_a_store_that_does_not_flush(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Durable, "sync", lambda _: None)
    chance = random.Random(seed())
    with open_disk(tmp_path, 64) as disk, asyncio.Runner() as runner:
        for _ in range(5):
            acknowledged, there, _ = runner.run(one_power_cut(disk, chance))
            if len(there) < acknowledged:
                return
    pytest.fail("a store without a flush survived every power cut")
