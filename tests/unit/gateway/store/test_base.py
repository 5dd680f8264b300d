"""What every store must do. A second engine is one more line in ENGINES."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from aegis.errors import AgentUnknown, QueryInvalid, StorageError
from aegis.gateway.store import items
from aegis.gateway.store.base import (
    DAY_NS,
    RETENTION,
    AgentRow,
    Appended,
    Batch,
    Cursor,
    Keep,
    MessageChange,
    MessageRow,
    Query,
    Store,
    Totals,
)
from aegis.gateway.store.sqlite import SqliteStore
from tests.support.gateway_store import prepared

ENGINES: dict[str, Callable[[Path], Store]] = {"sqlite": lambda path: SqliteStore(str(prepared(path)))}
SECOND = 1_000_000_000
UID = "agent-0000000000000001"
OTHER = "agent-0000000000000002"


@pytest_asyncio.fixture(params=list(ENGINES))
async def reopened(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Callable[[], Any]]:
    """Each call closes the store that is open, and opens the same data again."""
    held: list[Store] = []

    async def again() -> Store:
        for each in held:
            await each.close()
        made = ENGINES[request.param](tmp_path)
        held[:] = [made]
        await made.open()
        return made

    yield again
    for each in held:
        await each.close()


@pytest_asyncio.fixture
async def store(reopened: Callable[[], Any]) -> Store:
    """A store with two agents."""
    made: Store = await reopened()
    await made.save_agent(agent(UID))
    await made.save_agent(agent(OTHER))
    return made


def agent(uid: str, **more: Any) -> AgentRow:
    given: dict[str, Any] = {
        "uid": uid,
        "key": uid.encode().ljust(32, b"k"),
        "agent_id": "host-1",
        "host_id": "host-1",
        "org_id": "org",
        "version": "1",
        "machine_id_hash": "m",
        "capabilities": "{}",
        "platform": '{"os":"linux"}',
        "network": "{}",
        "created_ns": 5,
        "last_seen_ns": 5,
    }
    return AgentRow(**{**given, **more})


def nexts(kept: list[Appended]) -> list[int]:
    """Where the cursors stand."""
    return [each.next for each in kept]


def batch(first: int, times: list[int], **more: Any) -> Batch:
    """A batch of events at those instants; `with_` goes into each item."""
    with_ = more.pop("with_", {})
    encoded = [
        msgspec.json.encode({"time_ns": time, "type": "exec", "n": first + place, **with_})
        for place, time in enumerate(times)
    ]
    given: dict[str, Any] = {
        "uid": UID,
        "cls": "event",
        "stream": 1,
        "first": first,
        "boot_id": "b",
        "items": encoded,
        "received_ns": 1000,
    }
    return items.batch(**{**given, **more})


def numbers(page: Any) -> list[int]:
    return [msgspec.json.decode(each.json)["n"] for each in page.items]


# Agents


async def test_an_agent_is_one_row_for_ever(store: Store, reopened: Callable[[], Any]) -> None:
    changed = agent(UID, version="2", labels=("a", "b"), note="n", created_ns=99, last_seen_ns=7)
    await asyncio.gather(*(store.save_agent(changed) for _ in range(50)))
    again = await reopened()
    found = await again.agents()
    assert [each.uid for each in found] == [UID, OTHER]
    assert found[0] == msgspec.structs.replace(changed, created_ns=5)


async def test_a_uid_goes_to_no_second_key(store: Store) -> None:
    with pytest.raises(StorageError):
        await store.save_agent(agent(UID, key=b"z" * 32))
    assert [each.key for each in await store.agents() if each.uid == UID] == [agent(UID).key]


async def test_last_seen_is_kept(store: Store) -> None:
    await store.save_seen([(UID, 77), ("agent-gone", 1)])
    assert {each.uid: each.last_seen_ns for each in await store.agents()} == {UID: 77, OTHER: 5}


# Batches


async def test_what_returned_is_there_after_a_reopen(store: Store, reopened: Callable[[], Any]) -> None:
    assert nexts(await store.append([batch(0, [10, 11]), batch(2, [12])])) == [2, 3]
    again = await reopened()
    page = await again.items(Query())
    assert numbers(page) == [2, 1, 0]
    assert page.next is None
    assert [each.uid for each in page.items] == [UID] * 3
    assert page.items[0].json == b'{"time_ns":12,"type":"exec","n":2}'
    assert (await again.totals())["event"].items == 3


@pytest.mark.parametrize("at_once", [True, False])
async def test_nothing_is_stored_twice(store: Store, at_once: bool) -> None:
    sent = [batch(0, [1, 2, 3]), batch(0, [1, 2, 3]), batch(2, [3, 4, 5]), batch(1, [2])]
    kept = await store.append(sent) if at_once else [(await store.append([each]))[0] for each in sent]
    assert kept == [(3, 3), (3, 0), (5, 2), (5, 0)]
    assert sorted(numbers(await store.items(Query()))) == [0, 1, 2, 3, 4]
    assert (await store.totals())["event"].items == 5


async def test_what_items_share_is_kept_once_and_told_of_each(
    store: Store, reopened: Callable[[], Any]
) -> None:
    shared = [b'{"ancestors":["' + b"x" * 5000 + b'"]}', b'{"pid":7,"shared":0}']
    batches = [
        batch(first, [first, first + 1, first + 2], with_={"shared": 1}, shared=shared) for first in (0, 2)
    ]
    assert await store.append(batches) == [(3, 3), (5, 2)]
    assert (await store.totals())["event"].bytes < 2 * 6000
    each = store
    for _ in range(2):
        first = (await each.items(Query(after="", limit=1))).next
        told = [
            *(await each.items(Query())).items,
            *(await each.items(Query(after=""))).items,
            *(await each.items(Query(after=first))).items,
        ]
        assert len(told) == 5 + 5 + 4
        for item in told:
            found = msgspec.json.decode(item.json)
            assert (found["pid"], found["ancestors"], "shared" in found) == (7, ["x" * 5000], False)
        assert numbers(await each.items(Query(since_ns=3))) == [4, 3]
        each = await reopened()


async def test_a_gap_is_passed_over(store: Store) -> None:
    assert nexts(await store.append([batch(0, [1]), batch(10, [2])])) == [1, 11]
    assert nexts(await store.append([batch(5, [3])])) == [11]
    assert await store.cursors(UID) == [Cursor(boot_id="b", stream=1, cls="event", next=11)]


async def test_streams_boots_classes_and_agents_have_their_own_cursor(store: Store) -> None:
    others: list[dict[str, Any]] = [{}, {"stream": 2}, {"boot_id": "c"}, {"cls": "flow"}, {"uid": OTHER}]
    for each in others:
        assert nexts(await store.append([batch(0, [1, 2], **each)])) == [2]
    assert len(await store.cursors(UID)) == 4
    assert await store.cursors(OTHER) == [Cursor(boot_id="b", stream=1, cls="event", next=2)]
    assert (await store.totals())["event"].items == 8


async def test_all_or_nothing(store: Store) -> None:
    with pytest.raises(AgentUnknown):
        await store.append([batch(0, [1]), batch(0, [1], uid="agent-nobody")])
    assert (await store.items(Query())).items == []
    assert nexts(await store.append([batch(0, [1])])) == [1]


async def test_one_that_fails_fails_alone(store: Store) -> None:
    """Calls that share a transaction do not share their errors."""
    results = await asyncio.gather(
        *(store.append([batch(0, [1], stream=n)]) for n in range(20)),
        store.append([batch(0, [1], uid="agent-nobody")]),
        *(store.append([batch(0, [1], stream=n)]) for n in range(20, 40)),
        return_exceptions=True,
    )
    assert [each for each in results if each != [(1, 1)]] == [results[20]]
    assert isinstance(results[20], AgentUnknown)
    assert (await store.totals())["event"].items == 40


async def test_losses_are_items_without_a_place(store: Store) -> None:
    lossy = batch(0, [10], losses=(("outbox", "event", "evicted", 7),))
    assert nexts(await store.append([lossy])) == [1]
    found = (await store.items(Query(types=frozenset({"loss"})))).items
    assert [msgspec.json.decode(each.json)["count"] for each in found] == [7]
    assert nexts(await store.append([batch(0, [10, 11], losses=(("outbox", "event", "evicted", 9),))])) == [2]
    assert (await store.totals())["event"].items == 2


# Queries


async def test_filters(store: Store) -> None:
    await store.append(
        [
            batch(0, [10, 20], with_={"type": "connect", "src": "10.0.0.1", "dst": "192.0.2.7"}),
            batch(2, [30], with_={"policy": "no-telnet", "verdict": "deny"}, cls="verdict"),
            batch(2, [40], with_={"type": "file"}),
            batch(3, [50], with_={"type": "unheard"}),
            batch(0, [60], with_={"name": "cpu.user"}, cls="sample"),
            batch(0, [70], uid=OTHER),
        ]
    )

    async def asked(**given: Any) -> list[int]:
        return [each.time_ns for each in (await store.items(Query(**given))).items]

    assert await asked() == [70, 50, 40, 20, 10]
    assert await asked(cls=("event", "verdict")) == [70, 50, 40, 30, 20, 10]
    assert await asked(uid=UID) == [50, 40, 20, 10]
    assert await asked(uid="agent-nobody") == []
    assert await asked(types=frozenset({"connect", "unheard"})) == [50, 20, 10]
    assert await asked(types=frozenset({"exec"})) == [70]
    assert await asked(since_ns=20, until_ns=50) == [40, 20]
    assert await asked(peer="192.0.2.7") == [20, 10]
    assert await asked(peer="::ffff:10.0.0.1") == [20, 10]
    assert await asked(peer="192.0.2.8") == []
    assert await asked(cls=("verdict",), policy="no-telnet", verdict="deny") == [30]
    assert await asked(cls=("verdict",), policy="no-telnet", verdict="allow") == []
    assert await asked(cls=("sample",), name="cpu.*") == [60]
    assert await asked(cls=("sample",), name="cpu") == []
    assert await asked(cls=("event",), peer="192.0.2.7", uid=OTHER) == []
    assert await asked(limit=2) == [70, 50]


@pytest.mark.parametrize(
    "given",
    [
        {"cursor": "x"},
        {"cursor": "9" * 19 + ".1.1"},
        {"cursor": "1." + "9" * 19 + ".1"},
        {"cursor": "\u0661.1.1"},
        {"after": "1"},
        {"cursor": "1.1.1", "after": "1.1"},
        {"peer": "nowhere"},
        {"limit": 0},
        {"limit": 1001},
        {"cls": ()},
        {"cls": ("exec",)},
        {"since_ns": -1},
        {"until_ns": 1 << 63},
    ],
)
async def test_a_query_that_means_nothing(store: Store, given: dict[str, Any]) -> None:
    with pytest.raises(QueryInvalid):
        await store.items(Query(**given))


@settings(max_examples=40)
@given(
    shapes=st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=6), max_size=8),
    limit=st.integers(1, 7),
)
@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_pages_are_all_items_newest_first(
    tmp_path_factory: pytest.TempPathFactory, shapes: list[list[int]], limit: int
) -> None:
    """Batches overlap in time and tie; every page goes on exactly where the one before ended."""
    store = SqliteStore(str(prepared(tmp_path_factory.mktemp("pages"))))
    await store.open()
    try:
        await store.save_agent(agent(UID))
        sent, first = [], 0
        for times in shapes:
            sent.append(batch(first, times))
            first += len(times)
        if sent:
            await store.append(sent)
        found: list[Any] = []
        cursor = None
        for _ in range(60):
            page = await store.items(Query(limit=limit, cursor=cursor))
            assert len(page.items) <= limit
            found += page.items
            cursor = page.next
            if cursor is None:
                break
        assert cursor is None
        times = [each.time_ns for each in found]
        assert times == sorted((time for shape in shapes for time in shape), reverse=True)
        assert sorted(msgspec.json.decode(each.json)["n"] for each in found) == list(range(first))
    finally:
        await store.close()


async def test_a_page_looks_at_a_bounded_number_of_batches(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aegis.gateway.store import reading

    monkeypatch.setattr(reading, "MOST_LOOKED_AT", 5)
    await store.append([batch(n, [n], with_={"verdict": "deny" if n == 1 else "allow"}) for n in range(40)])
    pages, cursor, found = 0, None, []
    while True:
        page = await store.items(Query(verdict="deny", cursor=cursor))
        found += page.items
        pages += 1
        cursor = page.next
        if cursor is None:
            break
    assert [each.time_ns for each in found] == [1]
    assert 5 <= pages <= 12


async def test_a_page_keeps_no_more_than_it_tells(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches that span much time must all be opened; of what is in them only the newest are taken out."""
    from aegis.gateway.store import reading

    made: list[int] = []
    item = reading._Inside.item
    monkeypatch.setattr(
        reading._Inside, "item", lambda self, place: (made.append(place[0]), item(self, place))[1]
    )
    wide = [batch(100 * n, [10_000 + n, *range(n, 5_000, 51)], received_ns=20_000) for n in range(30)]
    await store.append(wide)
    every = sorted(((time) for n in range(30) for time in (10_000 + n, *range(n, 5_000, 51))), reverse=True)
    page = await store.items(Query(until_ns=5_000, limit=20))
    assert [each.time_ns for each in page.items] == [time for time in every if time < 5_000][:20]
    assert len(made) < 250  # of 2,950
    for looked_at in (1 << 30, 4_000):
        monkeypatch.setattr(reading, "MOST_BYTES_LOOKED_AT", looked_at)
        found, cursor, pages = [], None, 0
        while True:
            page = await store.items(Query(limit=50, cursor=cursor))
            found += [each.time_ns for each in page.items]
            pages += 1
            cursor = page.next
            if cursor is None:
                break
        assert found == every
        assert pages < 100


async def test_many_batches_of_one_instant_do_not_stop_a_page(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aegis.gateway.store import reading

    monkeypatch.setattr(reading, "MOST_LOOKED_AT", 3)
    await store.append([batch(n, [7]) for n in range(20)])
    page = await store.items(Query(limit=100))
    assert len(page.items) == 20
    assert page.next is None


async def test_a_follower_misses_nothing_and_sees_nothing_twice(store: Store) -> None:
    await store.append([batch(0, [100, 101, 102])])
    place = await store.place()
    assert (await store.items(Query(after=place))).items == []
    await store.append([batch(3, [1, 2, 3]), batch(0, [4], cls="flow")])  # later, of earlier instants
    seen: list[int] = []
    for _ in range(4):
        page = await store.items(Query(after=place, limit=2))
        seen += numbers(page)
        place = page.next
    assert seen == [3, 4, 5]
    await store.append([batch(6, [5])])
    assert numbers(await store.items(Query(after=place))) == [6]
    assert numbers(await store.items(Query(after=""))) == [0, 1, 2, 3, 4, 5, 6]


async def test_a_record_nobody_knows_yet_is_kept(store: Store) -> None:
    made = items.batch(
        uid=UID,
        cls="event",
        stream=1,
        first=0,
        boot_id="b",
        items=[b'{"schema":"aegis.record","type":77}'],
        received_ns=500,
    )
    await store.append([made])
    page = await store.items(Query())
    assert [(each.time_ns, each.json) for each in page.items] == [
        (500, b'{"schema":"aegis.record","type":77}')
    ]


# Retention


async def test_what_is_too_old_goes_and_its_place_is_not_given_again(
    store: Store, reopened: Callable[[], Any]
) -> None:
    now = 100 * DAY_NS
    old, new = now - 8 * DAY_NS, now - 6 * DAY_NS
    await store.append([batch(n, [5], received_ns=old, with_={"dst": "192.0.2.1"}) for n in range(10)])
    await store.append([batch(10, [6], received_ns=new)])
    assert await store.prune(now, RETENTION, most_batches=4) == 4
    assert await store.prune(now, RETENTION, most_batches=100) == 6
    assert await store.prune(now, RETENTION, most_batches=100) == 0
    assert numbers(await store.items(Query())) == [10]
    assert (await store.items(Query(peer="192.0.2.1"))).items == []
    everything = {"event": Keep(age_ns=0, total_bytes=0)}
    place = await store.place()
    assert await store.prune(now, everything, most_batches=100) == 1
    assert (await store.totals())["event"] == Totals(items=0, bytes=0)
    again = await reopened()
    assert nexts(await again.append([batch(0, [1])])) == [11]
    assert nexts(await again.append([batch(11, [1])])) == [12]
    assert numbers(await again.items(Query(after=place))) == [11]


async def test_what_is_too_much_goes_oldest_first(store: Store) -> None:
    sent = [batch(n, [9 - n]) for n in range(10)]  # the last to come are the oldest by their own instants
    await store.append(sent)
    size = (await store.totals())["event"].bytes // 10
    keep = {"event": Keep(age_ns=1 << 62, total_bytes=3 * size)}
    assert await store.prune(1000, keep, most_batches=100) == 7
    assert sorted(numbers(await store.items(Query()))) == [7, 8, 9]


async def test_small_batches_and_keys_count_as_what_they_take(store: Store) -> None:
    sent = [batch(n, [n], with_={"dst": f"192.0.2.{n}"} if n % 2 else {}) for n in range(100)]
    await store.append(sent)
    plain = sum(len(each.items) for each in sent)
    held = (await store.totals())["event"].bytes
    assert plain + 100 * 150 < held < plain + 100 * 300
    assert await store.prune(1000, {"event": Keep(age_ns=0, total_bytes=0)}, most_batches=1000) == 100
    assert (await store.totals())["event"] == Totals(items=0, bytes=0)


async def test_an_agent_has_so_many_cursors(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from aegis.gateway.store import appending

    monkeypatch.setattr(appending, "MOST_CURSORS", 20)
    monkeypatch.setattr(appending, "_CURSORS_A_STEP", 5)
    await store.append([batch(0, [1], uid=OTHER, stream=7, received_ns=1)])
    for n in range(100):
        await store.append([batch(0, [1], stream=n, received_ns=1000 + n)])
        await store.append([batch(n, [1], stream=1000, received_ns=1000 + n)])
    kept = {each.stream: each.next for each in await store.cursors(UID)}
    assert len(kept) <= 20
    assert kept[1000] == 100  # it was moved all the time
    assert {99, 98, 97, 96} <= kept.keys()
    assert nexts(await store.append([batch(0, [1], stream=99)])) == [1]
    assert [each.stream for each in await store.cursors(OTHER)] == [7]


# Messages


def message(name: str, **more: Any) -> MessageRow:
    given: dict[str, Any] = {
        "id": name,
        "uid": UID,
        "command_id": name,
        "channel": "backend.modules",
        "type": "event",
        "body": "{}",
        "status": "queued",
        "created_ns": 10,
        "expires_ns": 20,
    }
    return MessageRow(**{**given, **more})


async def test_the_life_of_a_message(store: Store, reopened: Callable[[], Any]) -> None:
    await store.add_messages([message("a"), message("b", created_ns=9), message("c", status="sent")])
    assert [each.id for each in await store.waiting()] == ["b", "a"]
    await store.change_messages([MessageChange(id="a", status="answered", answered_ns=4, answer="{}")])
    await store.change_messages([MessageChange(id="a", status="sent", sent_ns=3)])
    again = await reopened()
    found = await again.message("a")
    assert found == message("a", status="answered", sent_ns=3, answered_ns=4, answer="{}")
    assert await again.message("nobody") is None
    assert [each.id for each in await again.waiting()] == ["b"]


async def test_messages_are_kept_all_or_none(store: Store) -> None:
    await store.add_messages([message("a")])
    with pytest.raises(StorageError):
        await store.add_messages([message("b"), message("a")])
    assert await store.message("b") is None


async def test_old_messages_go_and_those_that_wait_stay(store: Store) -> None:
    await store.add_messages([message(f"m{n}", status="sent") for n in range(5)] + [message("w")])
    assert await store.prune_messages(10, most=100) == 0
    assert await store.prune_messages(11, most=3) == 3
    assert await store.prune_messages(11, most=3) == 2
    assert await store.message("w") is not None


# Nonces


async def test_nonces_are_remembered_for_their_time(store: Store, reopened: Callable[[], Any]) -> None:
    await store.save_nonces([(b"a", 100), (b"b", 200)], 50)
    await store.save_nonces([(b"a", 100)], 50)
    again = await reopened()
    assert sorted(await again.nonces()) == [(b"a", 100), (b"b", 200)]
    await again.save_nonces([], 101)
    assert await again.nonces() == [(b"b", 200)]


async def test_a_closed_store_says_so(store: Store) -> None:
    await store.close()
    await store.close()
    with pytest.raises(StorageError):
        await store.agents()


async def test_losses_are_left_out_where_they_are_not_asked_for(store: Store) -> None:
    await store.append([batch(0, [10], cls="flow", losses=(("kernel", "flow", "full", 3),))])
    for query, found in (
        (Query(cls=("flow",), losses=False), 1),
        (Query(cls=("flow",)), 2),
        (Query(cls=items.CLASSES, types=frozenset({"loss"})), 1),
        (Query(cls=("flow",), losses=False, after=""), 1),
    ):
        assert len((await store.items(query)).items) == found


async def test_a_follower_that_finds_nothing_goes_on(store: Store) -> None:
    """Its place is behind what was looked at, whatever the filter left of it: the next look is at new batches only."""
    place = await store.place()
    query = Query(types=frozenset({"listen"}), after=place)
    for first in range(5):
        await store.append([batch(first, [first + 1])])
    page = await store.items(query)
    assert (page.items, page.next) == ([], await store.place())
    assert page.next != place
    await store.append([batch(5, [6])])
    found = await store.items(Query(after=page.next))
    assert [each.time_ns for each in found.items] == [6]
    assert (await store.items(Query(after=found.next))).next == found.next


async def test_an_instant_of_the_future_does_not_stay_on_top(store: Store) -> None:
    late = 10**18 + 600 * 10**9
    await store.append([batch(0, [1 << 62], received_ns=10**18), batch(1, [late], received_ns=late)])
    page = await store.items(Query())
    assert [each.time_ns for each in page.items] == [late, 10**18 + 300 * 10**9]
    assert msgspec.json.decode(page.items[1].json)["time_ns"] == 1 << 62
    assert not (await store.items(Query(since_ns=late + 1))).items
