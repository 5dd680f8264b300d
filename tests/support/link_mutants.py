"""Our programs with a bug planted that a judge must find: `python -m tests.support.link_mutants BUG PROGRAM ARGUMENT...`.

`small-gateway` and `small-agent` are no bugs: what grows up to a cap is full soon.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

CACHE_KIB = 64  # of a database
CACHED = 16  # results of a function
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


def _small_caches() -> None:
    """Of any database, and of what functions gave, whatever size is asked for."""
    import functools
    import sqlite3

    connect, lru_cache = sqlite3.connect, functools.lru_cache

    def few(maxsize: Any = 128, typed: bool = False) -> Any:
        return lru_cache(min(maxsize, CACHED) if isinstance(maxsize, int) else maxsize, typed)

    functools.lru_cache = few

    class Small(sqlite3.Connection):
        def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
            asked = sql.startswith("PRAGMA cache_size")
            return super().execute(f"PRAGMA cache_size=-{CACHE_KIB}" if asked else sql, *parameters)

    def small(*arguments: Any, **options: Any) -> sqlite3.Connection:
        return connect(*arguments, factory=Small, **options)

    sqlite3.connect = small  # type: ignore[assignment]


def small_gateway() -> None:
    """A gateway whose caches, and memories of what was, are full soon."""
    from aegis.gateway.store import appending, recent
    from aegis.protocol.replay import ReplayCache

    _small_caches()
    recent.MOST_HELD, recent.MOST_BYTES = 4, 64 << 10  # type: ignore[misc]
    appending._MOST_REMEMBERED = 16  # type: ignore[misc]
    assert ReplayCache.__init__.__kwdefaults__ is not None
    ReplayCache.__init__.__kwdefaults__["of_key"] = 16


def small_agent() -> None:
    """An agent whose cache is full soon, whose pauses are short, and that does each second what others do each minute."""
    from aegis.agent import wiring
    from aegis.protocol.backoff import Backoff

    _small_caches()
    wiring.LOOK_NS = 1_000_000_000
    next_s = Backoff.next_s

    def soon(self: Backoff, hint_s: float | None = None) -> float:
        return next_s(self, hint_s) / 50

    Backoff.next_s = soon  # type: ignore[method-assign]


def agent_keeps_64_bytes() -> None:
    """An agent that keeps 64 bytes of each record for ever."""
    from aegis.agent.outbox.outbox import Outbox

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
        small_gateway,
        small_agent,
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
