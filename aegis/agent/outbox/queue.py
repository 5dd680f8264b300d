"""Which block goes next, which row is written, which is dropped: the outbox without disk, loop or clock.

Blocks go by class, but findings before all, and what is live before the backlog of lower classes; within a stream and class
in order. A block acknowledged before its commit is never written. The caller makes one transaction at a time:
`changes` says what it is, `applied` or `failed` how it ended; in the same way `wanted` and `fetched`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Final

import msgspec

from aegis.agent.outbox import rebuild
from aegis.agent.outbox.builder import Draft
from aegis.agent.outbox.changes import (
    Changes,
    Evicted,
    Eviction,
    Fetched,
    Losses,
    Opened,
    Span,
    Totals,
    eviction_losses,
)
from aegis.agent.outbox.flights import Flights
from aegis.agent.outbox.rows import CLASSES, stored_bytes
from aegis.agent.outbox.shelf import Entry, Flight, Lane, Shelf
from aegis.model.block import Block, BlockClass

COMMIT_FACTOR: Final = {
    BlockClass.FINDING: 0,
    BlockClass.VERDICT: 0,
    BlockClass.EVENT: 1,
    BlockClass.FLOW: 50,
    BlockClass.SAMPLE: 100,
}
LATE_NS: Final = 1_000_000_000  # how long deletions and losses wait for a commit to go with
MOST_COMMIT: Final = 2 << 20  # bytes of one transaction


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The options as the queue reads them, bytes and nanoseconds."""

    disk: int
    memory: int
    commit_ns: int
    share: Mapping[BlockClass, int]

    def delay_ns(self, cls: BlockClass) -> int:
        return self.commit_ns * COMMIT_FACTOR[cls]


class Fetch(msgspec.Struct, frozen=True, kw_only=True):
    """Rows to read, and which life of the lanes asked."""

    cls: BlockClass
    live: bool
    low: int
    high: int
    most_bytes: int
    turn: int


class Queue:
    """All classes. Every method is quick and does no I/O."""

    def __init__(self, limits: Limits, boot_id: bytes) -> None:
        self.limits = limits
        self.stream = 0
        self.degraded = (
            False  # nothing can be written: blocks that tell of losses do not wait for their commit
        )
        self._boot_id = boot_id
        self._shelves = {cls: Shelf(cls) for cls in CLASSES}
        self._flights = Flights()
        self._turn = 0
        self._linked = False
        self._going = CLASSES  # what may be handed out now
        self._committing: list[Entry] = []
        self._changed_ns: int | None = None  # since when deletions or losses wait to be written
        self._memory = 0  # bytes of entries
        self._urgent = 0  # entries that tell of losses
        self._rebuild: rebuild.Rebuild | None = None

    def shelf(self, cls: BlockClass) -> Shelf:
        return self._shelves[cls]

    def __iter__(self) -> Iterator[Shelf]:
        return iter(self._shelves.values())

    # ---- in

    def begin_stream(self, stream: int) -> None:
        """Blocks closed from now on are of this stream."""
        self.stream = stream
        for shelf in self:
            shelf.next_first = 0

    def add(self, draft: Draft, now_ns: int) -> None:
        """Take a closed block in."""
        shelf = self._shelves[draft.cls]
        block = Block(
            cls=draft.cls,
            stream=self.stream,
            first=shelf.next_first,
            count=draft.count,
            boot_id=self._boot_id,
            base_ns=draft.base_ns,
            records=draft.records,
            losses=shelf.tell(),
        )
        entry = Entry(shelf.next_seq, block, stored_bytes(block), now_ns)
        shelf.next_seq += 1
        shelf.next_first = block.next
        shelf.memory[entry.seq] = entry
        shelf.live.waiting.append(entry)
        self._memory += entry.size
        self._urgent += bool(block.losses)

    def changed(self, now_ns: int) -> None:
        """Deletions or losses are to be written."""
        if self._changed_ns is None:
            self._changed_ns = now_ns

    def adopt(self, opened: Opened) -> None:
        """Take over what an earlier life left on disk. Once."""
        for shelf in self:
            found = opened.totals[shelf.cls]
            corrupt = opened.corrupt[shelf.cls]
            shelf.shift(opened.last_seq[shelf.cls])
            shelf.disk = Totals(found.rows, found.records, found.size)
            shelf.tally.recovered += found.records + corrupt
            shelf.tally.corrupt += corrupt
            shelf.add_losses(opened.losses.get(shelf.cls, {}))

    # ---- out

    def _order(self, going: tuple[BlockClass, ...] = ()) -> Iterator[tuple[Shelf, Lane]]:
        """Lanes as they go, of the classes that may be handed out when none are named."""
        going = going or self._going
        finding = self._shelves[BlockClass.FINDING]
        yield finding, finding.live
        yield finding, finding.backlog
        for cls in going[1:]:
            yield self._shelves[cls], self._shelves[cls].live
        for cls in going[1:]:
            yield self._shelves[cls], self._shelves[cls].backlog

    def confine(self, *, to_findings: bool) -> None:
        """Until the disconnection: hand out findings alone, or everything."""
        self._going = CLASSES[:1] if to_findings else CLASSES

    def link(self) -> bool:
        """Somebody sends from now on. Whether there is a backlog, that live blocks need not wait for."""
        self._linked = True
        return any(shelf.disk.rows or shelf.memory for shelf in self)

    def divide(self) -> None:
        """What there is becomes the backlog; nothing is on the way. The stream is to be another one from here on."""
        self._turn += 1
        for shelf in self:
            shelf.begin_lanes(divided=True)

    @property
    def linked(self) -> bool:
        return self._linked

    def _next(self, shelf: Shelf, lane: Lane) -> bool:
        """Whether the lane has a block to hand out now."""
        if lane.ahead:
            return True
        if not lane.waiting or shelf.rows_left(lane):
            return False
        return self.degraded or not lane.waiting[0].block.losses

    def ready(self) -> bool:
        for cls in self._going:
            shelf = self._shelves[cls]
            for lane in (shelf.live, shelf.backlog):
                if (lane.ahead or lane.waiting) and self._next(shelf, lane):
                    return True
        return False

    def sendable(self, most_bytes: int) -> list[Block]:
        """The next blocks, on the way from now on: at least one if there is one, then up to so many bytes of records."""
        found: list[Block] = []
        for shelf, lane in self._order():
            while most_bytes > 0 and self._next(shelf, lane):
                if lane.ahead:
                    row = lane.ahead[0]
                    assert row.block is not None
                    block, flight = row.block, Flight(row.block, row.seq, row.size, None)
                else:
                    entry = lane.waiting[0]
                    block, flight = entry.block, Flight(entry.block, entry.seq, entry.size, entry)
                if found and len(block.records) > most_bytes:
                    return found
                if lane.ahead:
                    lane.pop()
                else:
                    lane.low = lane.waiting.popleft().seq + 1
                self._flights.add(block.stream, block.cls, flight)
                found.append(block)
                most_bytes -= len(block.records)
        return found

    def acknowledged(self, stream: int, cls: BlockClass, next_: int, now_ns: int) -> int:
        """The gateway has all of (stream, class) below `next_`. Gives the records that are done with.

        More than was handed out cannot be acknowledged; a block that is acknowledged in part stays whole.
        """
        shelf = self._shelves[cls]
        done = 0
        for flight in self._flights.arrived(stream, cls, next_):
            done += flight.count
            entry = flight.entry
            if flight.on_disk:
                shelf.remove_row(flight.count, flight.size)
                shelf.delete(flight.seq)
                if self._rebuild is not None:
                    self._rebuild.settled.add((cls, flight.seq))
                self.changed(now_ns)
            elif flight.ghost:
                shelf.ghosts -= flight.count
            elif entry is not None and entry.committing:
                entry.acknowledged = True  # whether it is on disk will be known later
            elif entry is not None:
                self._forget(shelf, entry)
                if entry.block.losses:
                    self.changed(now_ns)
        shelf.tally.acknowledged += done
        return done

    def _forget(self, shelf: Shelf, entry: Entry) -> None:
        del shelf.memory[entry.seq]
        self._memory -= entry.size
        self._urgent -= bool(entry.block.losses)

    def disconnected(self) -> None:
        """Nothing is on the way any more."""
        self._turn += 1
        self._linked = False
        self._going = CLASSES
        for shelf in self:
            ghosts = self._flights.ghosts(shelf.cls)
            shelf.ghosts -= ghosts
            shelf.tally.corrupt += ghosts
            shelf.lose("corrupt", ghosts)
        self._flights.clear()
        for shelf in self:
            shelf.begin_lanes(divided=False)

    # ---- to disk

    def changes(self, now_ns: int, *, force: bool = False) -> Changes | None:
        """The transaction that is due, None when there is none. `force`: everything that could be written."""
        pressed = force or self.memory_bytes() > self.limits.memory // 2
        due_ns = self.due_ns()
        if not (pressed or self._over() or (due_ns is not None and due_ns <= now_ns)):
            return None
        room = MOST_COMMIT
        for shelf in self:
            for entry in self._due(shelf, now_ns, force=pressed):
                if room <= 0:
                    break
                entry.committing = True
                self._committing.append(entry)
                room -= entry.size
        late = self._changed_ns is not None and (force or now_ns - self._changed_ns >= LATE_NS)
        evictions = tuple(self._evictions())
        if not self._committing and not late and not evictions:
            return None
        deletes = tuple((shelf.cls, (low, high)) for shelf in self for low, high in shelf.deletes)
        told = self._changed_ns is not None or any(entry.block.losses for entry in self._committing)
        self._changed_ns = None
        return Changes(
            inserts=tuple((entry.seq, entry.block) for entry in self._committing),
            deletes=deletes,
            evictions=evictions,
            losses=self.untold() if told or evictions else None,
        )

    def _due(self, shelf: Shelf, now_ns: int, *, force: bool) -> list[Entry]:
        """The blocks of a class that go to disk now: the oldest ones, without a gap."""
        delay = self.limits.delay_ns(shelf.cls)
        entries = list(shelf.memory.values())
        if not entries:
            return []
        if force:
            return entries
        # What is half as old goes along: a commit for each block would follow otherwise.
        due = entries[0].closed_ns + delay <= now_ns
        count = 0
        for number, entry in enumerate(entries, 1):
            if entry.block.losses or (due and entry.closed_ns + delay // 2 <= now_ns):
                count = number
        return entries[:count]

    def untold(self) -> Losses:
        """Losses that no row tells of, nor will when the transaction in the making is done."""
        found: Losses = {}
        for shelf in self:
            into = dict(shelf.losses)
            for entry in shelf.memory.values():
                if not entry.committing and not entry.acknowledged:
                    for stage, kind, reason, count in entry.block.losses:
                        into[stage, kind, reason] = into.get((stage, kind, reason), 0) + count
            if into:
                found[shelf.cls] = into
        return found

    def _over(self) -> bool:
        """Whether there is too much on disk already, whatever comes."""
        size = 0
        for shelf in self._shelves.values():
            if shelf.disk.size > self.limits.share[shelf.cls]:
                return True
            size += shelf.disk.size
        return size > self.limits.disk

    def _evictions(self) -> Iterator[Eviction]:
        """What is too much on disk when this transaction is done: of each class by its share, then of the lowest."""
        coming = dict.fromkeys(CLASSES, 0)
        for entry in self._committing:
            coming[entry.block.cls] += entry.size
        over = {
            shelf.cls: max(0, shelf.disk.size + coming[shelf.cls] - self.limits.share[shelf.cls])
            for shelf in self
        }
        total = (
            sum(shelf.disk.size + coming[shelf.cls] - over[shelf.cls] for shelf in self) - self.limits.disk
        )
        for cls in reversed(CLASSES):
            shelf = self._shelves[cls]
            spans = tuple(self._unread(shelf))
            if not spans or not shelf.disk.rows:
                continue
            held = self._held(shelf)
            more = min(max(0, total), max(0, shelf.disk.size - held - over[cls]))
            if over[cls] + more > 0 and shelf.disk.size > held:
                total -= more
                yield Eviction(cls, spans, over[cls] + more)

    def _unread(self, shelf: Shelf) -> Iterator[Span]:
        """Rows that were not handed out and not read ahead, oldest first."""
        for lane in (shelf.backlog, shelf.live):
            last = shelf.last_row(lane)
            if lane.low <= last:
                yield lane.low, last

    def _held(self, shelf: Shelf) -> int:
        """Bytes of rows on the way or read ahead: they are not dropped."""
        flying = sum(flight.size for flight in self._flights.on_disk(shelf.cls))
        return flying + shelf.backlog.ahead_bytes + shelf.live.ahead_bytes

    def applied(self, changes: Changes, evicted: Mapping[BlockClass, Evicted], now_ns: int) -> None:
        """The transaction is on disk."""
        for entry in self._committing:
            shelf = self._shelves[entry.block.cls]
            self._forget(shelf, entry)
            entry.stored, entry.committing = True, False
            shelf.disk_high = max(shelf.disk_high, entry.seq)
            if not entry.acknowledged:
                shelf.disk.add(entry.block.count, entry.size)
            for lane in (shelf.backlog, shelf.live):
                while lane.waiting and lane.waiting[0].stored:
                    lane.waiting.popleft()
        written = {(cls, span) for cls, span in changes.deletes}
        for shelf in self:
            shelf.deletes = [
                [low, high] for low, high in shelf.deletes if (shelf.cls, (low, high)) not in written
            ]
        self._settle_acknowledged(now_ns)
        for cls, found in evicted.items():
            shelf = self._shelves[cls]
            for part in (found.whole, found.broken):
                shelf.disk.rows -= part.rows
                shelf.disk.records -= part.records
                shelf.disk.size -= part.size
            shelf.tally.evicted += found.whole.records
            shelf.tally.corrupt += found.broken.records
            shelf.add_losses(eviction_losses(cls, found))

    def failed(self, now_ns: int) -> None:
        """The transaction may or may not be on disk; its blocks are still in memory."""
        for entry in self._committing:
            entry.committing = False
            if entry.acknowledged:
                self._forget(self._shelves[entry.block.cls], entry)
        self._settle_acknowledged(now_ns)
        self.changed(now_ns)

    def _settle_acknowledged(self, now_ns: int) -> None:
        """Blocks acknowledged while they were written have a row, or may have one, that is to go."""
        for entry in self._committing:
            if entry.acknowledged:
                self._shelves[entry.block.cls].delete(entry.seq)
                self.changed(now_ns)
        self._committing.clear()

    # ---- from disk

    def wanted(self) -> Fetch | None:
        """Rows that should be read now."""
        if not self._linked:
            return None
        part = self.limits.memory // 8
        lanes = list(self._order())
        for place, (shelf, lane) in enumerate(lanes):
            for low, high in shelf.deletes:
                if low <= lane.low <= high and lane.low <= shelf.last_row(lane):
                    lane.low = high + 1
            if not shelf.rows_left(lane) or lane.ahead_bytes >= part:
                continue
            if self._spare() < part // 2 and not lane.ahead:  # what goes later makes room
                for _, other in reversed(lanes[place + 1 :]):
                    if self._spare() >= part // 2:
                        break
                    other.forget_ahead()
            spare = min(part, self._spare())
            if spare <= 0 and any(other.ahead for _, other in lanes):
                return None
            return Fetch(
                cls=shelf.cls,
                live=lane is shelf.live,
                low=lane.low,
                high=shelf.last_row(lane),
                most_bytes=max(1, spare),  # at least one row: what waits in memory may have to go behind it
                turn=self._turn,
            )
        return None

    def _ahead_bytes(self) -> int:
        return sum(shelf.backlog.ahead_bytes + shelf.live.ahead_bytes for shelf in self)

    def _spare(self) -> int:
        """Bytes that may be read ahead: of a quarter of the memory, and of what blocks leave of it."""
        ahead = self._ahead_bytes()
        return min(self.limits.memory // 4, self.limits.memory - self._memory) - ahead

    def missed(self, now_ns: int) -> int:
        """Rows that should be there, and all lanes have been read to their end without them: they are lost."""
        if not self._linked or self._committing:
            return 0
        lost = 0
        for shelf in self:
            lanes = (shelf.backlog, shelf.live)
            if not shelf.disk.rows or any(lane.ahead or shelf.rows_left(lane) for lane in lanes):
                continue
            flights = list(self._flights.on_disk(shelf.cls))
            records = shelf.disk.records - sum(flight.count for flight in flights)
            if len(flights) == shelf.disk.rows:
                continue
            shelf.disk = Totals(
                len(flights), sum(flight.count for flight in flights), sum(flight.size for flight in flights)
            )
            shelf.tally.corrupt += records
            shelf.lose("corrupt", records)
            self.changed(now_ns)
            lost += records
        return lost

    def fetched(self, fetch: Fetch, rows: list[Fetched], now_ns: int) -> None:
        """The rows of a fetch. Those of lanes that are no more are forgotten, and those behind rows forgotten meanwhile."""
        shelf = self._shelves[fetch.cls]
        lane = shelf.live if fetch.live else shelf.backlog
        if fetch.turn != self._turn or fetch.low != lane.low:
            return
        for row in rows:
            lane.low = row.seq + 1
            if shelf.is_deleted(row.seq):
                continue
            if row.block is None:
                shelf.remove_row(row.count, row.size)
                shelf.delete(row.seq)
                shelf.tally.corrupt += row.count
                shelf.lose("corrupt", row.count)
                self.changed(now_ns)
            else:
                lane.push(row)
        if sum(row.size for row in rows) < fetch.most_bytes:
            lane.low = max(lane.low, fetch.high + 1)

    # ---- another file

    def begin_rebuild(self) -> rebuild.Rebuild:
        """What a successor of the file is to have; `rebuilt` or `not_rebuilt` says how it ended."""
        self._rebuild = rebuild.begin(self, self._flights, self.untold())
        return self._rebuild

    def not_rebuilt(self) -> None:
        self._rebuild = None

    def rebuilt(
        self, totals: Mapping[BlockClass, Totals], missing: AbstractSet[rebuild.Key], now_ns: int
    ) -> int:
        """The successor is there: as `rebuild.settle`."""
        begun, self._rebuild = self._rebuild, None
        assert begun is not None
        lost = rebuild.settle(begun, self, self._flights, totals, missing)
        self._turn += 1
        self.changed(now_ns)
        return lost

    # ---- caps and figures

    def memory_bytes(self) -> int:
        """Bytes of blocks in memory, those read ahead included."""
        return self._memory + self._ahead_bytes()

    def squeeze(self, now_ns: int) -> int:
        """Drop blocks from memory until it is under its cap: the oldest of the lowest class. Gives the records lost.

        Rows read ahead are forgotten first, which loses nothing; the very next one stays, so that sending goes on.
        """
        ahead = [lane for _, lane in self._order(CLASSES) if lane.ahead]
        for lane in reversed(ahead):
            if self.memory_bytes() <= self.limits.memory:
                break
            lane.forget_ahead(keep=int(lane is ahead[0]))
        lost = 0
        while self._memory > self.limits.memory:
            found = self._oldest()
            if found is None:
                break
            shelf, lane = found
            entry = lane.waiting.popleft()
            self._forget(shelf, entry)
            shelf.take_back(entry.block)
            if self.degraded:
                shelf.tally.unwritable += entry.block.count
                shelf.lose("unwritable", entry.block.count)
            else:
                shelf.tally.evicted += entry.block.count
                shelf.lose("evicted", entry.block.count)
            lost += entry.block.count
            self.changed(now_ns)
        return lost

    def _oldest(self) -> tuple[Shelf, Lane] | None:
        for cls in reversed(CLASSES):
            shelf = self._shelves[cls]
            for lane in (shelf.backlog, shelf.live):
                if lane.waiting and not lane.waiting[0].committing:
                    return shelf, lane
        return None

    def due_ns(self) -> int | None:
        """When `changes` will have something, by what is known now."""
        if self._urgent:
            return 0
        due = None if self._changed_ns is None else self._changed_ns + LATE_NS
        for shelf in self._shelves.values():
            if shelf.memory:
                at_ns = next(iter(shelf.memory.values())).closed_ns + self.limits.delay_ns(shelf.cls)
                due = at_ns if due is None else min(due, at_ns)
        return due

    def stored(self) -> bool:
        """Whether nothing is left that a commit could write."""
        return not self._memory and self._changed_ns is None
