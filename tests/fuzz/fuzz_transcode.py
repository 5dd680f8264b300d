"""Any bytes as the records of a block: JSON arrays that are JSON and hold an item for each record, or RecordsMalformed.

The parser is native, so its branches are not counted here; the entry holds it to cbor2 and to msgspec.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

PARSERS = ("aegis/_native/transcode.pyx",)
MOST_ITEMS, MOST_BYTES = 3, 512


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
        arrays = transcode.to_json(
            data, 1_763_900_000_000_000_000, most_items=MOST_ITEMS, most_bytes=MOST_BYTES
        )
    except malformed as error:
        at = error.offset
        assert 0 <= at <= len(data)
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
