"""An outbox in a process of its own, for a test that kills it or spoils its system calls.

    python -m tests.support.outbox_child DIRECTORY SEED STEPS [STORE]

Says what happens on standard output, one unbuffered line each, before it can matter: `t CLASS FIRST COUNT` (taken),
`p` (all so far is promised), `g STREAM CLASS FIRST COUNT NUMBER...` and `l CLASS STAGE KIND REASON COUNT` (arrived at the
gateway, which acknowledges behind it), `c CODE` (conditions at the end), `e` (ended well, all written).
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import Mapping
from pathlib import Path

from aegis.agent.outbox.outbox import Outbox
from aegis.model.block import BlockClass
from aegis.runtime.settings import Value
from tests.support.outbox import NUMBER, Gateway, Ledger, check_balance, make, records_of
from tests.support.outbox_mutants import STORES

CAPS: dict[str, Value] = {"bytes": 150_000, "memory_bytes": 60_000, "commit_ms": 2.0}


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


class Saying(Gateway):
    """A gateway that is remembered by who reads our lines."""

    def drain(self, outbox: Outbox, most: int = 1 << 20) -> int:
        count = 0
        for block in outbox.sendable(most):
            self.take(block)
            numbers = [one[NUMBER] for one in records_of(block)]
            lines = [("g", block.stream, block.cls.value, block.first, block.count, *numbers)]
            lines += [("l", block.cls.value, *loss) for loss in block.losses]
            os.write(1, "".join(" ".join(map(str, line)) + "\n" for line in lines).encode())
            outbox.acknowledged(block.stream, block.cls, block.next)
            count += block.count
        return count


async def work(directory: str, seed: int, steps: int, store: str) -> None:
    chance = random.Random(seed)
    outbox, health = make(directory, STORES[store], CAPS)
    await outbox.open()
    ledger, gateway = Ledger(), Saying()
    for _ in range(steps):
        for _ in range(chance.randrange(1, 4)):
            cls = chance.choice(list(BlockClass))
            count = chance.randrange(1, 30)
            say("t", cls.value, len(ledger.issued), count)
            ledger.issue(outbox, cls, count, size=chance.choice((10, 100, 700)))
        what = chance.random()
        if what < 0.5:
            if await ledger.promise(outbox):
                say("p", len(ledger.issued))
        elif what < 0.7:
            gateway.drain(outbox, 20_000)
            await asyncio.sleep(0.003)
        elif what < 0.8:
            outbox.disconnected()
        else:
            await asyncio.sleep(0.004)
        check_balance(outbox)
    for _ in range(300):
        if await ledger.promise(outbox):
            say("p", len(ledger.issued))
            break
        await asyncio.sleep(0.02)
    check_balance(outbox)
    say("c", *health.raised())
    written = await outbox.flush()
    await outbox.close(5)
    if written:
        say("e")


def read(text: str, ledger: Ledger, gateway: Gateway) -> dict[str, list[str]]:
    """Take a child's lines into the parent's own ledger and gateway; the other lines by their first word."""
    others: dict[str, list[str]] = {}
    lines = text.split("\n")
    for line in lines[:-1]:  # what has no end was cut by the kill
        word, *rest = line.split(" ")
        if word == "t":
            cls, first, count = BlockClass(rest[0]), int(rest[1]), int(rest[2])
            ledger.issued |= dict.fromkeys(range(first, first + count), cls)
        elif word == "p":
            ledger.promised = set(range(int(rest[0])))
        elif word == "g":
            stream, first = int(rest[0]), int(rest[2])
            cls = BlockClass(rest[1])
            for offset, number in enumerate(map(int, rest[4:])):
                gateway.seen[stream, cls, first + offset] = number
                gateway.arrived[number] = cls
        elif word == "l":
            gateway.tell(BlockClass(rest[0]), [(rest[1], rest[2], rest[3], int(rest[4]))])
        else:
            others.setdefault(word, []).extend(rest)
    return others


async def resume(
    directory: Path, ledger: Ledger, gateway: Gateway, changed: Mapping[str, Value] | None = None
) -> Outbox:
    """The next life, here: everything left is taken by the gateway, and a fresh record flows in each class."""
    ledger._next = len(ledger.issued)
    outbox, _ = make(directory, changed={**CAPS, **(changed or {})})
    await outbox.open()
    await gateway.drain_all(outbox)
    for cls in BlockClass:  # which also tells what was lost
        ledger.issue(outbox, cls)
    await gateway.drain_all(outbox)
    fresh = set(list(ledger.issued)[-len(BlockClass) :])
    assert fresh <= gateway.arrived.keys(), "nothing flows any more"
    check_balance(outbox)
    return outbox


if __name__ == "__main__":
    asyncio.run(
        work(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] if sys.argv[4:] else "sound")
    )
