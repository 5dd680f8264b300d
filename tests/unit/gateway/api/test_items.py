from __future__ import annotations

import json

import msgspec
import pytest

from aegis.errors import QueryInvalid
from aegis.gateway.api.items import MOST_LOOKED_AT, Choice, address, chosen_page, spliced, told
from aegis.gateway.store.base import Item, Query
from tests.support.api import ScriptedHub


def item(content: bytes, uid: str = "agent-1") -> Item:
    return Item(uid=uid, time_ns=1, received_ns=1, json=content)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"a":1}', {"agent_uid": "agent-1", "a": 1}),
        (b' { "a" : 1 } ', {"agent_uid": "agent-1", "a": 1}),
        (b"{}", {"agent_uid": "agent-1"}),
        (b"{ }", {"agent_uid": "agent-1"}),
    ],
)
def test_the_agent_is_put_in_without_reading(content: bytes, expected: object) -> None:
    assert json.loads(told(item(content))) == expected


def test_a_page() -> None:
    assert json.loads(spliced([b"{}", b'{"a":1}'], 'a"b')) == {"items": [{}, {"a": 1}], "next": 'a"b'}
    assert json.loads(spliced([], None)) == {"items": [], "next": None}


def test_addresses_in_one_form() -> None:
    assert address("::ffff:10.0.0.1", name="src") == "10.0.0.1"
    assert address("2001:DB8:0::1", name="src") == "2001:db8::1"
    with pytest.raises(QueryInvalid):
        address("fe80::1%eth0/64", name="src")


def test_no_condition_is_no_choice() -> None:
    assert not Choice.of()
    assert Choice.of(pid=0)
    assert Choice.of(port=0)


async def test_a_page_looks_at_so_many_and_says_where_to_go_on() -> None:
    hub = ScriptedHub()
    body = msgspec.json.encode({"pid": 1})
    hub.stored = [item(body)] * (MOST_LOOKED_AT + 2000)
    found, next_ = await chosen_page(hub, Query(), Choice.of(pid=2), 10)
    assert (found, next_) == ([], "2000")
    assert sum(query.limit for query in hub.queries) == MOST_LOOKED_AT


async def test_a_follower_s_page_ends_behind_what_fits() -> None:
    hub = ScriptedHub()
    hub.store(*({"pid": number % 2, "n": number} for number in range(20)))
    found, next_ = await chosen_page(hub, Query(after="0"), Choice.of(pid=1), 3)
    assert [json.loads(one)["n"] for one in found] == [1, 3, 5]
    assert next_ == "6"
