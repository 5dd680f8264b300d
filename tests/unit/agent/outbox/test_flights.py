"""What was handed out: it is done in its order, by stream and class, and only as far as it went."""

from __future__ import annotations

from aegis.agent.outbox.flights import Flights
from aegis.agent.outbox.shelf import Entry, Flight
from aegis.model.block import Block, BlockClass

EVENT, FLOW = BlockClass.EVENT, BlockClass.FLOW


def block(first: int, count: int = 10) -> Block:
    return Block(cls=EVENT, stream=5, first=first, count=count, boot_id=bytes(16), base_ns=0, records=b"")


def row(seq: int, first: int) -> Flight:
    return Flight(block(first), seq, 100, None)


def held(seq: int, first: int) -> Flight:
    return Flight(block(first), seq, 100, Entry(seq, block(first), 100, 0))


def arrived(flights: Flights, stream: int, cls: BlockClass, next_: int) -> list[int]:
    return [flight.seq for flight in flights.arrived(stream, cls, next_)]


def test_what_arrived_is_taken_out_whole_in_order_and_once() -> None:
    flights = Flights()
    for seq in (1, 2, 3):
        flights.add(5, EVENT, row(seq, (seq - 1) * 10))
    flights.add(6, EVENT, row(4, 0))
    flights.add(5, FLOW, row(1, 0))
    assert arrived(flights, 5, EVENT, 9) == []
    assert arrived(flights, 5, EVENT, 29) == [1, 2]
    assert arrived(flights, 5, EVENT, 29) == []
    assert arrived(flights, 5, EVENT, 1000) == [3]
    assert arrived(flights, 5, EVENT, 1000) == []  # nothing is left of that stream
    assert arrived(flights, 7, EVENT, 1000) == []  # nor was there ever of this one
    assert [flight.seq for flight in flights.on_disk(EVENT)] == [4]
    flights.clear()
    assert arrived(flights, 5, FLOW, 1000) == []


def test_those_with_a_row_and_those_without() -> None:
    flights = Flights()
    stored, gone = held(2, 10), row(3, 20)
    for flight in (row(1, 0), stored, held(4, 30), gone):
        flights.add(5, EVENT, flight)
    flights.add(5, FLOW, row(9, 0))
    assert stored.entry is not None
    stored.entry.stored = True
    assert [flight.seq for flight in flights.on_disk(EVENT)] == [1, 2, 3]
    assert (flights.ghosts(EVENT), flights.ghosts(FLOW)) == (0, 0)
    gone.ghost = True
    assert [flight.seq for flight in flights.on_disk(EVENT)] == [1, 2]
    assert (flights.ghosts(EVENT), flights.ghosts(FLOW)) == (10, 0)
