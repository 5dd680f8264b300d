"""Stores with a bug planted, that the judges must find."""

from __future__ import annotations

from aegis.agent.outbox.changes import Changes, Evicted
from aegis.agent.outbox.rows import CLASSES
from aegis.agent.outbox.store import Store
from aegis.model.block import BlockClass


class NoFlush(Store):
    """Commits without a flush: what is promised is in the page cache."""

    synchronous = "OFF"


class Early(Store):
    """Says that a commit is done before it is: it makes each together with the next."""

    _held: Changes | None = None

    def apply(self, changes: Changes) -> dict[BlockClass, Evicted]:
        held, self._held = self._held, changes
        return super().apply(held) if held is not None else {}


class NoClass(Store):
    """Deletes by seq, whatever the class."""

    def apply(self, changes: Changes) -> dict[BlockClass, Evicted]:
        everywhere = tuple((cls, span) for _, span in changes.deletes for cls in CLASSES)
        wrong = Changes(
            inserts=changes.inserts, deletes=everywhere, evictions=changes.evictions, losses=changes.losses
        )
        return super().apply(wrong)


STORES: dict[str, type[Store]] = {"sound": Store, "no-flush": NoFlush, "early": Early, "no-class": NoClass}
