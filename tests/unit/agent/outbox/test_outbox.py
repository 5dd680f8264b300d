from __future__ import annotations

import asyncio
import random
import sqlite3
from pathlib import Path

import pytest

from aegis.agent.outbox.outbox import Outbox
from aegis.model.block import Block, BlockClass
from tests.support.outbox import Gateway, Ledger, check_balance, make
from tests.support.outbox_mutants import STORES
from tests.support.scale import scaled, seed

EVENT, VERDICT, FINDING = BlockClass.EVENT, BlockClass.VERDICT, BlockClass.FINDING
FLOW, SAMPLE = BlockClass.FLOW, BlockClass.SAMPLE


async def test_what_is_taken_is_sent_and_forgotten(tmp_path: Path) -> None:
    outbox, health = make(tmp_path)
    await outbox.open()
    ledger, gateway = Ledger(), Gateway()
    for cls in BlockClass:
        ledger.issue(outbox, cls, 7)
    async with asyncio.timeout(5):
        await outbox.wait()
    await gateway.drain_all(outbox)
    check_balance(outbox)
    ledger.judge(gateway, exact=True)
    assert gateway.arrived.keys() == ledger.issued.keys()
    assert outbox.pending() == dict.fromkeys(BlockClass, 0)
    assert health.raised() == ()
    await outbox.close(2)


async def test_what_is_on_disk_outlives_the_process(tmp_path: Path) -> None:
    outbox, _ = make(tmp_path)
    await outbox.open()
    ledger, gateway = Ledger(), Gateway()
    for cls in BlockClass:
        for _ in range(5):
            ledger.issue(outbox, cls, 300)
    assert await ledger.promise(outbox)
    first = outbox.stream
    await outbox.close(2)
    outbox, _ = make(tmp_path)
    await outbox.open()
    assert outbox.stream > first
    check_balance(outbox)
    assert sum(terms["recovered"] for terms in outbox.terms().values()) == len(ledger.issued)
    ledger.issue(outbox, EVENT, 3)
    await gateway.drain_all(outbox)
    check_balance(outbox)
    ledger.judge(gateway, exact=True)
    assert gateway.lost(EVENT) == 0
    assert await outbox.flush()
    await outbox.close(2)
    outbox, _ = make(tmp_path)
    await outbox.open()
    assert sum(outbox.pending().values()) == 0
    await outbox.close(2)


async def life(
    directory: Path, ledger: Ledger, gateway: Gateway, chance: random.Random, store: str = "sound"
) -> None:
    """One life of random doings, closed at the end."""
    caps = {
        "bytes": chance.choice((60_000, 400_000)),
        "memory_bytes": 60_000,
        "commit_ms": chance.choice((0.0, 3.0)),
    }
    outbox, health = make(directory, STORES[store], caps)
    await outbox.open()
    try:
        await doings(outbox, ledger, gateway, chance)
        assert health.raised() == ()
    finally:
        await outbox.close(2)
    check_balance(outbox)


async def doings(outbox: Outbox, ledger: Ledger, gateway: Gateway, chance: random.Random) -> None:
    unsent: list[Block] = []
    for _ in range(60):
        what = chance.random()
        if what < 0.5:
            ledger.issue(
                outbox, chance.choice(list(BlockClass)), chance.randrange(1, 60), chance.choice((5, 300))
            )
        elif what < 0.6:
            assert await ledger.promise(outbox)
        elif what < 0.8:
            unsent += outbox.sendable(chance.choice((1, 5000, 100_000)))
        elif what < 0.9:
            for block in unsent:
                gateway.take(block)
                gateway.doubt(block)
                if chance.random() < 0.9:
                    gateway.settle(block)
                    outbox.acknowledged(block.stream, block.cls, block.next)
            unsent.clear()
        elif what < 0.95:
            outbox.disconnected()
            unsent.clear()
        else:
            await asyncio.sleep(0.005)
        check_balance(outbox)
        assert outbox.memory_bytes() <= 60_000 + 5 * (48 << 10)
    assert await ledger.promise(outbox)


async def lives(directory: Path, chance: random.Random, store: str = "sound") -> None:
    ledger, gateway = Ledger(), Gateway()
    for _ in range(4):
        await life(directory, ledger, gateway, chance, store)
    outbox, _ = make(directory, STORES[store])
    await outbox.open()
    try:
        await gateway.drain_all(outbox)
        for cls in BlockClass:
            ledger.issue(outbox, cls)
        await gateway.drain_all(outbox)
    finally:
        await outbox.close(2)
    ledger.judge(gateway, exact=True)
    assert not [key for key in gateway.losses if key[3] == "corrupt"], "nobody damaged the file"


async def test_whatever_happens_each_record_arrives_or_is_listed(tmp_path: Path) -> None:
    for number in range(scaled(6, 500)):
        directory = tmp_path / str(number)
        directory.mkdir(mode=0o700)
        await lives(directory, random.Random(f"{seed()} {number}"))


async def test_deleting_without_the_class_is_found_out(tmp_path: Path) -> None:
    for number in range(20):
        directory = tmp_path / str(number)
        directory.mkdir(mode=0o700)
        try:
            await lives(directory, random.Random(number), "no-class")
        except AssertionError:
            return
    pytest.fail("a store that deletes by number alone was not found out")


async def test_a_block_acknowledged_before_its_commit_is_never_written(tmp_path: Path) -> None:
    outbox, _ = make(tmp_path, changed={"commit_ms": 60_000.0})
    await outbox.open()
    ledger, gateway = Ledger(), Gateway()
    ledger.issue(outbox, EVENT, 5)
    assert gateway.drain(outbox) == 5
    assert await outbox.flush()
    assert outbox.disk_bytes() == 0
    await outbox.close(2)
    database = sqlite3.connect(tmp_path / "outbox.db")
    assert database.execute("SELECT count(*) FROM block").fetchone() == (0,)
    database.close()


async def test_the_loop_is_not_woken_for_what_was_done_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox, _ = make(tmp_path, changed={"commit_ms": 30.0})
    await outbox.open()
    ledger, gateway = Ledger(), Gateway()
    ledger.issue(outbox, EVENT, 512)
    gateway.drain(outbox)
    turns: list[int] = []
    turn = Outbox._turn

    def noting(self: Outbox) -> None:
        turns.append(1)
        turn(self)

    def timed() -> bool:
        return outbox._timer is not None

    monkeypatch.setattr(Outbox, "_turn", noting)
    for _ in range(2):
        ledger.issue(outbox, EVENT, 100)  # waits for more
        assert timed()
        ledger.issue(outbox, EVENT, 412)  # closes the block
        assert gateway.drain(outbox) == 512
        assert not timed()  # neither the block's time nor its commit is waited for
        await asyncio.sleep(0.15)
    assert turns == []
    await gateway.drain_all(outbox)
    check_balance(outbox)
    ledger.judge(gateway, exact=True)
    await outbox.close(2)


async def test_findings_overtake_and_live_blocks_do_not_wait_for_the_backlog(tmp_path: Path) -> None:
    outbox, _ = make(tmp_path)
    await outbox.open()
    ledger = Ledger()
    for _ in range(50):
        ledger.issue(outbox, EVENT, 500)
    ledger.issue(outbox, SAMPLE, 5)
    assert await outbox.flush()
    before = outbox.stream
    outbox.sendable(1)  # the link is up: what there is becomes the backlog
    assert outbox.stream > before
    async with asyncio.timeout(5):
        await outbox.wait()
    ledger.issue(outbox, SAMPLE, 1)
    ledger.issue(outbox, FLOW, 1)
    ledger.issue(outbox, FINDING, 1)
    ledger.issue(outbox, VERDICT, 1)
    await asyncio.sleep(0.05)  # what is committed at once may have to be read back
    found = [(block.cls, block.stream == before) for block in outbox.sendable(1 << 20)]
    assert found[:4] == [(FINDING, False), (VERDICT, False), (FLOW, False), (SAMPLE, False)]
    assert found[4] == (EVENT, True)
    await outbox.close(2)


async def test_more_is_acknowledged_than_was_handed_out(tmp_path: Path) -> None:
    outbox, _ = make(tmp_path)
    await outbox.open()
    ledger, gateway = Ledger(), Gateway()
    ledger.issue(outbox, SAMPLE, 5)
    (block,) = outbox.sendable(1)
    ledger.issue(outbox, SAMPLE, 5)
    outbox.acknowledged(block.stream, SAMPLE, 3)  # a part of it
    assert outbox.pending()[SAMPLE] == 10
    outbox.acknowledged(block.stream, SAMPLE, 1 << 40)
    outbox.acknowledged(block.stream + 77, SAMPLE, 1 << 40)
    assert outbox.pending()[SAMPLE] == 5
    await gateway.drain_all(outbox)
    check_balance(outbox)
    await outbox.close(2)


async def test_an_untrusted_key_is_a_condition_and_memory_goes_on(tmp_path: Path) -> None:
    (tmp_path / "outbox.key").write_bytes(bytes(32))
    (tmp_path / "outbox.key").chmod(0o644)
    outbox, health = make(tmp_path)
    await outbox.open()
    assert health.raised() == ("storage_degraded",)
    ledger, gateway = Ledger(), Gateway()
    ledger.issue(outbox, EVENT, 5)
    await gateway.drain_all(outbox)
    (tmp_path / "outbox.key").chmod(0o600)
    ledger.issue(outbox, EVENT, 5)
    async with asyncio.timeout(10):
        while health.raised():  # noqa: ASYNC110  the condition is the subject
            await asyncio.sleep(0.01)
    assert await ledger.promise(outbox)
    await gateway.drain_all(outbox)
    ledger.judge(gateway, exact=True)
    await outbox.close(2)
    await outbox.close(2)
