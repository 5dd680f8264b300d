"""The obligation ledger of the outbox: what was taken, what was promised, what arrived, what was listed as lost.

A record is a CBOR array with a number of its own. It is promised once a commit holds it. The judge asks, after the fault:
each promised record arrived or is listed as lost; each that arrived was issued, with the bytes it was issued with; a
fresh record still flows; and the run was not empty.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import cbor2

from aegis.agent.outbox.config import OPTIONS
from aegis.agent.outbox.outbox import IDENTITY, Outbox
from aegis.agent.outbox.rows import CLASSES
from aegis.agent.outbox.store import Store
from aegis.model.block import Block, BlockClass, Encoded, Loss, base_of, head
from aegis.runtime import log
from aegis.runtime.clock import SystemClock
from aegis.runtime.counters import balanced
from aegis.runtime.health import Conditions, ScopedHealth
from aegis.runtime.settings import Settings, Value

BOOT_ID = bytes(range(16))
NUMBER = 1  # where a record has its number


def options(changed: Mapping[str, Value]) -> Settings:
    """The options' defaults, some changed."""
    values = {option.name.removeprefix("outbox."): option.default for option in OPTIONS}
    assert not changed.keys() - values.keys()
    return Settings("outbox", {**values, **changed})


def make(
    directory: Path | str, store: type[Store] = Store, changed: Mapping[str, Value] | None = None
) -> tuple[Outbox, ScopedHealth]:
    """An outbox, not open yet, and what it says of its health."""
    clock = SystemClock()
    health = Conditions(clock).scoped("outbox")
    kind = type("OutboxUnderTest", (Outbox,), {"store_type": store})
    made: Outbox = kind(
        str(directory), options(changed or {}), boot_id=BOOT_ID, clock=clock, health=health, log=log.logger()
    )
    return made, health


def record(cls: BlockClass, number: int, size: int) -> bytes:
    """A record with a number; its bytes follow from it, so that a wrong one is known without having kept the right one."""
    return cbor2.dumps([CLASSES.index(cls) + 1, number, random.Random(number).randbytes(size)])


def run_of(cls: BlockClass, numbers: Iterable[int], size: int = 40, base_ns: int | None = None) -> Encoded:
    records = [record(cls, number, size) for number in numbers]
    base = base_of(SystemClock().wall_ns()) if base_ns is None else base_ns
    return Encoded(cls, base, len(records), b"".join(records))


def records_of(block: Block) -> list[list[Any]]:
    found = cbor2.loads(head(0x80, block.count) + block.records)
    assert len(found) == block.count
    return list(found)


class Gateway:
    """The other end: takes blocks, each record once, and knows what to acknowledge."""

    def __init__(self) -> None:
        self.seen: dict[tuple[int, BlockClass, int], int] = {}  # (stream, class, seq) to number
        self.arrived: dict[int, BlockClass] = {}
        self.losses: Counter[tuple[BlockClass, str, str, str]] = Counter()
        self.twice = 0
        self.doubtful: set[int] = set()  # arrived, and the agent was not told
        self.doubtful_losses: dict[tuple[int, BlockClass, int], int] = {}  # told in such blocks
        self.blocks: list[Block] = []

    def take(self, block: Block) -> None:
        assert block.count > 0
        assert block.boot_id == BOOT_ID
        self.blocks.append(block)
        fresh = (block.stream, block.cls, block.first) not in self.seen
        for offset, found in enumerate(records_of(block)):
            number = found[NUMBER]
            assert cbor2.dumps(found) == record(block.cls, number, len(found[2])), "a wrong payload"
            key = (block.stream, block.cls, block.first + offset)
            if key in self.seen:
                assert self.seen[key] == number, f"{key} was {self.seen[key]}, is {number}"
                self.twice += 1
            else:
                assert number not in self.arrived, f"record {number} under a second sequence number"
                self.seen[key] = number
                self.arrived[number] = block.cls
        if fresh:
            self.tell(block.cls, block.losses)

    def tell(self, cls: BlockClass, losses: Iterable[Loss]) -> None:
        for stage, kind, reason, count in losses:
            assert count > 0
            self.losses[cls, stage, kind, reason] += count

    def doubt(self, block: Block) -> None:
        """The block is taken, and whether the agent will hear of it is open."""
        self.doubtful |= {found[NUMBER] for found in records_of(block)}
        told = sum(loss[3] for loss in block.losses if loss[0] == "outbox")
        self.doubtful_losses[block.stream, block.cls, block.first] = told

    def settle(self, block: Block) -> None:
        """The agent heard of it."""
        self.doubtful -= {found[NUMBER] for found in records_of(block)}
        del self.doubtful_losses[block.stream, block.cls, block.first]

    def lost(self, cls: BlockClass) -> int:
        """Records of a class the outbox listed."""
        return sum(
            count
            for (one, stage, kind, _), count in self.losses.items()
            if one is cls and stage == "outbox" and kind == cls.value
        )

    def drain(self, outbox: Outbox, most: int = 1 << 20) -> int:
        """Take what is sendable now and acknowledge it; records taken."""
        count = 0
        for block in outbox.sendable(most):
            self.take(block)
            outbox.acknowledged(block.stream, block.cls, block.next)
            count += block.count
        return count

    async def drain_all(self, outbox: Outbox, within_s: float = 20) -> None:
        """Until nothing is pending."""
        async with asyncio.timeout(within_s):
            while sum(outbox.pending().values()):
                if not self.drain(outbox):
                    await asyncio.sleep(0.001)


class Ledger:
    """What was handed to outboxes of one directory, over all their lives."""

    def __init__(self) -> None:
        self.issued: dict[int, BlockClass] = {}
        self.promised: set[int] = set()
        self._next = 0

    def issue(self, outbox: Outbox, cls: BlockClass, count: int = 1, size: int = 40) -> range:
        numbers = range(self._next, self._next + count)
        self._next += count
        self.issued |= dict.fromkeys(numbers, cls)
        outbox.take(run_of(cls, numbers, size))
        return numbers

    async def promise(self, outbox: Outbox) -> bool:
        """Everything issued so far is on disk, or was acknowledged; whether that could be had."""
        before = set(self.issued)
        if await outbox.flush():
            self.promised |= before
            return True
        return False

    def judge(self, gateway: Gateway, *, exact: bool = False) -> None:
        """After everything was drained. `exact`: nobody was killed, so each record arrived or is listed, to the unit."""
        invented = gateway.arrived.keys() - self.issued.keys()
        assert not invented, f"arrived and never issued: {sorted(invented)[:9]}"
        for number, cls in gateway.arrived.items():
            assert self.issued[number] is cls
        for cls in CLASSES:
            owed = {number for number in self.promised if self.issued[number] is cls}
            missing = owed - gateway.arrived.keys()
            listed = gateway.lost(cls)
            assert len(missing) <= listed, f"{cls}: {len(missing)} promised records are gone, {listed} listed"
            if exact:
                gone = sum(one is cls for one in self.issued.values()) - sum(
                    one is cls for one in gateway.arrived.values()
                )
                # What arrived and was never acknowledged may have been dropped, and then listed, all the same: records,
                # and the losses their blocks told of.
                most = gone + sum(self.issued[number] is cls for number in gateway.doubtful)
                most += sum(told for (_, one, _), told in gateway.doubtful_losses.items() if one is cls)
                assert gone <= listed <= most, f"{cls}: {gone} records are gone, {listed} listed"


def check_balance(outbox: Outbox) -> None:
    """Every record is somewhere."""
    for stage, terms in outbox.terms().items():
        assert balanced(IDENTITY, terms), f"{stage}: {terms}"
        assert min(terms.values()) >= 0, f"{stage}: {terms}"
