"""Flows on their way to the gateway: after each harvest those that are due, as records on the topic `flow_record`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from aegis._native.flow_records import FlowEncoder
from aegis._native.flowtable import FlowTable
from aegis.model.block import BlockClass, Encoded, base_of
from aegis.model.event import LossEvent
from aegis.model.policy import RuleName
from aegis.modules.observability.table import Table
from aegis.runtime.module import Context, Harvest, Settings

TOPIC = "flow_record"
HARVESTS = 1024  # that may wait; all but the newest are passed over
_NS = 1_000_000_000


class FlowReports:
    """A flow is due when it is new, when it is over, and in between when it changed and an interval has passed.

    Without a listener nothing is made: what is due stays due. `names` gives the names of interfaces by index.
    """

    def __init__(self, context: Context, table: Table, names: Callable[[], dict[int, str]]) -> None:
        self._context = context
        self._table = table
        self._read_names = names
        self._names: dict[int, str] | None = None
        self._untold = 0
        self._encoder = FlowEncoder(self._owner, self._rule, self._interface)
        self.reload(context.config)

    def reload(self, config: Settings) -> None:
        """Take a new interval, from the next harvest on."""
        self._interval_ns = round(config.number("flow_report_interval_s") * _NS)

    async def run(self) -> None:
        """Report until cancelled. What the table dropped before is nobody's loss: nobody was to be told."""
        self._untold = self._context.flows.table.untold
        with self._context.bus.subscribe("flow", capacity=HARVESTS) as harvests:
            async for harvest in harvests:
                newest = harvest
                while (later := harvests.get_nowait()) is not None:
                    newest = later
                await self._report(newest)

    async def _report(self, harvest: Harvest) -> None:
        """All that is due now, in runs that fit a block; whoever else waits is let in between them."""
        context = self._context
        table = cast("FlowTable", context.flows.table)
        if not context.bus.listeners(TOPIC):
            self._untold = table.untold
            return
        self._tell_losses(table)
        self._encoder.forget()
        self._names = None
        offset_ns = context.clock.wall_of(harvest.at_ns) - harvest.at_ns
        base_ns = base_of(harvest.at_ns + offset_ns)
        while True:
            count, records = self._encoder.encode(
                table,
                now_ns=harvest.at_ns,
                wall_offset_ns=offset_ns,
                base_ns=base_ns,
                interval_ns=self._interval_ns,
            )
            if not count:
                return
            context.bus.publish(TOPIC, Encoded(BlockClass.FLOW, base_ns, count, records))
            await asyncio.sleep(0)

    def _tell_losses(self, table: FlowTable) -> None:
        """Flows that made room for others, or were forgotten, before they were told of."""
        count, self._untold = table.untold - self._untold, table.untold
        if count > 0:
            time_ns = self._context.clock.wall_ns()
            lost = LossEvent(time_ns=time_ns, stage="table", kind="flow", reason="evicted", count=count)
            self._context.history.append([lost])

    # What the encoder asks, once for each of them in a report

    def _owner(self, owner: int) -> bytes | None:
        """Who an owner id is, in the cgroup it was in when it made or connected the socket."""
        return self._table.owner_record(owner, self._context.flows.owner(owner))

    def _rule(self, generation: int, rule: int) -> RuleName | None:
        return self._context.enforcer.rule(generation, rule)

    def _interface(self, index: int) -> str | None:
        if self._names is None:
            self._names = self._read_names()
        return self._names.get(index)
