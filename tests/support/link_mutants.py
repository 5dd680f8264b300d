"""Our programs with a bug planted that a judge must find: `python -m tests.support.link_mutants BUG PROGRAM ARGUMENT...`.

`looks-each-second` is no bug: an agent that does each second what others do each minute, also give free memory back.
"""

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

    def late(self: Ingest, some: list[Any]) -> None:
        asyncio.get_running_loop().call_later(HELD_S, commit, self, some)

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


def looks_each_second() -> None:
    from aegis.agent import wiring

    wiring.LOOK_NS = 1_000_000_000


def agent_keeps_64_bytes() -> None:
    """An agent that keeps 64 bytes of each record for ever."""
    from aegis.agent.outbox.outbox import Outbox

    looks_each_second()
    take, kept = Outbox.take, bytearray()

    def keeping(self: Outbox, run: Any) -> None:
        kept.extend(b"x" * 64 * run.count)
        take(self, run)

    Outbox.take = keeping  # type: ignore[method-assign]


def gateway_keeps_64_bytes() -> None:
    """A gateway that keeps 64 bytes of each record for ever."""
    from aegis.gateway.ingest import Ingest

    offer, kept = Ingest.offer, bytearray()

    def keeping(self: Ingest, session: Any, uid: str, what: Any) -> int:
        kept.extend(b"x" * 64 * len(what.items))
        return offer(self, session, uid, what)

    Ingest.offer = keeping  # type: ignore[method-assign]


BUGS = {
    each.__name__.replace("_", "-"): each
    for each in (
        acknowledges_first,
        stores_twice,
        forgets_what_is_under_way,
        looks_each_second,
        agent_keeps_64_bytes,
        gateway_keeps_64_bytes,
    )
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
