"""What is asked of the store, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from aegis.agent.outbox.rows import CLASSES
from aegis.model.block import Block, BlockClass

LossKey = tuple[str, str, str]  # stage, kind, reason
Losses = dict[BlockClass, dict[LossKey, int]]
Span = tuple[int, int]  # seqs, both ends included


class Totals(msgspec.Struct):
    """Rows of one class."""

    rows: int = 0
    records: int = 0
    size: int = 0

    def add(self, records: int, size: int) -> None:
        self.rows += 1
        self.records += records
        self.size += size


class Fetched(msgspec.Struct, frozen=True, gc=False):
    """A row read back; `block` is None where it does not open."""

    seq: int
    count: int
    size: int
    block: Block | None


class Eviction(msgspec.Struct, frozen=True):
    """Drop the oldest rows of a class within `spans`, in order, until `size` bytes are gone."""

    cls: BlockClass
    spans: tuple[Span, ...]
    size: int


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """One transaction. `losses` are those that are in no row and no earlier message, all of them."""

    inserts: tuple[tuple[int, Block], ...] = ()
    deletes: tuple[tuple[BlockClass, Span], ...] = ()
    evictions: tuple[Eviction, ...] = ()
    losses: Losses | None = None


class Evicted(msgspec.Struct):
    """What an eviction took: rows that opened, rows that did not, and the losses that were told in them."""

    whole: Totals = msgspec.field(default_factory=Totals)
    broken: Totals = msgspec.field(default_factory=Totals)
    losses: dict[LossKey, int] = {}


class Opened(msgspec.Struct, frozen=True, kw_only=True):
    """What was found. `corrupt` counts records that should be there and are not."""

    totals: dict[BlockClass, Totals]
    last_seq: dict[BlockClass, int]
    corrupt: dict[BlockClass, int]
    losses: Losses
    last_stream: int
    quarantined: str | None = None
    uncounted: bool = False  # rows may be missing that nothing is known of


class State(msgspec.Struct, kw_only=True):
    """Records ever put into the file and taken out again, by class rank; losses that are in no row."""

    put: list[int] = msgspec.field(default_factory=lambda: [0] * len(CLASSES))
    gone: list[int] = msgspec.field(default_factory=lambda: [0] * len(CLASSES))
    losses: list[tuple[BlockClass, str, str, str, int]] = []

    def told(self) -> Losses:
        found: Losses = {}
        for cls, stage, kind, reason, count in self.losses:
            found.setdefault(cls, {})[stage, kind, reason] = count
        return found


def flat(losses: Mapping[BlockClass, Mapping[LossKey, int]]) -> list[tuple[BlockClass, str, str, str, int]]:
    return [(cls, *key, count) for cls, found in losses.items() for key, count in found.items()]


def with_evicted(losses: Losses, evicted: Mapping[BlockClass, Evicted]) -> Losses:
    """The losses with those that an eviction made, and those it found in what it dropped."""
    for cls, found in evicted.items():
        into = losses.setdefault(cls, {})
        for key, count in eviction_losses(cls, found).items():
            into[key] = into.get(key, 0) + count
    return losses


def eviction_losses(cls: BlockClass, found: Evicted) -> dict[LossKey, int]:
    """What an eviction adds to what is to be told."""
    losses = dict(found.losses)
    for reason, part in (("evicted", found.whole), ("corrupt", found.broken)):
        if part.records:
            key = ("outbox", cls.value, reason)
            losses[key] = losses.get(key, 0) + part.records
    return losses
