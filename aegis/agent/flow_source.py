"""The kernel's flow table as the agent knows it: read at a steady pace, reaped, told on the bus, counted."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import msgspec

from aegis._native.flowtable import FlowRow, FlowSnapshot, FlowTable
from aegis.errors import KernelError
from aegis.kernel.flows import Count, FlowReader, SocketOwner
from aegis.kernel.object import BpfObject
from aegis.runtime import offload
from aegis.runtime.module import Bus, Clock, Log

IDENTITY = "seen <= live + reaped + table_full + retired + not_ip + truncated + bad_header + extensions + looped <= seen_after"
TERMS = (
    "seen",
    "live",
    "reaped",
    "table_full",
    "retired",
    "not_ip",
    "truncated",
    "bad_header",
    "extensions",
    "looped",
    "seen_after",
)
STAGES = ("packets.egress", "packets.ingress", "bytes.egress", "bytes.ingress")
REAP_EVERY_NS = 5_000_000_000
OWNERS_EVERY_NS = 60_000_000_000
REAPED_SHOWN_NS = 60_000_000_000  # how long a flow that is over can still be listed
EXACT_TRIES = 8


class Harvested(msgspec.Struct, frozen=True, kw_only=True):
    """Fulfils `runtime.module.Harvest`."""

    at_ns: int
    changed: int
    flows: int


class FlowSource:
    """Fulfils `runtime.module.FlowSource`. Without `open` there are no flows, and `available` says so."""

    identity = IDENTITY

    def __init__(self, bus: Bus, clock: Clock, log: Log) -> None:
        self._bus = bus
        self._clock = clock
        self._log = log
        self._reader: FlowReader | None = None
        self._table = FlowTable(1)
        self._reap_due_ns = 0
        self._owners_due_ns = 0
        self._forgetting = offload.lock()  # held while a thread uses the reader
        self._turns: list[tuple[int, int]] = []  # (instant, number) of past harvests, to forget by age

    @property
    def available(self) -> bool:
        return self._reader is not None

    @property
    def table(self) -> FlowTable:
        return self._table

    def open(self, core: BpfObject, capacity: int) -> None:
        """Read the table of a loaded core object with room for `capacity` flows. Raises KernelError."""
        reader = FlowReader(core, self._clock.boottime_ns)
        self._table = FlowTable(2 * capacity)  # as many that are over as are alive
        self._table.next_harvest()
        self._table.ingest(reader.everything())
        self._reader = reader
        now = self._clock.monotonic_ns()
        self._reap_due_ns, self._owners_due_ns = now + REAP_EVERY_NS, now + OWNERS_EVERY_NS

    def harvest(self) -> Harvested:
        """Read what changed and publish on `flow`. Raises KernelError; without a table nothing changed."""
        changed = 0
        if self._reader is not None:
            number = self._table.next_harvest()
            changed = self._table.ingest(self._reader.harvest())
            self._forget(number)
        found = Harvested(at_ns=self._clock.boottime_ns(), changed=changed, flows=len(self._table))
        self._bus.publish("flow", found)
        return found

    def _forget(self, number: int) -> None:
        """Drop flows that are over and were last told of long ago."""
        now = self._clock.monotonic_ns()
        self._turns.append((now, number))
        past = [(at, turn) for at, turn in self._turns if now - at > REAPED_SHOWN_NS]
        if past:
            self._table.forget(number - past[-1][1])
            self._turns = self._turns[len(past) - 1 :]

    async def tick(self) -> None:
        """Harvest, and now and then reap idle flows and forget owners that are gone."""
        if self._reader is None:
            return
        try:
            self.harvest()
            now = self._clock.monotonic_ns()
            if now >= self._reap_due_ns:
                self._reap_due_ns = now + REAP_EVERY_NS
                await self._reap(self._reader)
            if now >= self._owners_due_ns:
                self._owners_due_ns = now + OWNERS_EVERY_NS
                await self._forget_owners(self._reader)
        except KernelError as error:
            self._log.error("flow table not read", error=str(error))

    async def _reap(self, reader: FlowReader) -> None:
        if reader.retire():
            await offload.run(reader.wait)
            if self._reader is reader:
                self._table.ingest(reader.collect(), reaped=True)

    async def _forget_owners(self, reader: FlowReader) -> None:
        """On a thread: it asks /proc about every owner the kernel remembers, which may be tens of thousands.

        Nothing is reaped meanwhile, so that an owner is always in what was kept or in the kernel's own flows.
        """
        kept = self._table.owners()

        def forget() -> None:
            with self._forgetting:
                if self._reader is reader:
                    reader.forget_owners(lambda owner: self._reader is not reader or _alive(owner), kept)

        await offload.run(forget)

    def rows(self) -> list[FlowRow]:
        """Every flow known as of the last harvest, those that are over for a minute too."""
        return self._table.rows()

    def snapshot(self, last: int | None = None) -> FlowSnapshot:
        """As `rows`, to be read in parts; with `last`, only so many, those seen latest first."""
        return self._table.snapshot(last)

    def owner(self, owner: int) -> SocketOwner | None:
        """What the kernel's owner table says; None without one."""
        if self._reader is None:
            return None
        try:
            return self._reader.owner(owner)
        except KernelError:
            return None  # whoever asks falls back on what it knows itself

    def terms(self) -> Mapping[str, Mapping[str, int]]:
        """The terms of `IDENTITY` by stage. Read again while packets come in between, a few times."""
        if self._reader is None:
            return {}
        totals = self._reader.totals()
        for _ in range(EXACT_TRIES):
            if totals.seen == totals.seen_after:
                break
            totals = self._reader.totals()
        return {stage: {name: _part(getattr(totals, name), stage) for name in TERMS} for stage in STAGES}

    def losses(self) -> dict[str, dict[str, int]]:
        """Failures of kernel tables, by table and reason, without zeros. Raises KernelError."""
        if self._reader is None:
            return {}
        lost = {reason: count for reason, count in self._reader.losses().items() if count}
        return {"owners": lost} if lost else {}

    def close(self) -> None:
        """Let go of the tables; twice is harmless."""
        reader, self._reader = self._reader, None
        if reader is not None:
            # A thread that still forgets owners sees that there is no reader any more, and ends.
            with self._forgetting:
                reader.close()


def _part(count: Count, stage: str) -> int:
    what, _, direction = stage.partition(".")
    found: Any = getattr(count, f"{direction}_{what}")
    return int(found)


def _alive(owner: SocketOwner) -> bool:
    """Whether its pid is taken. A pid that was given away again keeps an entry too long, never too short."""
    return os.path.exists(f"/proc/{owner.pid}")
