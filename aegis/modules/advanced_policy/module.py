"""Lifecycle of the module: verdict records in, events out, and the state of enforcement as conditions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from aegis._native.records import VERDICT, RecordBatch, decode
from aegis.errors import HostError
from aegis.model.event import Event, LossEvent
from aegis.modules.advanced_policy.translate import translate
from aegis.runtime.module import Context, Settings, Subscription

STALE, UNAVAILABLE = "enforcement_stale", "enforcement_unavailable"
NOT_DURABLE = "policy_not_durable"
HINTS = {
    STALE: "apply the policies again: the next apply replaces the policy in the kernel",
    UNAVAILABLE: "aegis doctor says what is missing",
    NOT_DURABLE: "make room or mend the state directory; it is tried again by itself",
}


class Link(Protocol):
    """An interface of the host."""

    index: int
    name: str


class Host(Protocol):
    """What this module reads of the host. Raises HostError."""

    def links(self) -> Sequence[Link]: ...


class AdvancedPolicy:
    """Reports what policy denied or would have. The kernel enforces without it, and goes on when it stops."""

    name = "advanced_policy"
    requires: tuple[str, ...] = ("bpf", "ringbuf")

    def __init__(self, context: Context) -> None:
        self._context = context
        self._host: Host = context.host
        self._settings = context.config
        self._interfaces: dict[int, str] = {}
        self._lost = 0  # records already reported as loss

    def reload(self, config: Settings) -> None:
        """Take a new interval from the next look on."""
        self._settings = config

    async def run(self, ready: Callable[[], None]) -> None:
        """Report until cancelled."""
        capacity = self._settings.integer("queue_records")
        with self._context.bus.subscribe("verdict", capacity=capacity, full="drop_newest") as subscription:
            self._judge_state()
            ready()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._watch(subscription))
                group.create_task(self._look())

    async def _watch(self, subscription: Subscription) -> None:
        async for batch in subscription:
            # One turn of the loop for whoever learns of processes from the records before these.
            await asyncio.sleep(0)
            self._take(batch, subscription)

    def _take(self, batch: RecordBatch, subscription: Subscription) -> None:
        clock = self._context.clock
        boottime_ns = clock.boottime_ns()
        events: list[Event] = [
            *translate(
                decode(batch, (VERDICT,)),
                rule_of=self._context.enforcer.rule,
                owner_of=self._context.owners.find,
                interface_of=self._interface,
                wall_offset_ns=clock.wall_of(boottime_ns) - boottime_ns,
            )
        ]
        lost = subscription.dropped - self._lost
        if lost:
            self._lost += lost
            events.append(
                LossEvent(
                    time_ns=clock.wall_ns(), stage="queue", kind="verdict", reason="queue_full", count=lost
                )
            )
        self._context.history.append(events)

    async def _look(self) -> None:
        while True:
            await self._context.clock.sleep(self._settings.number("check_interval_s"))
            self._judge_state()

    def _judge_state(self) -> None:
        """Raise the conditions that fit the state of enforcement, and clear the others."""
        state = self._context.enforcer.state()
        wrong = {{"stale": STALE, "unavailable": UNAVAILABLE}.get(state.state)}
        if not state.durable:
            wrong.add(NOT_DURABLE)
        for code, hint in HINTS.items():
            if code in wrong:
                self._context.health.raise_(code, state.reason or state.state, hint)
            else:
                self._context.health.clear(code)

    def _interface(self, index: int) -> str | None:
        """The interface's name; the list is read again for an index that is new."""
        if index not in self._interfaces:
            try:
                self._interfaces = {link.index: link.name for link in self._host.links()}
            except HostError:
                return None
        return self._interfaces.get(index)
