"""One class of blocks: those in memory, those on disk, those on the way, and what is lost of them.

Blocks of a class have a seq that rises; rows on disk always have smaller seqs than blocks that are in memory only.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from aegis.agent.outbox.changes import Fetched, LossKey, Span, Totals
from aegis.agent.outbox.database import LARGEST_SEQ
from aegis.model.block import Block, BlockClass, Loss

MOST_LOSSES: Final = 64  # told in one block


class Entry:
    """A closed block that is in memory because no commit has taken it yet."""

    __slots__ = ("acknowledged", "block", "closed_ns", "committing", "seq", "size", "stored")

    def __init__(self, seq: int, block: Block, size: int, closed_ns: int) -> None:
        self.seq = seq
        self.block = block
        self.size = size
        self.closed_ns = closed_ns
        self.committing = False
        self.stored = False
        self.acknowledged = False


class Flight:
    """A block that was handed out. `entry` is None for one read from disk; `ghost` one whose row is gone meanwhile."""

    __slots__ = ("_seq", "count", "end", "entry", "ghost", "size")

    def __init__(self, block: Block, seq: int, size: int, entry: Entry | None) -> None:
        self._seq = seq
        self.end = block.next
        self.count = block.count
        self.size = size
        self.entry = entry
        self.ghost = False

    @property
    def seq(self) -> int:
        return self._seq if self.entry is None else self.entry.seq

    @property
    def on_disk(self) -> bool:
        return not self.ghost and (self.entry is None or self.entry.stored)


class Lane:
    """The live blocks of a class, or its backlog: rows from `low` on, then what waits in memory."""

    __slots__ = ("ahead", "ahead_bytes", "cls", "high", "low", "waiting")

    def __init__(self, cls: BlockClass, low: int, high: int = LARGEST_SEQ + 1) -> None:
        self.cls = cls
        self.low = low  # the next row to read
        self.high = high  # the first seq of another lane
        self.ahead: deque[Fetched] = deque()  # read, not handed out
        self.ahead_bytes = 0
        self.waiting: deque[Entry] = deque()

    def push(self, row: Fetched) -> None:
        """A row read ahead."""
        self.ahead.append(row)
        self.ahead_bytes += row.size

    def pop(self) -> Fetched:
        row = self.ahead.popleft()
        self.ahead_bytes -= row.size
        return row

    def forget_ahead(self, *, keep: int = 0) -> None:
        """Read again what was read ahead, but for so many of the next rows."""
        while len(self.ahead) > keep:
            row = self.ahead.pop()
            self.ahead_bytes -= row.size
            self.low = row.seq


class Tally:
    """Records of one class since the start. See `outbox.IDENTITY`."""

    __slots__ = ("acknowledged", "corrupt", "evicted", "recovered", "taken", "unwritable")

    def __init__(self) -> None:
        self.taken = 0
        self.recovered = 0
        self.acknowledged = 0
        self.evicted = 0
        self.unwritable = 0
        self.corrupt = 0


class Shelf:
    """What there is of one class."""

    def __init__(self, cls: BlockClass) -> None:
        self.cls = cls
        self.tally = Tally()
        self.next_seq = 1
        self.next_first = 0
        self.memory: dict[int, Entry] = {}
        self.disk = Totals()
        self.disk_high = 0  # no row has a larger seq
        self.divided = False
        self.backlog = Lane(cls, 1, 1)
        self.live = Lane(cls, 1)
        self.deletes: list[list[int]] = []  # spans of rows that are acknowledged and still there, ascending
        self.losses: dict[LossKey, int] = {}  # not in any block yet
        self.ghosts = 0  # records on the way whose row is gone

    # ---- losses

    def lose(self, reason: str, records: int) -> None:
        """The outbox's own."""
        if records:
            self.add_losses({("outbox", self.cls.value, reason): records})

    def add_losses(self, losses: dict[LossKey, int]) -> None:
        for key, count in losses.items():
            self.losses[key] = self.losses.get(key, 0) + count

    def tell(self) -> tuple[Loss, ...]:
        """Losses for the next block; they are its from now on."""
        if not self.losses:
            return ()
        keys = list(self.losses)[:MOST_LOSSES]
        return tuple((*key, self.losses.pop(key)) for key in keys)

    def take_back(self, block: Block) -> None:
        """The block goes away untold."""
        for stage, kind, reason, count in block.losses:
            self.add_losses({(stage, kind, reason): count})

    # ---- rows

    def rows_left(self, lane: Lane) -> bool:
        return self.disk.rows > 0 and lane.low <= self.last_row(lane)

    def last_row(self, lane: Lane) -> int:
        return min(self.disk_high, lane.high - 1)

    def delete(self, seq: int) -> None:
        """The row of that seq is to go."""
        if self.deletes and self.deletes[-1][1] + 1 == seq:
            self.deletes[-1][1] = seq
        else:
            self.deletes.append([seq, seq])

    def is_deleted(self, seq: int) -> bool:
        return any(low <= seq <= high for low, high in self.deletes)

    def kept(self) -> tuple[Span, ...]:
        """Seqs whose rows are wanted: all but those to be deleted."""
        spans, low = [], 1
        for first, last in sorted(map(tuple, self.deletes)):
            if low < first:
                spans.append((low, first - 1))
            low = max(low, last + 1)
        if low <= self.disk_high:
            spans.append((low, self.disk_high))
        return tuple(spans)

    def remove_row(self, records: int, size: int) -> None:
        self.disk.rows -= 1
        self.disk.records -= records
        self.disk.size -= size

    # ---- lanes

    def begin_lanes(self, *, divided: bool) -> None:
        """Nothing is on the way: everything waits in the backlog, or, undivided, in the one lane."""
        self.divided = divided
        start = self.next_seq if divided else 1
        self.backlog = Lane(self.cls, 1, start)
        self.live = Lane(self.cls, start)
        (self.backlog if divided else self.live).waiting.extend(
            entry for entry in self.memory.values() if not entry.acknowledged
        )

    def shift(self, by: int) -> None:
        """Rows of an earlier life were found, up to seq `by`: they are backlog, what is in memory comes behind them."""
        for entry in self.memory.values():
            entry.seq += by
        self.memory = {entry.seq: entry for entry in self.memory.values()}
        self.next_seq += by
        self.disk_high = by
        self.backlog.low = 1
        self.backlog.high = self.backlog.high + by if self.divided else by + 1
        self.live.low += by
        self.divided = True

    def pending(self) -> int:
        """Records held, counted from what is held."""
        held = sum(entry.block.count for entry in self.memory.values() if not entry.acknowledged)
        return held + self.disk.records + self.ghosts
