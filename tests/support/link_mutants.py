"""Our programs with a bug planted that the ledger must find: `python -m tests.support.link_mutants BUG PROGRAM ARGUMENT...`."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

HELD_S = 1.5  # from an acknowledgement to the commit it speaks of


def acknowledges_first() -> None:
    """A gateway that acknowledges what it is about to commit."""
    from aegis.gateway.ingest import Ingest

    offer, commit = Ingest.offer, Ingest._store_some

    def early(self: Ingest, session: Any, uid: str, what: Any) -> int:
        size = offer(self, session, uid, what)
        session.acknowledge(what.stream, what.cls, what.first + len(what.items))
        return size

    async def late(self: Ingest, some: list[Any]) -> None:
        await asyncio.sleep(HELD_S)
        await commit(self, some)

    Ingest.offer = early  # type: ignore[method-assign]
    Ingest._store_some = late  # type: ignore[method-assign]


def stores_twice() -> None:
    """A gateway that numbers streams by itself, and so knows nothing again."""
    import itertools

    from aegis.gateway.ingest import Ingest

    offer, numbers = Ingest.offer, itertools.count(1 << 40)

    def anew(self: Ingest, session: Any, uid: str, what: Any) -> int:
        import msgspec

        return offer(self, session, uid, msgspec.structs.replace(what, stream=next(numbers)))

    Ingest.offer = anew  # type: ignore[method-assign]


def forgets_what_is_under_way() -> None:
    """An agent whose outbox deletes what it sent when the connection ends."""
    from aegis.agent.outbox.outbox import Outbox

    sendable, disconnected, sent = Outbox.sendable, Outbox.disconnected, []

    def remembered(self: Outbox, most_bytes: int) -> list[Any]:
        blocks = sendable(self, most_bytes)
        sent.extend(blocks)
        return blocks

    def forgotten(self: Outbox) -> None:
        for block in sent:
            self.acknowledged(block.stream, block.cls, block.next)
        sent.clear()
        disconnected(self)

    Outbox.sendable = remembered  # type: ignore[method-assign]
    Outbox.disconnected = forgotten  # type: ignore[method-assign]


BUGS = {
    each.__name__.replace("_", "-"): each
    for each in (acknowledges_first, stores_twice, forgets_what_is_under_way)
}


def planted(bug: str, command: list[str]) -> list[str]:
    """The command `PYTHON -m MODULE ...` with the bug in it."""
    assert bug in BUGS
    return [command[0], "-m", "tests.support.link_mutants", bug, *command[2:]]


def main() -> None:
    import runpy

    _, bug, module, *arguments = sys.argv
    BUGS[bug]()
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
