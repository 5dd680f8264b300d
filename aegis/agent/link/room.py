"""All there is for a gateway: the outbox, what goes into it, the uplink, the orders that come. Nothing without one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from typing import TYPE_CHECKING

from aegis.agent.link import standing
from aegis.agent.link.choice import choose
from aegis.agent.link.facts import facts
from aegis.agent.link.unsaid import Change, Reply
from aegis.agent.module_orders import ModuleOrders
from aegis.agent.options import Options
from aegis.agent.uplink import Uplink
from aegis.errors import HostError
from aegis.host.reader import Host
from aegis.model.health import Condition
from aegis.model.module import ModuleStatus
from aegis.runtime import log as logging
from aegis.runtime.bus import Bus
from aegis.runtime.clock import SystemClock
from aegis.runtime.counters import Counters
from aegis.runtime.health import Conditions, ScopedHealth

if TYPE_CHECKING:
    from aegis.agent.commands import Commands
    from aegis.agent.held_off import Interrupted
    from aegis.agent.outbox.outbox import Outbox
    from aegis.agent.policy_orders import PolicyOrders

DRAIN_S = 1.0  # of a stop, for what is under way; the rest waits on disk for the next start
LAST_S = 1.5  # of a stop, for what comes behind the drain
LOOK_S = 0.01


class LinkRoom:
    """Made once an agent is enforcing. `interfaces` gives the names of those that are watched."""

    def __init__(
        self,
        *,
        agent_id: str,
        state_dir: str,
        options: Options,
        clock: SystemClock,
        bus: Bus,
        host: Host,
        conditions: Conditions,
        health: ScopedHealth,
        interfaces: Callable[[], list[str]],
    ) -> None:
        self._state_dir = state_dir
        self._options = options
        self._clock = clock
        self._bus = bus
        self._host = host
        self._conditions = conditions
        self._health = health
        self._statuses: Callable[[], tuple[ModuleStatus, ...]] = tuple
        self._commands: Commands | None = None
        self.outbox: Outbox | None = None
        self.log = logging.logger(source="link")
        self.uplink = Uplink(
            choice=choose(options.table("gateway")),
            agent_id=agent_id,
            state_dir=state_dir,
            clock=clock,
            log=self.log,
            facts=lambda: facts(agent_id, interfaces()),
            standing=self._standing,
        )

    @property
    def wanted(self) -> bool:
        """Whether there is a gateway that may be spoken to."""
        return self.uplink.choice is not None and self.uplink.choice.refusal is None

    async def open(self, stack: AsyncExitStack, group: asyncio.TaskGroup, counters: Counters) -> None:
        """Take what is published from now on, until `stack` closes. Storage that cannot be had is a condition."""
        if not self.wanted:
            return
        from aegis.agent.commands import IDENTITY as ORDERS
        from aegis.agent.link.frames import IDENTITY as FRAMES
        from aegis.agent.link.frames import Frames
        from aegis.agent.outbox.outbox import IDENTITY, Outbox
        from aegis.agent.outgoing import Outgoing

        self.outbox = self.uplink.outbox = outbox = Outbox(
            self._state_dir,
            self._options.table("outbox"),
            boot_id=self._boot_id(),
            clock=self._clock,
            health=self._health,
            log=self.log,
        )
        stack.push_async_callback(outbox.close, LAST_S)
        await outbox.open()
        stack.enter_context(counters.count(IDENTITY, outbox.terms))
        frames = Frames()
        self.uplink.count = frames.count
        stack.enter_context(counters.count(FRAMES, frames.terms))
        stack.enter_context(counters.count(ORDERS, self._order_terms))
        Outgoing(self._bus, outbox, self._clock).open(group, stack.enter_context(ExitStack()))

    def _boot_id(self) -> bytes:
        try:
            return self._host.boot_id()
        except HostError as error:
            self.log.warning("boot id not read; records are told apart by stream alone", error=str(error))
            return bytes(16)

    def obey(
        self,
        orders: ModuleOrders,
        policy_orders: PolicyOrders,
        group: asyncio.TaskGroup,
        interrupted: Iterable[Reply] = (),
    ) -> None:
        """Take orders from here on. `interrupted`: answers to those an agent before this one could not end."""
        self._statuses = orders.statuses
        if not self.wanted:
            return
        from aegis.agent.commands import Commands

        self._commands = Commands(
            orders,
            policy_orders,
            group=group,
            unsigned=lambda: self._options.table("policy").text("unsigned_orders"),
            answer=self.uplink.answer,
            clock=self._clock,
            log=self.log,
        )
        self._commands.answer(interrupted)
        self.uplink.on_order = self._commands.take

    def under_way(self) -> Sequence[Interrupted]:
        """Orders without an answer yet. From any thread."""
        return () if self._commands is None else self._commands.under_way()

    def _order_terms(self) -> Mapping[str, Mapping[str, int]]:
        return {} if self._commands is None else self._commands.terms()

    # ---- what is told

    def _standing(self) -> list[Change]:
        return [
            *(standing.of_module(one) for one in self._statuses()),
            *(standing.of_condition(one, holds=True) for one in self._conditions.all()),
        ]

    def module_changed(self, status: ModuleStatus) -> None:
        self.uplink.tell(standing.of_module(status))

    def condition_changed(self, condition: Condition, *, holds: bool) -> None:
        self.uplink.tell(standing.of_condition(condition, holds=holds))

    def losses(self) -> dict[str, dict[str, int]]:
        """Of the outbox and of answers, by stage and reason, without zeros."""
        found = {} if self.outbox is None else self.outbox.losses()
        dropped = self.uplink.unsaid.dropped
        answers = {"answers": {"queue_full": dropped}} if dropped else {}
        return {stage: dict(reasons) for stage, reasons in found.items()} | answers

    # ---- the end

    async def drain(self, left_s: Callable[[], float]) -> None:
        """While the link is up, give what is under way a moment to arrive; what does not is on disk."""
        self.uplink.ending = "the agent stops"
        outbox = self.outbox
        if outbox is None:
            return
        until_ns = self._clock.monotonic_ns() + round(min(DRAIN_S, left_s() - LAST_S) * 1e9)
        await asyncio.sleep(0)  # what was published last is in the outbox after this
        while self.uplink.up and any(outbox.pending().values()):
            if self._clock.monotonic_ns() >= until_ns:
                return
            await self._clock.sleep(LOOK_S)
