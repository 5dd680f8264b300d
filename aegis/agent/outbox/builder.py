"""Open blocks: runs of records put together until their block is full or its time has come.

A block closes at 48 KiB, at 512 records, when a run with another base comes, or at its flush time: findings and verdicts
1 ms after the first record, flows as well (a harvest comes as several runs), samples at once, events at once when there
was none for 50 ms, else 50 ms after the first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from aegis.model.block import BlockClass, Encoded, end_of

MOST_BYTES: Final = 48 << 10
MOST_RECORDS: Final = 512
QUIET_NS: Final = 50_000_000
FLUSH_NS: Final = {
    BlockClass.FINDING: 1_000_000,
    BlockClass.VERDICT: 1_000_000,
    BlockClass.EVENT: QUIET_NS,
    BlockClass.FLOW: 1_000_000,
    BlockClass.SAMPLE: 0,
}


class Draft(msgspec.Struct, gc=False):
    """Records of one block in the making. `due_ns` is when it closes."""

    cls: BlockClass
    base_ns: int
    due_ns: int
    count: int = 0
    size: int = 0
    runs: list[bytes] = []

    @property
    def records(self) -> bytes:
        return b"".join(self.runs)


class Builder:
    """The open block of each class. Instants are monotonic, given by the caller."""

    def __init__(self) -> None:
        self._open: dict[BlockClass, Draft] = {}
        self._last_event_ns = -QUIET_NS

    def add(self, run: Encoded, now_ns: int) -> list[Draft]:
        """Take a run; the blocks that are closed by it, oldest first."""
        if not run.count:
            return []
        closed: list[Draft] = []
        pieces = (run,) if run.count <= MOST_RECORDS and len(run.records) <= MOST_BYTES else split(run)
        quiet = now_ns - self._last_event_ns >= QUIET_NS
        if run.cls is BlockClass.EVENT:
            self._last_event_ns = now_ns
        for piece in pieces:
            draft = self._open.get(piece.cls)
            if draft is not None and not _fits(draft, piece):
                closed.append(self._open.pop(piece.cls))
                draft = None
            if draft is None:
                at_once = quiet and piece.cls is BlockClass.EVENT
                due_ns = now_ns if at_once else now_ns + FLUSH_NS[piece.cls]
                draft = self._open[piece.cls] = Draft(piece.cls, piece.base_ns, due_ns)
            draft.runs.append(piece.records)
            draft.count += piece.count
            draft.size += len(piece.records)
            if draft.due_ns <= now_ns or draft.count >= MOST_RECORDS or draft.size >= MOST_BYTES:
                closed.append(self._open.pop(piece.cls))
        return closed

    def close_due(self, now_ns: int) -> list[Draft]:
        """The blocks whose time has come."""
        due = [cls for cls, draft in self._open.items() if draft.due_ns <= now_ns]
        return [self._open.pop(cls) for cls in due]

    def close_all(self) -> list[Draft]:
        drafts = list(self._open.values())
        self._open.clear()
        return drafts

    def due_ns(self) -> int | None:
        """When `close_due` will have something."""
        return min((draft.due_ns for draft in self._open.values()), default=None)

    def records(self, cls: BlockClass) -> int:
        """Records of the class in its open block."""
        draft = self._open.get(cls)
        return 0 if draft is None else draft.count

    def size(self) -> int:
        return sum(draft.size for draft in self._open.values())


def _fits(draft: Draft, run: Encoded) -> bool:
    return (
        draft.base_ns == run.base_ns
        and draft.count + run.count <= MOST_RECORDS
        and draft.size + len(run.records) <= MOST_BYTES
    )


def split(run: Encoded) -> Iterator[Encoded]:
    """A run that is too long for a block, in pieces that are not; a record that is too long goes alone.

    A run that is not the CBOR it says is handed on as it is: whoever reads the block will say so.
    """
    offset, left = 0, run.count
    while left:
        count = min(left, MOST_RECORDS)
        try:
            end = end_of(run.records, offset, count)
            while end - offset > MOST_BYTES and count > 1:
                count //= 2
                end = end_of(run.records, offset, count)
        except ValueError:
            count, end = left, len(run.records)
        yield Encoded(run.cls, run.base_ns, count, run.records[offset:end])
        offset, left = end, left - count
