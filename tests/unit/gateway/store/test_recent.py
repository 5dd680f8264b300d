"""A follower at the end is woken by a commit that may concern it, and gets what the database would give."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from aegis.gateway.store import items, reading, recent
from aegis.gateway.store.base import Batch, Page, Query
from aegis.gateway.store.recent import Recent
from aegis.gateway.store.sqlite import SqliteStore
from tests.unit.gateway.store.test_base import agent, batch

A, B = "agent-000000000000000a", "agent-000000000000000b"
NOW = 1_700_000_000_000_000_000


def made(first: int, *kinds: str, uid: str = A, cls: str = "event", pad: int = 0) -> Batch:
    return items.batch(
        uid=uid,
        cls=cls,
        stream=1,
        first=first,
        boot_id="b" * 32,
        items=[
            msgspec.json.encode(
                {"type": kind, "time_ns": NOW + first + place, "n": first + place, "x": "y" * pad}
            )
            for place, kind in enumerate(kinds)
        ],
        received_ns=NOW,
    )


def seen(page: Any) -> list[int]:
    return [msgspec.json.decode(item.json)["n"] for item in page.items]


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    made = SqliteStore(str(tmp_path))
    await made.open()
    await made.save_agent(agent(A))
    await made.save_agent(agent(B))
    yield made
    await made.close()


async def follow(store: SqliteStore, **more: Any) -> Any:
    query = Query(after=await store.place(), **more)
    await store.more(query, 5)
    return await store.items(query)


async def test_a_commit_wakes_whom_it_may_concern_and_nobody_else(store: SqliteStore) -> None:
    following = {
        name: asyncio.create_task(follow(store, **more))
        for name, more in {
            "all": {},
            "of a": {"uid": A},
            "of b": {"uid": B},
            "exit": {"types": frozenset({"exit"})},
            "flow": {"cls": ("flow",)},
        }.items()
    }
    await asyncio.sleep(0.05)
    assert not any(task.done() for task in following.values())
    await store.append([made(0, "exec", "exec")])
    await asyncio.sleep(0.01)
    assert {name for name, task in following.items() if task.done()} == {"all", "of a"}
    assert seen(following["all"].result()) == seen(following["of a"].result()) == [0, 1]
    await store.append([made(0, "exit", uid=B), made(0, "x", cls="flow")])
    await asyncio.sleep(0.01)
    assert all(task.done() for task in following.values())
    assert [seen(following[name].result()) for name in ("of b", "exit", "flow")] == [[0]] * 3


async def test_a_follower_at_the_end_costs_the_database_nothing(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = await store.place()

    async def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("the reader was asked")

    monkeypatch.setattr(store._reader, "run", never)
    await store.append([made(0, "exec", "exec", "exec"), made(3, "exec")])
    first = await store.items(Query(after=place, limit=2))
    rest = await store.items(Query(after=first.next, limit=2))
    assert (seen(first), seen(rest)) == ([0, 1], [2, 3])
    again = await store.items(Query(after=rest.next))
    assert (seen(again), again.next) == ([], await store.place())
    with pytest.raises(AssertionError):
        await store.items(Query(after=""))  # the beginning: what was there before is not in memory


@pytest.mark.parametrize("held", [recent.MOST_HELD, 3])
@pytest.mark.parametrize("looked_at", [recent.MOST_LOOKED_AT, 400])
async def test_memory_and_database_say_the_same(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, held: int, looked_at: int
) -> None:
    monkeypatch.setattr(recent, "MOST_HELD", held)
    monkeypatch.setattr(recent, "MOST_LOOKED_AT", looked_at)
    begun = await store.place()
    for number in range(12):
        kinds = ["exec", "exit", "listen"][: 1 + number % 3]
        await store.append([made(3 * number, *kinds, uid=(A, B)[number % 2], pad=50 * (number % 4))])
    for more in ({}, {"uid": A}, {"types": frozenset({"exit"})}, {"uid": B, "types": frozenset({"listen"})}):
        for limit in (1, 2, 100):
            told: list[list[int]] = []
            for page in (store.items, lambda query: of_database(store, query)):
                after, found = begun, []
                while True:
                    query = Query(after=after, limit=limit, **more)  # type: ignore[arg-type]
                    got = await page(query)
                    found += seen(got)
                    if got.next == after:
                        break
                    after = got.next
                told.append(found)
                assert after == await store.place()
            assert told[0] == told[1] != []


async def of_database(store: SqliteStore, query: Query) -> Page:
    """The same without what is in memory."""
    normal = items.checked(query)
    return await store._reader.run(lambda connection: reading.page(connection, normal))


async def test_what_came_between_asking_and_waiting_ends_the_wait(store: SqliteStore) -> None:
    query = Query(after=await store.place())
    await store.append([made(0, "exec")])
    async with asyncio.timeout(1):
        await store.more(query, 60)


async def test_a_wait_ends_by_time_and_by_the_end(store: SqliteStore) -> None:
    query = Query(after=await store.place())
    async with asyncio.timeout(1):
        await store.more(query, 0.05)
        waiting = asyncio.create_task(store.more(query, 60))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        store.stop_waiting()
        await waiting
        await store.more(query, 60)
    assert store._recent._waiting == {}


def test_what_was_not_told_of_is_the_database_s() -> None:
    held = Recent()
    held.begin(7)
    assert held.page(Query(after="6.3")) is None
    assert held.page(Query(after="7.3")) is None  # there may be more in it
    assert held.page(Query(after=held.place())) is not None
    held.add([(8, batch(0, [NOW]))])
    held.add([(10, batch(1, [NOW]))])  # 9 was stored, and nobody said so
    assert held.page(Query(after=f"8.{1 << 29}")) is None
    found = held.page(Query(after=f"9.{1 << 29}"))
    assert found is not None
    assert (len(found.items), found.next) == (1, held.place())


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "MOST_BYTES", 1000)
    held = Recent()
    for number in range(1, 50):
        held.add([(number, made(number, "exec", pad=100))])
    assert held._bytes <= 1000
    assert held._bytes == sum(len(one.items) for _, one in held._held)
    assert held.floor == held._held[0][0] - 1
