"""Which samples are known after a reading."""

from __future__ import annotations

from aegis.model.sample import Sample
from aegis.modules.telemetry.latest import merge, unreadable


def sample(name: str, value: float | None = 1, label: str = "", time_ns: int = 1) -> Sample:
    return Sample(
        name=name,
        labels=(("x", label),) if label else (),
        value=value,
        reason=None if value is not None else "gone",
        unit="bytes",
        kind="gauge",
        source="here",
        time_ns=time_ns,
    )


def test_what_was_left_out_stays_with_its_own_instant() -> None:
    first = (sample("a"), sample("slow"))
    second = (sample("a", 2, time_ns=9),)
    merged = merge(second, first)
    assert [(one.name, one.value, one.time_ns) for one in merged] == [("a", 2, 9), ("slow", 1, 1)]
    assert merge((sample("slow", None, time_ns=10),), merged)[0].value is None


def test_what_is_gone_does_not_stay_behind() -> None:
    first = (sample("disk", label="sda"), sample("disk", label="sdb"))
    assert merge((sample("disk", label="sda"),), first) == (sample("disk", label="sda"),)
    # All of a name is absent now: the numbers from before must not pass for current ones.
    assert merge((sample("disk", None),), first) == (sample("disk", None),)


def test_only_the_essential_is_missed() -> None:
    assert unreadable(
        (sample("cpu.time", None), sample("pressure.io.share", None), sample("memory.total"))
    ) == (("cpu.time", "gone"),)
