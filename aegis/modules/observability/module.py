"""Lifecycle of the module: sensors in, events and flows out."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import ExitStack, suppress
from typing import Any, Protocol, cast

from aegis._native.flowtable import FlowRow
from aegis._native.records import RecordBatch
from aegis.errors import EnvelopeInvalid, FeatureUnsupported, HostError, KernelError, ModuleError
from aegis.model.process import Cgroup, Owner, Process
from aegis.modules.observability.flow_reports import FlowReports
from aegis.modules.observability.flows import flow_of
from aegis.modules.observability.table import Table
from aegis.runtime.module import Clock, Context, FlowRows, Listening, Settings

TOPICS = ("process", "socket", "cgroup")
IDENTITY = "decoded = events + forks + cgroups"
RECONCILE_EVERY_S = 60.0
RECONCILE_AT_LEAST_NS = 1_000_000_000  # between two, however much is lost
GROWTH = 8192  # with so many processes beyond twice those that ran at the last one, exits must be missing
FLOWS_A_SLICE = 100  # about 4 ms; a request that comes meanwhile waits for a few of them
OWNERS_A_LISTING = 1024
STALLED_NS = 3_000_000_000


class Link(Protocol):
    """An interface of the host."""

    @property
    def index(self) -> int: ...
    @property
    def name(self) -> str: ...


class Host(Protocol):
    """What this module reads of the host; everything raises HostError."""

    def cgroup(self, identity: int) -> Cgroup | None: ...
    def cgroup_made(self, identity: int, path: str) -> Cgroup: ...
    def processes(self) -> Sequence[Process]: ...
    def pids(self) -> Sequence[int]: ...
    def process(self, pid: int) -> Process | None: ...
    def links(self) -> Sequence[Link]: ...


class Listing:
    """One reading of all flows on its way to a client."""

    def __init__(self, rows: FlowRows, clock: Clock) -> None:
        self.rows: FlowRows | None = rows  # None: given up for another
        self.over = asyncio.Event()
        self._clock = clock
        self._moved_ns = clock.monotonic_ns()

    def moved(self) -> None:
        self._moved_ns = self._clock.monotonic_ns()

    async def ended(self) -> None:
        """Until it is over, or its client has taken nothing for some seconds: then it is given up."""
        while not self.over.is_set():
            left_ns = self._moved_ns + STALLED_NS - self._clock.monotonic_ns()
            if left_ns <= 0:
                self.rows = None
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(left_ns / 1e9):
                    await self.over.wait()


class Observability:
    """Process, socket and flow events, each with its owner."""

    name = "observability"
    requires: tuple[str, ...] = ("bpf", "tracing", "ringbuf")

    def __init__(self, context: Context) -> None:
        self._context = context
        self._host: Host = context.host
        self._table = Table(
            self._cgroup, self._cgroup_made, self._process, keep_ended=context.config.integer("keep_ended")
        )
        self._listening: dict[str, Listening] = {}
        self._newest: RecordBatch | None = None
        self._reconciled_ns = 0
        self._crowd = GROWTH
        self._listing: Listing | None = None
        self._turn = asyncio.Lock()
        self._terms = {"decoded": 0, "events": 0, "forks": 0, "cgroups": 0}
        self._reports = FlowReports(context, self._table, self._interface_names)

    def reload(self, config: Settings) -> None:
        """Take a new interval of reports, the one option that needs no restart."""
        self._reports.reload(config)

    async def run(self, ready: Callable[[], None]) -> None:
        """Watch until cancelled. Without one of the sensors the others go on, and a condition says what is missing."""
        context = self._context
        with ExitStack() as stack:
            self._listen(stack)
            # After the sensors are there: what starts meanwhile is in both, and the record says it better.
            self._table.snapshot(self._host.processes())
            stack.enter_context(context.owners.provide(self._find_owner))
            stack.enter_context(context.stream("flows", self._stream_flows))
            stack.enter_context(context.count(IDENTITY, lambda: {self.name: self._terms}))
            ready()
            async with asyncio.TaskGroup() as group:
                for listening in self._listening.values():
                    group.create_task(listening.watch())
                group.create_task(self._keep_reconciling())
                group.create_task(self._reports.run())

    def _listen(self, stack: ExitStack) -> None:
        """Listen to each topic whose sensor can be loaded. Raises the last KernelError when none can."""
        context = self._context
        refused: dict[str, KernelError] = {}
        for topic in TOPICS:
            try:
                listening = context.bus.listen(topic, self._take)
            except KernelError as error:
                refused[topic] = error
                if len(refused) == len(TOPICS):
                    raise
            else:
                self._listening[topic] = stack.enter_context(listening)
        if refused:
            text = "; ".join(f"no {topic} events: {error}" for topic, error in refused.items())
            context.health.raise_("sensor_unavailable", text)

    def _take(self, batch: RecordBatch) -> None:
        """One drain of the ring, in the ring's own turn: what is too much stays in the ring, which counts what it loses.

        It comes once by each topic it has records of, one right behind the other.
        """
        if batch is self._newest:
            return
        self._newest = batch
        clock = self._context.clock
        runs, decoded, events, forks, cgroups = self._table.take(batch, clock.wall_of(0))
        terms = self._terms
        terms["decoded"] += decoded
        terms["events"] += events
        terms["forks"] += forks
        terms["cgroups"] += cgroups
        if self._table.running > self._crowd:
            self._reconcile()
        for run in runs:
            self._context.history.append(run)

    def _reconcile(self) -> None:
        """Exits may have been among what the ring lost: forget processes that do not run."""
        now = self._context.clock.monotonic_ns()
        if now - self._reconciled_ns < RECONCILE_AT_LEAST_NS:
            return
        self._reconciled_ns = now
        try:
            running = self._host.pids()
        except HostError as error:
            self._context.log.warning("processes could not be listed", error=str(error))
            return
        self._table.reconcile(running)
        self._crowd = 2 * len(running) + GROWTH

    async def _keep_reconciling(self) -> None:
        while True:
            await self._context.clock.sleep(RECONCILE_EVERY_S)
            self._reconcile()

    # What the table asks of the host

    def _cgroup(self, identity: int) -> Cgroup | None:
        try:
            return self._host.cgroup(identity)
        except HostError:
            return None

    def _cgroup_made(self, identity: int, path: bytes) -> Cgroup:
        return self._host.cgroup_made(identity, os.fsdecode(path))

    def _process(self, pid: int) -> Process | None:
        try:
            return self._host.process(pid)
        except HostError:
            return None

    # Flows

    def _find_owner(self, owner: int) -> Owner | None:
        """Who an owner id is, in the cgroup it was in when it made or connected the socket.

        A process may move between cgroups without a record of ours, so the kernel's note at the socket decides.
        """
        return self._table.find_owner(owner, self._context.flows.owner(owner))

    async def _stream_flows(self, args: dict[str, Any]) -> AsyncGenerator[object, None]:
        """Every flow known, as of now; none while no flow program is attached.

        In slices, so that nobody else waits for the whole; and one listing at a time, since each holds a copy of the
        table. A client that stops reading keeps others out for no more than some seconds.
        """
        last: int | None = args.get("last")
        if last is not None and last < 0:
            raise EnvelopeInvalid("flows: last must not be negative")
        flows = self._context.flows
        clock = self._context.clock
        async with self._turn:
            if self._listing is not None:
                await self._listing.ended()
            if not flows.available:
                raise FeatureUnsupported("read", "flows", detail="no interface is watched")
            names = self._interface_names()
            harvest = flows.harvest()
            listing = self._listing = Listing(flows.snapshot(last), clock)
        offset_ns = clock.wall_of(harvest.at_ns) - harvest.at_ns
        owners: dict[int, Owner | None] = {}
        start = 0
        try:
            while listing.rows is not None and start < len(listing.rows):
                for row in cast("list[FlowRow]", listing.rows.part(start, FLOWS_A_SLICE)):
                    if row.owner not in owners:
                        if len(owners) >= OWNERS_A_LISTING:
                            owners.clear()
                        owners[row.owner] = self._find_owner(row.owner)
                    yield flow_of(
                        row,
                        time_ns=harvest.at_ns + offset_ns,
                        wall_offset_ns=offset_ns,
                        owner=owners[row.owner],
                        rule=self._context.enforcer.rule(row.generation, row.rule) if row.rule else None,
                        interface=names.get(row.ifindex),
                    )
                start += FLOWS_A_SLICE
                listing.moved()
                await asyncio.sleep(0)
            if listing.rows is None:
                raise ModuleError(
                    f"the listing was given up: its client read nothing for {STALLED_NS // 10**9} s and another waited",
                    hint="read faster, or ask again",
                )
        finally:
            listing.over.set()
            if self._listing is listing:
                self._listing = None

    def _interface_names(self) -> dict[int, str]:
        try:
            return {link.index: link.name for link in self._host.links()}
        except HostError as error:
            self._context.log.warning("interfaces could not be listed", error=str(error))
            return {}
