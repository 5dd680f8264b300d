"""Runs the kernel left out become loss events, each once."""

from __future__ import annotations

from collections.abc import Iterable

from aegis.agent.missed_runs import IDENTITY, MissedRuns
from aegis.model.event import Event, LossEvent
from aegis.runtime.clock import SystemClock
from aegis.runtime.counters import balanced


class Kept:
    """A history that keeps what it is given."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def append(self, events: Iterable[Event]) -> None:
        self.events += events


def told(kept: Kept) -> list[tuple[str, str, str, int]]:
    return [(one.stage, one.kind, one.reason, one.count) for one in kept.events if isinstance(one, LossEvent)]


def test_each_further_miss_is_told_once() -> None:
    kept = Kept()
    missed = MissedRuns(SystemClock(), kept)
    missed.take({7: ("tp_exec", 0), 8: ("tp_sock", 3)})
    missed.take({7: ("tp_exec", 0), 8: ("tp_sock", 3)})
    missed.take({7: ("tp_exec", 1), 8: ("tp_sock", 5)})
    assert told(kept) == [
        ("programs", "tp_sock", "recursion", 3),
        ("programs", "tp_exec", "recursion", 1),
        ("programs", "tp_sock", "recursion", 2),
    ]
    assert missed.losses() == {"programs.tp_sock": {"recursion": 5}, "programs.tp_exec": {"recursion": 1}}
    (terms,) = missed.terms().values()
    assert terms == {"missed": 6, "told": 6}
    assert balanced(IDENTITY, terms)


def test_a_program_that_was_loaded_anew_counts_from_nothing() -> None:
    kept = Kept()
    missed = MissedRuns(SystemClock(), kept)
    missed.take({7: ("tp_sock", 3)})
    missed.take({})
    missed.take({9: ("tp_sock", 2)})
    assert [count for *_, count in told(kept)] == [3, 2]
    assert missed.losses() == {"programs.tp_sock": {"recursion": 5}}


def test_nothing_missed_is_nothing_lost() -> None:
    kept = Kept()
    missed = MissedRuns(SystemClock(), kept)
    missed.take({7: ("tp_exec", 0)})
    assert (kept.events, missed.losses()) == ([], {})
    assert missed.terms() == {"programs": {"missed": 0, "told": 0}}
