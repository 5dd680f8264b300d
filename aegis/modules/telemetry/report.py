"""Reports of samples to the gateway: what changed since the one before, and now and then everything."""

from __future__ import annotations

from collections.abc import Iterable

from aegis.model.block import Encoded, base_of
from aegis.model.records import encode_samples
from aegis.model.sample import Labels, Sample

COMPLETE_EVERY = 60  # reports: once an hour by default

_Value = tuple[int | float | None, str | None]


class Report:
    """Of a number that is as it was told last nothing is told, so that an idle host is quiet.

    The first report and each sixtieth one are complete: whoever missed one knows all again by then.
    """

    def __init__(self) -> None:
        self._told: dict[tuple[str, Labels], _Value] = {}
        self._until_complete = 0

    def forget(self) -> None:
        """Nobody listens any more: the next report is complete."""
        self._told.clear()
        self._until_complete = 0

    def changed(self, samples: Iterable[Sample]) -> tuple[Sample, ...]:
        """The samples that are to be told now; they count as told."""
        if self._until_complete == 0:
            self._told.clear()
            self._until_complete = COMPLETE_EVERY
        self._until_complete -= 1
        found = []
        for sample in samples:
            value = (sample.value, sample.reason)
            if self._told.get(sample.key) != value:
                self._told[sample.key] = value
                found.append(sample)
        return tuple(found)


def encoded(samples: tuple[Sample, ...], wall_ns: int) -> Encoded:
    """One run, with the base of everything made now."""
    return encode_samples(samples, base_of(wall_ns))
