"""What is kept of a batch whose items have members in common."""

from __future__ import annotations

import msgspec
import pytest

from aegis.errors import EnvelopeInvalid
from aegis.gateway.store import items, sharing
from aegis.gateway.store.base import Batch
from aegis.protocol import shared_items, v1

EXEC = b'{"time_ns":5,"type":"exec","shared":1}'
EXIT = b'{"time_ns":6,"type":"exit","code":0,"shared":1}'
SHARED = [b'{"ancestors":[]}', b'{"pid":7,"shared":0}']


def made(each: list[bytes], shared: list[bytes], **more: object) -> Batch:
    given: dict[str, object] = {"uid": "agent-1", "cls": "event", "stream": 1, "first": 0, "boot_id": "b"}
    return items.batch(**{**given, **more}, items=each, shared=shared, received_ns=900)  # type: ignore[arg-type]


def test_a_batch_is_kept_as_it_came() -> None:
    batch = made([EXEC, EXIT], SHARED)
    assert batch.items == b'{"shared":[' + b",".join(SHARED) + b'],"items":[' + EXEC + b"," + EXIT + b"]}"
    assert sharing.opened(batch.items) == (b"[" + EXEC + b"," + EXIT + b"]", SHARED)
    assert (batch.count, batch.oldest_ns, batch.newest_ns) == (2, 5, 6)
    assert batch.types == items.type_bits(frozenset({"exec", "exit"}))


def test_a_batch_that_shares_nothing_is_an_array() -> None:
    assert made([EXEC], []).items == b"[" + EXEC + b"]"
    assert sharing.opened(b"[" + EXEC + b"]") == (b"[" + EXEC + b"]", [])


def test_losses_stand_behind_the_items() -> None:
    batch = made([EXEC], SHARED, losses=(("outbox", "event", "evicted", 3),))
    array, shared = sharing.opened(batch.items)
    assert shared == SHARED
    assert [head.type for head in items.read(array)] == ["exec", "loss"]


def test_without_the_first_items_the_rest_names_what_it_named() -> None:
    rest = items.without_first(made([EXEC, EXIT], SHARED, first=3), 1)
    assert (rest.first, rest.count) == (4, 1)
    assert sharing.opened(rest.items) == (b"[" + EXIT + b"]", SHARED)


@pytest.mark.parametrize(
    "name", ["agent_uid", "schema", "type", "time_ns", "src", "dst", "policy", "verdict", "name"]
)
@pytest.mark.parametrize("value", [b"null", b'"x"', b"5", b"{}"])
def test_what_is_read_off_an_item_is_its_own(name: str, value: bytes) -> None:
    assert name in items.Head.__struct_fields__
    with pytest.raises(EnvelopeInvalid, match="0 has a member that only an item has"):
        made([EXEC], [b'{"a":1,"%s":%s}' % (name.encode(), value), SHARED[1]])
    escaped = f"\\u{ord(name[0]):04x}{name[1:]}".encode()
    with pytest.raises(EnvelopeInvalid, match="only an item has"):
        made([EXEC], [b'{"%s":%s}' % (escaped, value), SHARED[1]])


def test_everything_that_is_read_off_an_item_is_its_own() -> None:
    """A member that items are found by later is to be looked for here too."""
    assert set(sharing._Read.__struct_fields__) == set(items.Head.__struct_fields__) - {"shared"}


@pytest.mark.parametrize(
    ("each", "shared"),
    [
        (b'{"time_ns":5,"type":"exec","shared":2}', SHARED),
        (b'{"time_ns":5,"type":"exec","shared":9999}', SHARED),
        (EXEC, [b'{"a":1,"shared":0}', b"{}"]),
        (EXEC, [b'{"a":1,"shared":1}', b"{}"]),
        (EXEC, [b"7", b"{}"]),
        (EXEC, [b"[]", b"{}"]),
        (EXEC, [b'{"a":1},{"b":2}', b"{}"]),
        (EXEC, [b'{"a":"\xff"}', b"{}"]),
        (EXEC, [b'{"a":\n1}', b"{}"]),
        (EXEC, [b'{"a":\r1}', b"{}"]),
        (EXEC, [b'{"a":1', b"{}"]),
    ],
)
def test_what_no_item_can_name(each: bytes, shared: list[bytes]) -> None:
    with pytest.raises(EnvelopeInvalid):
        made([each], shared)


@pytest.mark.parametrize("value", [b"7", b"9999", b'"x"', b"{}", b"1e999", b"null"])
def test_a_member_of_that_name_that_is_not_the_last_names_nothing(value: bytes) -> None:
    each = b'{"time_ns":5,"type":"exec","shared":%s,"a":1}' % value
    array, shared = sharing.opened(made([each], SHARED).items)
    assert shared_items.expand(bytes(items.split(array)[0]), shared) == each


def test_items_stand_for_so_much_and_no_more() -> None:
    large = b'{"a":"' + b"x" * 10_000 + b'"}'
    one = b'{"time_ns":5,"type":"exec","shared":0}'
    holds = v1.BATCH_EXPANDED_BYTES // (len(large) + len(one) + 1)
    assert made([one] * holds, [large]).count == holds
    with pytest.raises(EnvelopeInvalid, match="more than 1048576 bytes"):
        made([one] * (holds + 1), [large])
    chain = [large, *(b'{"b":1,"shared":%d}' % place for place in range(9))]
    with pytest.raises(EnvelopeInvalid, match="more than 1048576 bytes"):
        made([b'{"time_ns":5,"type":"exec","shared":9}'] * (holds + 1), chain)


def test_what_is_kept_is_json() -> None:
    assert msgspec.json.decode(made([EXEC], SHARED).items)["shared"][1] == {"pid": 7, "shared": 0}
