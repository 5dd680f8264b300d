"""Open blocks: runs of records put together until their block is full or its time has come.

A block closes at 128 KiB, at 512 records, when a run with another base comes, or at its flush time: findings and verdicts
1 ms after the first record, flows as well (a harvest comes as several runs), samples at once, events at once while
they are few (40 blocks a second, and 400 events between them), else 60 ms after the first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from aegis.model.block import BlockClass, Encoded, end_of

MOST_BYTES: Final = 128 << 10
MOST_RECORDS: Final = 512
GATHER_NS: Final = 60_000_000  # above what a busy ring is read by: a block is two readings
SOON_NS: Final = (
    15_000_000  # events that would go so soon go with what comes now, without a turn of their own
)
FEW_A_SECOND: Final = 40
FEW_AT_ONCE: Final = 20
OF_ONE: Final = 10  # events that count as much as a block of their own: a block costs more than what is in it
FLUSH_NS: Final = {
    BlockClass.FINDING: 1_000_000,
    BlockClass.VERDICT: 1_000_000,
    BlockClass.EVENT: GATHER_NS,
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
        self._few = float(FEW_AT_ONCE)  # blocks that may still go at once
        self._few_ns = 0  # when that was so
        self.drafts = 0  # begun so far

    def add(self, run: Encoded, now_ns: int) -> list[Draft]:
        """Take a run; the blocks that are closed by it, oldest first."""
        if not run.count:
            return []
        closed: list[Draft] = []
        pieces = (run,) if run.count <= MOST_RECORDS and len(run.records) <= MOST_BYTES else split(run)
        at_once = run.cls is BlockClass.EVENT and self._may_go(run.count, now_ns)
        for piece in pieces:
            draft = self._open.get(piece.cls)
            if draft is not None and not _fits(draft, piece):
                closed.append(self._open.pop(piece.cls))
                draft = None
            if draft is None:
                draft = Draft(piece.cls, piece.base_ns, now_ns + FLUSH_NS[piece.cls])
                self._open[piece.cls] = draft
                self.drafts += 1
            draft.runs.append(piece.records)
            draft.count += piece.count
            draft.size += len(piece.records)
            soon = now_ns + SOON_NS if piece.cls is BlockClass.EVENT else now_ns
            if at_once or draft.due_ns <= soon or draft.count >= MOST_RECORDS or draft.size >= MOST_BYTES:
                closed.append(self._open.pop(piece.cls))
        return closed

    def _may_go(self, count: int, now_ns: int) -> bool:
        """Whether a block with so many events more may go at once."""
        left = min(self._few + (now_ns - self._few_ns) * FEW_A_SECOND / 1e9, FEW_AT_ONCE)
        cost = max(1.0, count / OF_ONE)
        self._few_ns = now_ns
        self._few = max(0.0, left - (cost if left >= cost else count / OF_ONE))
        return left >= cost

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
        due = [draft.due_ns for draft in self._open.values()]
        return min(due) if due else None

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
