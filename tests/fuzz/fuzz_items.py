"""Any bytes as the items of a batch at the gateway's store: a batch that can be asked for, or EnvelopeInvalid.

A first line that is JSON is the query that the items are then asked by.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

PARSERS = ("aegis/gateway/store/items.py",)
RECEIVED_NS = 1_763_900_000_000_000_000


def query(text: bytes) -> Any:
    """A query with what the line says; None where it says none, or the store refuses it."""
    import msgspec

    from aegis.errors import QueryInvalid
    from aegis.gateway.store.base import Query
    from aegis.gateway.store.items import MOST_INTEGER, checked

    try:
        found = msgspec.json.decode(text, type=Query)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    try:
        held = checked(found)
    except QueryInvalid as error:
        said = str(error)
        assert "\n" not in said
        return None
    assert 1 <= held.limit <= 1000
    assert all(each is None or 0 <= each <= MOST_INTEGER for each in (held.since_ns, held.until_ns))
    assert checked(held) == held
    return held


def one(data: bytes) -> None:
    import msgspec

    from aegis.errors import EnvelopeInvalid
    from aegis.gateway.store import items

    line, _, rest = data.partition(b"\n")
    asked = query(line)
    losses = (("kernel", "exec", "full", 3),) if data[:1] == b" " else ()
    try:
        heads = items.read(rest)
    except EnvelopeInvalid:
        heads = None
    raws: list[Any] = rest.split(b"\n") if heads is None else items.split(rest)
    bits = asked is not None and items.type_bits(asked.types)
    try:
        batch = items.batch(
            uid="agent-1", cls="event" if asked is None else asked.cls[0], stream=len(line) - 1, first=len(rest),
            boot_id="00" * 16, items=[bytes(raw) for raw in raws], received_ns=RECEIVED_NS, losses=losses,
        )  # fmt: skip
    except EnvelopeInvalid:
        return
    assert len(raws) == batch.count
    assert 0 <= batch.oldest_ns <= batch.newest_ns <= items.MOST_INTEGER
    assert 0 <= batch.types <= items.MOST_INTEGER
    assert all(len(key) <= items.MOST_KEY for key in batch.peers | batch.policies)
    stored = items.split(batch.items)
    assert len(stored) == batch.count + len(losses)
    msgspec.json.decode(batch.items)
    half = items.without_first(batch, 1) if batch.count > 1 else batch
    assert items.split(half.items)[-1] == stored[-1]
    found = items.read(batch.items)
    for head, time_ns in zip(found, items.instants(found, RECEIVED_NS), strict=True):
        assert 0 <= time_ns <= RECEIVED_NS + items.AHEAD_NS
        assert batch.oldest_ns <= time_ns <= batch.newest_ns
        if asked is not None and items.fulfils(head, time_ns, asked):
            assert not bits or batch.types & bits  # what the batch is chosen by holds what is in it
            assert asked.peer is None or asked.peer[: items.MOST_KEY] in batch.peers
            assert asked.policy is None or asked.policy[: items.MOST_KEY] in batch.policies


if __name__ == "__main__":
    from tests.fuzz.entry import main

    main("items")
