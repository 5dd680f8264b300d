"""A successor of the file with less in it: what that costs, and what is not lost because it flies or has arrived."""

from __future__ import annotations

import pytest

from aegis.agent.outbox import rebuild
from aegis.agent.outbox.changes import Fetched, Totals
from aegis.agent.outbox.flights import Flights
from aegis.agent.outbox.shelf import Flight, Shelf
from aegis.model.block import Block, BlockClass

EVENT = BlockClass.EVENT
SIZE = 100


def block(seq: int) -> Block:
    first = (seq - 1) * 10
    return Block(cls=EVENT, stream=5, first=first, count=10, boot_id=bytes(16), base_ns=0, records=b"")


@pytest.fixture
def shelf() -> Shelf:
    """Five rows: the first two fly, the third is read ahead, the fourth is to be deleted."""
    made = Shelf(EVENT)
    made.disk, made.disk_high = Totals(5, 50, 5 * SIZE), 5
    made.live.push(Fetched(3, 10, SIZE, block(3)))
    made.live.low = 4
    made.delete(4)
    return made


@pytest.fixture
def flights() -> Flights:
    made = Flights()
    for seq in (1, 2):
        made.add(5, EVENT, Flight(block(seq), seq, SIZE, None))
    return made


def test_what_it_is_to_have(shelf: Shelf, flights: Flights) -> None:
    begun = rebuild.begin([shelf], flights, {EVENT: {("a", "b", "c"): 7}})
    assert begun.spans == {EVENT: ((1, 3), (5, 5))}
    assert begun.flying == {(EVENT, seq): (10, SIZE) for seq in (1, 2, 3)}
    assert begun.before == {EVENT: Totals(5, 50, 5 * SIZE)}
    assert (begun.losses, begun.settled) == ({EVENT: {("a", "b", "c"): 7}}, set())
    shelf.disk.add(10, SIZE)
    assert begun.before == {EVENT: Totals(5, 50, 5 * SIZE)}  # as it was


def settled(
    shelf: Shelf, flights: Flights, there: int, missing: set[int], arrived: tuple[int, ...] = ()
) -> int:
    begun = rebuild.begin([shelf], flights, {})
    for seq in arrived:
        begun.settled.add((EVENT, seq))
        shelf.remove_row(10, SIZE)
        for _ in flights.arrived(5, EVENT, seq * 10):
            pass
    totals = {EVENT: Totals(there, 10 * there, there * SIZE)}
    return rebuild.settle(begun, [shelf], flights, totals, {(EVENT, seq) for seq in missing})


def test_all_is_there(shelf: Shelf, flights: Flights) -> None:
    assert settled(shelf, flights, 5, set()) == 0
    assert (shelf.disk, shelf.ghosts, shelf.losses) == (Totals(5, 50, 5 * SIZE), 0, {})
    assert (list(shelf.live.ahead), shelf.live.low) == ([], 3)  # it is read again


def test_what_is_gone_is_told_but_what_flies_is_not(shelf: Shelf, flights: Flights) -> None:
    assert settled(shelf, flights, 2, {1, 3}) == 20  # the third and the fifth
    assert shelf.disk == Totals(2, 20, 2 * SIZE)
    assert [flight.ghost for flight in flights.arrived(5, EVENT, 20)] == [True, False]
    assert (shelf.ghosts, shelf.tally.corrupt) == (10, 20)
    assert shelf.losses == {("outbox", "event", "corrupt"): 20}


def test_what_arrived_meanwhile_is_off_already(shelf: Shelf, flights: Flights) -> None:
    assert settled(shelf, flights, 4, {1}, arrived=(1,)) == 0
    assert shelf.disk == Totals(4, 40, 4 * SIZE)
    assert (shelf.ghosts, shelf.tally.corrupt, shelf.losses) == (0, 0, {})


def test_more_than_was_known_of_is_recovered(shelf: Shelf, flights: Flights) -> None:
    assert settled(shelf, flights, 6, set()) == 0
    assert shelf.disk == Totals(6, 60, 6 * SIZE)
    assert shelf.tally.recovered == 10


def test_deletions_of_rows_it_was_not_asked_for_are_done(shelf: Shelf, flights: Flights) -> None:
    begun = rebuild.begin([shelf], flights, {})
    shelf.delete(2)  # acknowledged since
    rebuild.settle(begun, [shelf], flights, {EVENT: Totals(5, 50, 5 * SIZE)}, set())
    assert shelf.deletes == [[2, 2]]
