"""Reports: nothing that was told already, except now and then all of it."""

from __future__ import annotations

import msgspec

from aegis.model.block import BlockClass, base_of
from aegis.model.records import decode, loads
from aegis.model.sample import Sample
from aegis.modules.telemetry.report import COMPLETE_EVERY, Report, encoded

LOAD = Sample(
    name="load",
    labels=(("over", "1m"),),
    value=0.5,
    unit="processes",
    kind="gauge",
    source="/proc/loadavg",
    time_ns=7,
)
FIVE = msgspec.structs.replace(LOAD, labels=(("over", "5m"),))
TOTAL = Sample(
    name="memory", value=None, reason="no file", unit="bytes", kind="gauge", source="/proc/meminfo", time_ns=8
)
ALL = (LOAD, FIVE, TOTAL)


def test_the_first_is_complete_and_then_only_news() -> None:
    report = Report()
    assert report.changed(ALL) == ALL
    assert report.changed(tuple(msgspec.structs.replace(one, time_ns=99) for one in ALL)) == ()
    up = msgspec.structs.replace(FIVE, value=0.75)
    assert report.changed((LOAD, up, TOTAL)) == (up,)
    assert report.changed((LOAD, up, TOTAL)) == ()
    assert report.changed((LOAD, FIVE, TOTAL)) == (FIVE,), "back again is news too"


def test_another_reason_and_a_value_where_there_was_none_are_news() -> None:
    report = Report()
    report.changed(ALL)
    other = msgspec.structs.replace(TOTAL, reason="not legible")
    assert report.changed((other,)) == (other,)
    zero = msgspec.structs.replace(TOTAL, value=0, reason=None)
    assert report.changed((zero,)) == (zero,)


def test_now_and_then_everything() -> None:
    report = Report()
    lengths = [len(report.changed(ALL)) for _ in range(2 * COMPLETE_EVERY + 1)]
    assert [at for at, length in enumerate(lengths) if length] == [0, COMPLETE_EVERY, 2 * COMPLETE_EVERY]
    assert set(lengths) == {0, 3}


def test_after_nobody_listened_everything() -> None:
    report = Report()
    report.changed(ALL)
    report.forget()
    assert report.changed(ALL) == ALL


def test_a_run_has_the_base_of_now() -> None:
    run = encoded(ALL, 1_790_000_000_000_000_000)
    assert (run.cls, len(run), run.base_ns) == (BlockClass.SAMPLE, 3, base_of(1_790_000_000_000_000_000))
    assert tuple(decode(record, run.base_ns) for record in loads(run)) == ALL
