"""Any bytes as a stretch of the ring: each record is decoded or counted, and none reaches over its end."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

PARSERS = ("aegis/_native/records.pyx",)


def one(data: bytes) -> None:
    from aegis._native import records
    from aegis._native.records import RecordBatch, decode

    batch = RecordBatch.from_bytes(memoryview(data)[data[:1] == b"\x01" :])
    decoded = decode(batch)
    assert len(decoded) == len(batch) == sum(batch.kinds())
    assert batch.unknown >= 0
    assert batch.malformed <= len(data)
    assert [len(decode(batch, (kind,))) for kind in range(records.KINDS)] == list(batch.kinds())
    for fields in decoded:
        if fields[0] == records.EXEC:
            assert len(fields[12]) + len(fields[14]) + len(fields[17]) + 216 <= len(data)


if __name__ == "__main__":
    from tests.fuzz.entry import main

    main("records")
