"""One order on its way: what it is, who waits for its answer, and what is told of it."""

from __future__ import annotations

import asyncio
from typing import Any

from aegis.gateway.store.base import MessageRow
from aegis.gateway.views import Sent, SentStatus


class Message:
    """Made for one agent; `row` is what the store has or will have of it."""

    __slots__ = ("answer", "asked_ns", "is_answered", "row", "sealed", "waiter")

    def __init__(self, row: MessageRow, text: bytes) -> None:
        self.row = row
        self.sealed = text  # what is sealed: the same bytes for every agent of a broadcast
        self.waiter: asyncio.Future[Any] | None = None
        self.answer: Any = None
        self.is_answered = False  # the answer came; the row says so once it is stored
        self.asked_ns = 0  # monotonic

    @property
    def is_under_way(self) -> bool:
        """Whether the kernel may not have it yet."""
        return self.row.status == "queued" and not self.is_answered

    def wake(self) -> None:
        """Who waits for the answer waits no longer."""
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def result(self, *, waited: bool) -> Sent:
        """What is told now; `waited` where an answer was waited for as long as was asked."""
        row = self.row
        known = "sent" if self.is_answered and row.status == "queued" else row.status
        sent = SentStatus.TIMEOUT if waited else SentStatus.SENT
        status = {"answered": SentStatus.ANSWERED, "sent": sent, "queued": SentStatus.QUEUED}.get(known)
        return Sent(
            message_id=row.id,
            agent_uid=row.uid,
            status=status or SentStatus.FAILED,
            error=row.error or None,
            answer=self.answer,
        )
