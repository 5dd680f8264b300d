"""Any bytes as the records of a block: JSON arrays that are JSON and hold an item for each record, or RecordsMalformed.

Those whose items share members hold the same items.

The parser is native, so its branches are not counted here; the entry holds it to cbor2 and to msgspec.
"""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

PARSERS = ("aegis/_native/transcode.pyx",)
MOST_ITEMS, MOST_BYTES, SHARED_BYTES, MOST_EXPANDED = 3, 512, 2048, 3000
BASE_NS = 1_763_900_000_000_000_000


def shares(data: bytes, is_malformed: bool) -> None:
    """Items that share members hold, with these, what they hold otherwise."""
    import msgspec

    from aegis._native import transcode
    from aegis.protocol import shared_items

    found: list[object] = []
    try:
        parts = transcode.to_shared_json(
            data, BASE_NS, most_items=MOST_ITEMS, most_bytes=SHARED_BYTES, most_expanded=MOST_EXPANDED
        )
    except transcode.RecordsMalformed as error:
        at = error.offset
        assert 0 <= at <= len(data)
        assert is_malformed
        return
    assert not is_malformed
    for _, count, array, shared in parts:
        items = msgspec.json.decode(array, type=list[msgspec.Raw])
        objects = [bytes(each) for each in msgspec.json.decode(shared or b"[]", type=list[msgspec.Raw])]
        assert len(items) == count <= MOST_ITEMS
        assert count == 1 or len(array) + len(shared) <= SHARED_BYTES
        shared_items.sizes(objects)
        whole = [shared_items.expand(bytes(item), objects) for item in items]
        assert count == 1 or sum(map(len, whole)) <= MOST_EXPANDED
        found.extend(json.loads(item) for item in whole)
    arrays = transcode.to_json(data, BASE_NS, most_bytes=SHARED_BYTES)
    assert found == [item for *_, array in arrays for item in json.loads(array)]


def one(data: bytes) -> None:
    import msgspec

    from aegis._native import transcode

    malformed = transcode.RecordsMalformed
    try:
        ends = transcode.records_of(data)
    except malformed as error:
        at = error.offset
        assert 0 <= at <= len(data)
        ends = None
    if ends is not None:
        assert ends[0] == 0
        assert ends[-1] == len(data)
        assert all(one < other for one, other in pairwise(ends))
        assert [transcode.end_of(data, 0, number) for number in range(len(ends))] == ends
    try:
        arrays = transcode.to_json(data, BASE_NS, most_items=MOST_ITEMS, most_bytes=MOST_BYTES)
    except malformed as error:
        at = error.offset
        assert 0 <= at <= len(data)
        arrays = None
    shares(data, arrays is None)
    if arrays is None:
        return
    assert ends is not None
    assert sum(count for _, count, _ in arrays) == len(ends) - 1
    first = 0
    for begins, count, array in arrays:
        assert begins == first
        assert 0 < count <= MOST_ITEMS
        assert count == 1 or len(array) <= MOST_BYTES
        text = array.decode()
        items = msgspec.json.decode(text)
        assert len(items) == count
        for item in items:
            assert item["schema"].startswith("aegis.")
        first += count


if __name__ == "__main__":
    from tests.fuzz.entry import main

    main("transcode")
