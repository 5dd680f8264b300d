"""Any bytes as a batch whose items share members: one that is told as it was meant, or EnvelopeInvalid.

Lines up to an empty one are the shared objects, the others the items.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

PARSERS = ("aegis/protocol/shared_items.py", "aegis/gateway/store/sharing.py")
RECEIVED_NS = 1_763_900_000_000_000_000


def pieces(lines: list[bytes]) -> list[bytes]:
    """Each value as it is parted from the others on a batch's way; the lines where that fails."""
    import msgspec

    try:
        found = msgspec.json.decode(b"[" + b",".join(lines) + b"]", type=list[msgspec.Raw])
    except (msgspec.DecodeError, RecursionError):
        return lines
    return [bytes(each) for each in found]


def meant(item: bytes, shared: list[bytes]) -> list[tuple[str, Any]]:
    """The members, read as a person would, of an item that is known to be good."""
    from aegis.protocol import shared_items

    members: list[tuple[str, Any]] = json.loads(item, object_pairs_hook=list)
    place = shared_items.named(item)
    if place is None:
        return members
    assert members[-1] == ("shared", place)
    return members[:-1] + meant(shared[place], shared[:place])


def one(data: bytes) -> None:
    from aegis.errors import EnvelopeInvalid
    from aegis.gateway.store import items, sharing
    from aegis.protocol import shared_items, v1

    before, _, behind = data.partition(b"\n\n")
    shared, given = pieces(before.split(b"\n")), pieces(behind.split(b"\n"))
    try:
        batch = items.batch(
            uid="agent-1", cls="event", stream=1, first=0, boot_id="00" * 16, items=given,
            received_ns=RECEIVED_NS, shared=shared,
        )  # fmt: skip
    except EnvelopeInvalid as error:
        said = str(error)
        assert said
        return
    array, objects = sharing.opened(batch.items)
    assert (sharing.written(array, objects), objects) == (batch.items, shared)
    heads, raws = items.read(array), [bytes(each) for each in items.split(array)]
    assert len(heads) == len(raws) == batch.count
    size = 0
    for head, raw in zip(heads, raws, strict=True):
        whole = shared_items.expand(raw, objects)
        size += len(whole)
        if objects:
            assert json.loads(whole, object_pairs_hook=list) == meant(raw, objects)
        else:
            assert whole == raw
        (found,) = items.read(b"[" + whole + b"]")
        assert not found.agent_uid
        for name in ("time_ns", "type", "src", "dst", "policy", "verdict", "name", "schema"):
            assert getattr(found, name) == getattr(head, name)
    assert size <= v1.BATCH_EXPANDED_BYTES
    if batch.count > 1:
        rest, same = sharing.opened(items.without_first(batch, 1).items)
        assert (items.split(rest), same) == (items.split(array)[1:], objects)


if __name__ == "__main__":
    from tests.fuzz.entry import main

    main("shared")
