from __future__ import annotations

from typing import Any

import msgspec
import pytest

from aegis.errors import EnvelopeInvalid, QueryInvalid
from aegis.gateway.store import items
from aegis.gateway.store.base import Query


def made(*each: bytes, **more: Any) -> Any:
    given: dict[str, Any] = {
        "uid": "agent-1",
        "cls": "event",
        "stream": 1,
        "first": 0,
        "boot_id": "b",
        "items": list(each),
        "received_ns": 900,
    }
    return items.batch(**{**given, **more})


@pytest.mark.parametrize(
    "each",
    [
        b'{"time_ns":1.5}',
        b'{"time_ns":-3}',
        b'{"time_ns":9223372036854775808}',
        b'{"time_ns":"1"}',
        b'{"time_ns":1,"dst":7}',
        b'{"time_ns":1,"x":"\xff"}',
        b'{"time_ns":1',
        b'{"time_ns":1},{"time_ns":2}',
        b'{"time_ns":1}]',
        b"[]",
        b"7",
        b"",
        b'{"x":' * 5000 + b"1" + b"}" * 5000,
    ],
)
def test_an_item_that_is_none_refuses_the_batch(each: bytes) -> None:
    with pytest.raises(EnvelopeInvalid):
        made(b'{"time_ns":1}', each)


@pytest.mark.parametrize(
    "given",
    [
        {"stream": -1},
        {"stream": 1 << 63},
        {"first": (1 << 63) - 1},
        {"first": -1},
        {"cls": "rumour"},
    ],
)
def test_numbers_that_no_column_holds(given: dict[str, Any]) -> None:
    with pytest.raises(EnvelopeInvalid):
        made(b'{"time_ns":1}', **given)


def test_a_batch_without_items_is_none() -> None:
    with pytest.raises(EnvelopeInvalid):
        made()


def test_what_is_read_off_items() -> None:
    batch = made(
        b'{"time_ns":5,"type":"connect","src":"10.0.0.1","dst":"192.0.2.1","policy":null}',
        b'{"time_ns":3,"type":"verdict","dst":"192.0.2.1","policy":"p"}',
        b'{"type":77}',
    )
    assert (batch.oldest_ns, batch.newest_ns, batch.count) == (3, 900, 3)
    assert batch.peers == {"10.0.0.1", "192.0.2.1"}
    assert batch.policies == {"p"}
    assert batch.types & items.type_bits(frozenset({"connect"}))
    assert batch.types & items.type_bits(frozenset({"heard-of-never"}))
    assert not batch.types & items.type_bits(frozenset({"exec"}))


def test_the_rest_of_a_batch_keeps_its_losses() -> None:
    batch = made(b'{"time_ns":1}', b'{"time_ns":2}', losses=(("outbox", "event", "evicted", 4),))
    rest = items.without_first(batch, 1)
    assert (rest.first, rest.count, rest.oldest_ns) == (1, 1, 2)
    assert [msgspec.json.decode(each).get("count") for each in items.split(rest.items)] == [None, 4]


def test_an_address_is_compared_in_its_normal_form() -> None:
    assert items.checked(Query(peer="::FFFF:192.0.2.1")).peer == "192.0.2.1"
    assert items.checked(Query(peer="2001:DB8:0::1")).peer == "2001:db8::1"
    with pytest.raises(QueryInvalid, match="peer"):
        items.checked(Query(peer="192.0.2.1/24"))


@pytest.mark.parametrize(
    ("each", "text"),
    [
        (b'{"time_ns":1,"agent_uid":"agent-2"}', "names an agent"),
        (b'{"time_ns":1,"agent_uid":null}', "names an agent"),
        (b'{"time_ns":1,"agent\\u005fuid":"agent-2"}', "names an agent"),
        (b'{"a":\n{"agent_uid":"agent-2"}\n}', "line"),
        (b'{"time_ns":1\r}', "line"),
        (b'{"schema":"aegis.event"}', "without its type or instant"),
        (b'{"schema":"aegis.event","time_ns":1}', "without its type or instant"),
        (b'{"schema":"aegis.event","type":"exec"}', "without its type or instant"),
        (b'{"schema":"aegis.flow"}', "without its type or instant"),
    ],
)
def test_an_item_that_would_be_taken_for_another_refuses_the_batch(each: bytes, text: str) -> None:
    with pytest.raises(EnvelopeInvalid, match=text):
        made(b'{"time_ns":1}', each)


@pytest.mark.parametrize(
    "each",
    [
        b'{"schema":"aegis.record"}',
        b'{"schema":"aegis.flow","time_ns":1}',
        b'{"schema":"aegis.event","type":"exec","time_ns":1}',
        b'{"a":"\\n","b":{"agent_uid":"inside is its own matter"}}',
    ],
)
def test_an_item_that_says_what_it_must(each: bytes) -> None:
    assert made(each).items == b"[" + each + b"]"


def test_an_instant_of_the_future_counts_as_the_nearest_that_may_be() -> None:
    minutes = 300 * 1_000_000_000
    batch = made(b'{"time_ns":%d}' % (1 << 62), b'{"time_ns":%d}' % (901 + minutes), b'{"time_ns":7}')
    assert (batch.oldest_ns, batch.newest_ns) == (7, 900 + minutes)
    assert b"%d" % (1 << 62) in batch.items
