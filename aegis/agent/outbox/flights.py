"""Blocks that were handed out and not acknowledged yet, by stream and class, in the order they went."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from aegis.agent.outbox.shelf import Flight
from aegis.model.block import BlockClass


class Flights:
    """Empty after each disconnection."""

    __slots__ = ("_by_key",)

    def __init__(self) -> None:
        self._by_key: dict[tuple[int, BlockClass], deque[Flight]] = {}

    def add(self, stream: int, cls: BlockClass, flight: Flight) -> None:
        """After those of its stream and class that went before it."""
        self._by_key.setdefault((stream, cls), deque()).append(flight)

    def arrived(self, stream: int, cls: BlockClass, next_: int) -> Iterator[Flight]:
        """Takes out what ends at `next_` or before: what was not handed out or is there in part stays out of it."""
        flights = self._by_key.get((stream, cls))
        if flights is None:
            return
        while flights and flights[0].end <= next_:
            yield flights.popleft()
        if not flights:
            del self._by_key[stream, cls]

    def on_disk(self, cls: BlockClass) -> Iterator[Flight]:
        """Those of a class that have a row."""
        return (flight for flight in self._of(cls) if flight.on_disk)

    def ghosts(self, cls: BlockClass) -> int:
        """Records of those of a class whose row is gone."""
        return sum(flight.count for flight in self._of(cls) if flight.ghost)

    def clear(self) -> None:
        self._by_key.clear()

    def _of(self, cls: BlockClass) -> Iterator[Flight]:
        return (flight for (_, of), flights in self._by_key.items() if of is cls for flight in flights)
