"""What a benchmark returns, and the small sums all of them need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measured line of the table.

    `value` is in `unit`; `peer` is what the named comparison took on the same machine in the same run, in the same
    unit, and `ratio` is ours against it. A row without a peer has None for both. `samples` are the raw readings
    `value` was made from; `note` says what else a reader must know (the peer's name, the workload).
    """

    name: str
    value: float
    unit: str
    peer: float | None = None
    ratio: float | None = None
    samples: list[float] = field(default_factory=list)
    note: str = ""


def median(samples: Sequence[float]) -> float:
    return quantile(samples, 0.5)


def quantile(samples: Sequence[float], share: float) -> float:
    """The sample below which `share` of them lie, by linear interpolation."""
    if not samples:
        raise ValueError("no samples")
    ordered = sorted(samples)
    position = share * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)
