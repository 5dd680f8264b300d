"""What a successor of the file is to have, and what it means that it has less: the counting, without the files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet

import msgspec

from aegis.agent.outbox.changes import Losses, Span, Totals
from aegis.agent.outbox.flights import Flights
from aegis.agent.outbox.shelf import Shelf
from aegis.model.block import BlockClass

Key = tuple[BlockClass, int]  # class and seq of a row


class Rebuild(msgspec.Struct, frozen=True, kw_only=True):
    """A successor of the file in the making: the rows it is to have, and those that are or may get on the way."""

    spans: dict[BlockClass, tuple[Span, ...]]
    losses: Losses
    flying: dict[Key, tuple[int, int]]  # records and bytes
    before: dict[BlockClass, Totals]
    settled: set[Key]  # rows acknowledged since it began


def begin(shelves: Iterable[Shelf], flights: Flights, losses: Losses) -> Rebuild:
    """By what there is now."""
    shelves = list(shelves)
    flying: dict[Key, tuple[int, int]] = {}
    for shelf in shelves:
        for flight in flights.on_disk(shelf.cls):
            flying[shelf.cls, flight.seq] = (flight.count, flight.size)
        for lane in (shelf.backlog, shelf.live):
            flying |= {(shelf.cls, row.seq): (row.count, row.size) for row in lane.ahead}
    return Rebuild(
        spans={shelf.cls: shelf.kept() for shelf in shelves},
        losses=losses,
        flying=flying,
        before={shelf.cls: Totals(shelf.disk.rows, shelf.disk.records, shelf.disk.size) for shelf in shelves},
        settled=set(),
    )


def settle(
    rebuild: Rebuild,
    shelves: Iterable[Shelf],
    flights: Flights,
    totals: Mapping[BlockClass, Totals],
    missing: AbstractSet[Key],
) -> int:
    """The successor is there, with `totals`. `missing` are those of `flying` it does not have. Gives the records lost.

    What is on the way and not in the file may still be acknowledged; it is settled then, or at the disconnection.
    """
    return sum(
        _settle(rebuild, shelf, flights, totals[shelf.cls], {seq for cls, seq in missing if cls is shelf.cls})
        for shelf in shelves
    )


def _settle(rebuild: Rebuild, shelf: Shelf, flights: Flights, there: Totals, missing: set[int]) -> int:
    before = rebuild.before[shelf.cls]
    rows, records, size = before.rows - there.rows, before.records - there.records, before.size - there.size
    for seq in missing:
        if (shelf.cls, seq) in rebuild.settled:  # it arrived: nothing is lost, and it is off already
            of_row = rebuild.flying[shelf.cls, seq]
            rows, records, size = rows - 1, records - of_row[0], size - of_row[1]
    shelf.disk.rows -= rows
    shelf.disk.records -= records
    shelf.disk.size -= size
    for flight in [flight for flight in flights.on_disk(shelf.cls) if flight.seq in missing]:
        flight.ghost = True
        shelf.ghosts += flight.count
        records -= flight.count
    lost = max(0, records)
    if lost:
        shelf.tally.corrupt += lost
        shelf.lose("corrupt", lost)
    else:
        shelf.tally.recovered -= records
    asked = rebuild.spans[shelf.cls]
    shelf.deletes = [
        span for span in shelf.deletes if any(low <= span[1] and span[0] <= high for low, high in asked)
    ]
    for lane in (shelf.backlog, shelf.live):
        lane.forget_ahead()
    return lost
