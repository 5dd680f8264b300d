"""One measured number of the host or of the agent itself."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from aegis.model.process import legible
from aegis.model.stamp import rfc3339

VERSION = 1

Labels = tuple[tuple[str, str], ...]
Kind = Literal["gauge", "counter"]


class Sample(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A number with its unit, where it was read and when; or None and the reason why it could not be read.

    `name` and `labels` identify what is measured. A counter only grows while what it counts exists; a gauge may do
    anything. `unit` is a word (`bytes`, `seconds`, `packets`, `percent`), `source` the kernel's file or table,
    `time_ns` the wall clock of the reading in ns since 1970.
    """

    name: str
    labels: Labels = ()
    value: int | float | None
    reason: str | None = None
    unit: str
    kind: Kind
    source: str
    time_ns: int

    def __post_init__(self) -> None:
        if (self.value is None) == (self.reason is None):
            raise ValueError(f"sample {self.name}: a value or a reason, one of them")

    @property
    def key(self) -> tuple[str, Labels]:
        """What is measured."""
        return self.name, self.labels


def document(sample: Sample) -> dict[str, Any]:
    """The sample as one JSON object (`aegis.sample`), null beside `value_reason` where it could not be read."""
    return {
        "schema": "aegis.sample",
        "version": VERSION,
        "time": rfc3339(sample.time_ns),
        "time_ns": sample.time_ns,
        "name": sample.name,
        "labels": {legible(name): legible(text) for name, text in sample.labels},
        "value": sample.value,
        **({} if sample.reason is None else {"value_reason": legible(sample.reason)}),
        "unit": sample.unit,
        "kind": sample.kind,
        "source": sample.source,
    }
