from __future__ import annotations

from aegis.agent.loss_watch import QUIET_NS, LossWatch
from aegis.runtime.bus import Bus
from aegis.runtime.clock import SystemClock
from aegis.runtime.health import Conditions
from aegis.runtime.history import EventHistory


class Clock(SystemClock):
    """The host's clock with monotonic time set by hand."""

    def __init__(self) -> None:
        self.now = 10**9

    def monotonic_ns(self) -> int:
        return self.now


def test_each_loss_is_told_once_and_the_condition_ends_after_a_quiet_time() -> None:
    clock = Clock()
    conditions, history = Conditions(clock), EventHistory(Bus(), 100)
    watch = LossWatch(clock, conditions.scoped("agent"), history)
    watch.start({"exec": 11})
    watch.take({"exec": 11})
    assert (list(history), conditions.all()) == ([], ())
    watch.take({"exec": 14, "exit": 5})
    watch.take({"exec": 14, "exit": 7})
    told = [(one.stage, one.kind, one.reason, one.count) for one in history]
    assert told == [
        ("ring", "exec", "ring_full", 3),
        ("ring", "exit", "ring_full", 5),
        ("ring", "exit", "ring_full", 2),
    ]
    assert [one.code for one in conditions.all()] == ["records_lost"]
    clock.now += QUIET_NS
    watch.take({})
    assert len(conditions.all()) == 1
    clock.now += 1
    watch.take({})
    assert conditions.all() == ()
