"""A sample has a value or a reason."""

from __future__ import annotations

import msgspec
import pytest

from aegis.model.sample import Sample, document


def sample(value: float | None, reason: str | None) -> Sample:
    return Sample(
        name="load.average",
        labels=(("minutes", "1"),),
        value=value,
        reason=reason,
        unit="threads",
        kind="gauge",
        source="/proc/loadavg",
        time_ns=1,
    )


def test_value_or_reason() -> None:
    assert sample(0, None).value == 0
    assert sample(None, "not there").reason == "not there"
    for value, reason in ((0, "x"), (None, None)):
        with pytest.raises(ValueError, match="one of them"):
            sample(value, reason)


def test_it_survives_json() -> None:
    for one in (sample(0.31, None), sample(None, "not there")):
        assert msgspec.json.decode(msgspec.json.encode(one), type=Sample) == one
    assert sample(1, None).key == ("load.average", (("minutes", "1"),))


def test_as_one_object() -> None:
    known = {
        "schema": "aegis.sample",
        "version": 1,
        "time": "1970-01-01T00:00:00.000000001Z",
        "time_ns": 1,
        "name": "load.average",
        "labels": {"minutes": "1"},
        "unit": "threads",
        "kind": "gauge",
        "source": "/proc/loadavg",
    }
    assert document(sample(0.31, None)) == known | {"value": 0.31}
    assert document(sample(None, "gone")) == known | {"value": None, "value_reason": "gone"}


def test_labels_that_are_no_text_are_shown_as_bytes_are() -> None:
    sample = Sample(
        name="fs.bytes", labels=(("mount", "/mnt/\udcff"),), value=None, reason="/mnt/\udcff: gone", unit="bytes",
        kind="gauge", source="statvfs", time_ns=5,
    )  # fmt: skip
    shown = msgspec.json.decode(msgspec.json.encode(document(sample)))
    assert (shown["labels"], shown["value_reason"]) == ({"mount": "/mnt/\\xff"}, "/mnt/\\xff: gone")
