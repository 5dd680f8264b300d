"""Events and flows by filter: pages that go on where they ended, streams, followers."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import quote

import pytest

from aegis.gateway.api.records import MOST_ITEMS
from aegis.gateway.store.base import CLASSES, Query
from tests.support.api import NOW_NS, UID, Answered, Api

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])  # what is answered is the same on both

NDJSON = {"Accept": "application/x-ndjson"}


def pids(answer: Answered) -> list[int]:
    return [item["pid"] for item in answer.json()["items"]]


def fill(api: Api, count: int) -> None:
    api.hub.store(*({"type": "exec", "pid": number, "exe": "/bin/sh"} for number in range(count)))


async def test_the_newest_first_with_their_agent(api: Api) -> None:
    fill(api, 3)
    answer = await api.call("GET", "/events")
    assert answer.json()["items"][0] == {
        "agent_uid": UID,
        "schema": "aegis.event",
        "version": 1,
        "time_ns": NOW_NS + 2,
        "type": "exec",
        "pid": 2,
        "exe": "/bin/sh",
    }
    assert pids(answer) == [2, 1, 0]
    assert answer.json()["next"] is None
    assert answer.headers["content-type"] == "application/json"


async def test_pages_go_on_where_they_ended(api: Api) -> None:
    fill(api, 25)
    seen: list[int] = []
    cursor = None
    for _ in range(4):
        answer = await api.call("GET", "/events?limit=10" + (f"&cursor={cursor}" if cursor else ""))
        seen += pids(answer)
        cursor = answer.json()["next"]
        if cursor is None:
            break
    assert seen == list(range(24, -1, -1))


async def test_a_filter_keeps_pages_whole(api: Api) -> None:
    """What the store cannot choose by is chosen here: nothing twice, nothing left out, no page too long."""
    fill(api, 3000)
    api.hub.store(*({"type": "exec", "pid": 7, "exe": "/bin/x", "n": number} for number in range(30)))
    fill(api, 1500)
    seen = []
    cursor = None
    while True:
        answer = await api.call("GET", "/events?limit=7&exe=/bin/x" + (f"&cursor={cursor}" if cursor else ""))
        page = answer.json()
        assert len(page["items"]) <= 7
        seen += [item["n"] for item in page["items"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert seen == list(range(29, -1, -1))


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("pid=1", [1]),
        ("exe=/usr/bin/curl", [1]),
        ("process=curl", [1]),
        ("process=ssh", [2]),
        ("protocol=TCP", [2, 1]),
        ("protocol=6", [2, 1]),
        ("protocol=udp", []),
        ("port=443", [1]),
        ("port=40000", [1]),
        ("dst=10.0.0.2", [2]),
        ("src=::ffff:10.0.0.1", [2, 1]),
        ("src=10.0.0.2", []),
        ("dst=10.0.0.2&port=443", []),
    ],
)
async def test_what_is_chosen_by(api: Api, query: str, found: list[int]) -> None:
    api.hub.store(
        {"type": "connect", "pid": 1, "exe": "/usr/bin/curl", "comm": "curl", "protocol": "tcp",
         "src": "10.0.0.1", "src_port": 40000, "dst": "2001:db8::1", "dst_port": 443},
        {"type": "connect", "pid": 2, "exe": None, "comm": "sshd", "protocol": "tcp",
         "src": "10.0.0.1", "src_port": 50000, "dst": "10.0.0.2", "dst_port": 22},
        {"type": "loss", "pid": 3, "stage": "ring", "kind": "exec", "reason": "full", "count": 5},
        {"type": "exec", "pid": "odd", "exe": 5},
    )  # fmt: skip
    assert pids(await api.call("GET", f"/events?{query}")) == found


async def test_what_the_store_is_asked(api: Api) -> None:
    await api.call(
        "GET",
        f"/events?agent={UID}&type=exec&type=exit&since=1763900000000000000&until=2025-11-23T12:14:20Z"
        "&peer=::ffff:10.0.0.9&policy=no-telnet&verdict=deny&last=5",
    )
    await api.call("GET", "/events?type=verdict")
    await api.call("GET", "/flows?limit=2")
    await api.call("GET", "/findings")
    await api.call("GET", "/samples?name=cpu.*")
    assert api.hub.queries == [
        Query(
            cls=("event",), uid=UID, types=frozenset({"exec", "exit"}), since_ns=NOW_NS,
            until_ns=NOW_NS + 60 * 10**9, peer="10.0.0.9", policy="no-telnet", verdict="deny", limit=5,
        ),
        Query(cls=("verdict",), types=frozenset({"verdict"}), limit=100),
        Query(cls=("flow",), losses=False, limit=2),
        Query(cls=("finding",), losses=False, limit=100),
        Query(cls=("sample",), name="cpu.*", losses=False, limit=100),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "query",
    [
        "type=nonsense", "verdict=maybe", "protocol=nonsense", "protocol=256", "port=65536", "port=-1", "pid=x",
        "src=nowhere", "peer=10.0.0.0/8", "since=yesterday", "limit=1&last=1", f"limit={MOST_ITEMS + 1}",
        "limit=1000000", "cursor=odd", "after=odd", "cursor=1&after=1", "wait=1s", "after=now&wait=90s", "agent=" + "a" * 65,
    ],
)  # fmt: skip
async def test_a_wrong_filter_is_named(api: Api, query: str) -> None:
    answer = await api.call("GET", f"/events?{query}")
    assert (answer.status, answer.json()["code"]) == (400, "query_invalid"), answer.body


async def test_a_line_each(api: Api) -> None:
    fill(api, 2500)
    answer = await api.call("GET", "/events?last=2100", headers=NDJSON)
    assert answer.headers["content-type"] == "application/x-ndjson"
    rows = [json.loads(line) for line in answer.body.splitlines()]
    assert [row["pid"] for row in rows] == list(range(2499, 399, -1))
    assert (await api.call("GET", "/flows?protocol=udp", headers=NDJSON)).body == b""
    assert (await api.call("GET", "/events?after=now", headers=NDJSON)).status == 400
    assert (await api.call("GET", "/events?cursor=odd", headers=NDJSON)).status == 400
    assert (await api.call("GET", "/agents", headers=NDJSON)).status == 406


async def test_a_follower_gets_what_comes_in_order(api: Api) -> None:
    fill(api, 3)
    begun = (await api.call("GET", "/events?after=now")).json()
    assert begun == {"items": [], "next": "3"}
    waiting = asyncio.create_task(api.call("GET", f"/events?after={begun['next']}&wait=10s"))
    await asyncio.sleep(0.25)
    assert not waiting.done()
    api.hub.store({"type": "exec", "pid": 100}, {"type": "exec", "pid": 101})
    answer = await waiting
    assert pids(answer) == [100, 101]
    assert answer.json()["next"] == "5"


async def test_a_follower_passes_what_is_not_chosen(api: Api) -> None:
    waiting = asyncio.create_task(api.call("GET", "/events?after=now&wait=10s&pid=5"))
    await asyncio.sleep(0.2)
    fill(api, 3)
    await asyncio.sleep(0.2)
    assert not waiting.done()
    api.hub.store({"type": "exec", "pid": 5})
    assert pids(await waiting) == [5]
    assert [query.after for query in api.hub.queries].count(
        "0"
    ) < 15  # what was passed is not looked at again


async def test_a_wait_ends(api: Api) -> None:
    begun = asyncio.get_running_loop().time()
    answer = await api.call("GET", "/events?after=now&wait=300ms")
    assert answer.json() == {"items": [], "next": "0"}
    assert 0.3 <= asyncio.get_running_loop().time() - begun < 5


async def test_a_stop_ends_waits_at_once(api: Api) -> None:
    waiting = asyncio.create_task(api.call("GET", "/events?after=now&wait=30s"))
    await asyncio.sleep(0.2)
    begun = asyncio.get_running_loop().time()
    await api.app.close()
    assert (await waiting).status == 200
    assert asyncio.get_running_loop().time() - begun < 1


async def test_text_in_a_filter_is_only_text(api: Api) -> None:
    fill(api, 3)
    for text in ("' OR 1=1 --", '"', "%", "\x00", "😀"):
        answer = await api.call("GET", f"/events?process={quote(text)}&policy={quote(text)}")
        assert answer.status == 200
        assert answer.json()["items"] == []


async def test_types_of_json_stay(api: Api) -> None:
    odd: dict[str, Any] = {
        "type": "exec",
        "pid": 1,
        "args": ["a\u2028b", "\x7f"],
        "n": 2**53 + 1,
        "f": 1.5,
        "x": None,
    }
    api.hub.store(odd)
    assert odd.items() <= (await api.call("GET", "/events")).json()["items"][0].items()


async def test_losses_are_asked_for_as_events(api: Api) -> None:
    await api.call("GET", "/events?type=loss")
    for path in ("/flows", "/samples", "/findings"):
        await api.call("GET", path)
    losses, *others = api.hub.queries
    assert losses.cls == CLASSES
    assert losses.losses
    assert not any(each.losses for each in others)
