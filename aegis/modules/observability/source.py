"""Batches of the sensors' topics, put back into the order of the ring."""

from __future__ import annotations

from collections.abc import Iterable
from operator import itemgetter
from typing import Any

from aegis._native.records import RecordBatch, decode

Record = tuple[Any, ...]
_BY_TIME = itemgetter(1)


def in_order(batches: Iterable[RecordBatch], kinds: tuple[int, ...]) -> list[Record]:
    """Records of `kinds` by time. A batch that came by several topics counts once.

    One drain of the ring is one batch, whichever topics its records belong to; drains come in order. Within a batch
    records of two processors can stand the wrong way round by the time it took to write one.
    """
    seen: set[int] = set()
    records: list[Record] = []
    for batch in batches:
        if id(batch) not in seen:
            seen.add(id(batch))
            records += decode(batch, kinds)
    records.sort(key=_BY_TIME)
    return records
