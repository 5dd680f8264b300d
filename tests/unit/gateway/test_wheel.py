from __future__ import annotations

from aegis.gateway.wheel import SLOT_NS, Timed, Wheel


class Thing:
    def __init__(self, following: int | None = None) -> None:
        self.due_ns = 0
        self.looked: list[int] = []
        self.following = following

    def look(self, now_ns: int) -> int | None:
        self.looked.append(now_ns)
        return self.following


def never(_thing: Timed, error: Exception) -> None:
    raise AssertionError(error)


def test_it_is_looked_at_when_it_is_due_and_not_before() -> None:
    wheel, thing = Wheel(0), Thing()
    wheel.want(thing, 10 * SLOT_NS + 1)
    for slot in range(1, 20):
        wheel.turn(slot * SLOT_NS, never)
    assert thing.looked == [11 * SLOT_NS]
    assert len(wheel) == 0


def test_sooner_wins_and_later_changes_nothing() -> None:
    wheel, thing = Wheel(0), Thing()
    for due in (10, 5, 8):
        wheel.want(thing, due * SLOT_NS)
    wheel.turn(20 * SLOT_NS, never)
    assert len(thing.looked) == 1
    assert len(wheel) == 0


def test_what_it_returns_is_when_it_is_looked_at_again() -> None:
    wheel, thing = Wheel(0), Thing()
    thing.following = 7 * SLOT_NS
    wheel.want(thing, SLOT_NS)
    wheel.turn(SLOT_NS, never)
    thing.following = None
    wheel.turn(6 * SLOT_NS, never)
    wheel.turn(7 * SLOT_NS, never)
    assert thing.looked == [SLOT_NS, 7 * SLOT_NS]


def test_what_is_taken_out_is_not_looked_at() -> None:
    wheel, thing = Wheel(0), Thing()
    wheel.want(thing, SLOT_NS)
    thing.due_ns = 0
    wheel.turn(5 * SLOT_NS, never)
    assert thing.looked == []


def test_one_that_raises_ends_nothing() -> None:
    class Broken(Thing):
        def look(self, now_ns: int) -> int | None:
            raise ValueError("no")

    wheel, broken, sound = Wheel(0), Broken(), Thing()
    told: list[Timed] = []
    wheel.want(broken, SLOT_NS)
    wheel.want(sound, SLOT_NS)
    wheel.turn(SLOT_NS, lambda thing, _: told.append(thing))
    assert told == [broken]
    assert len(sound.looked) == 1
