"""Any bytes as rows of the kernel's flow table: refused whole, or merged; the sums of the table hold."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

PARSERS = ("aegis/_native/flowtable.pyx",)


CAPACITY = 4


def one(data: bytes) -> None:
    from aegis._native.flowtable import FlowTable
    from aegis.kernel import abi

    size = abi.struct("aegis_flow_row").size
    table = FlowTable(CAPACITY)
    totals = (0, 0, 0, 0)
    for reaped in (False, True):
        table.next_harvest()
        rows = data[reaped * size :]
        try:
            table.ingest(rows, reaped=reaped)
        except ValueError as error:
            assert len(rows) % size, error  # noqa: PT017  nothing is expected to be raised otherwise
            assert not table.rows()
            return
        known = table.rows()
        assert len(known) == len(table) <= CAPACITY
        assert len(table.snapshot().part(0, CAPACITY)) == len(table)
        after = table.totals()
        assert all(now >= before for now, before in zip(after, totals, strict=True)) or max(after) >= 1 << 63
        totals = after
        assert len(table.top(2)) <= 2
    table.forget(0)
    assert len(table) <= CAPACITY


if __name__ == "__main__":
    from tests.fuzz.entry import main

    main("flowrows")
