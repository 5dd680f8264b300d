"""What is known now: the samples of this reading, and those of an earlier one that this reading left out."""

from __future__ import annotations

from collections.abc import Iterable

from aegis.model.sample import Sample

# Without these there is no telemetry worth the name; any other number may be missing for good on some host.
ESSENTIAL = ("cpu.time", "load.average", "memory.total", "process.count")


def merge(fresh: tuple[Sample, ...], kept: Iterable[Sample]) -> tuple[Sample, ...]:
    """`fresh`, then the samples of `kept` whose name it does not have at all; those keep their own instant.

    A name that was read replaces all samples of that name: a disk that is gone does not stay behind.
    """
    names = {sample.name for sample in fresh}
    return fresh + tuple(sample for sample in kept if sample.name not in names)


def unreadable(samples: Iterable[Sample]) -> tuple[tuple[str, str], ...]:
    """(name, reason) of essential numbers that are absent."""
    return tuple(
        (sample.name, sample.reason)
        for sample in samples
        if sample.reason is not None and sample.name in ESSENTIAL
    )
