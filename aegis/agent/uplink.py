"""The agent's link to its gateway as the rest of the agent sees it: kept or not, its state, what is told over it.

Light to import: the libraries of a link are loaded when one is kept for the first time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from aegis.agent.link.unsaid import Change, Reply, Unsaid
from aegis.model.absent import Absent
from aegis.model.link import LinkState, LinkStatus
from aegis.runtime.module import Clock, Health, Log, Settings

if TYPE_CHECKING:
    from aegis.agent.link.choice import Choice
    from aegis.agent.outbox.outbox import Outbox
    from aegis.protocol.agent_happenings import AgentHappening, Order

NO_GATEWAY = Absent("no gateway is configured")
NO_KEY = Absent("the agent has no key: no gateway is configured")
NO_KEY_YET = Absent("the agent has no key yet: its link was not started")
NOT_AUTHENTICATED = Absent("no gateway has authenticated this agent now")
NO_PROTOCOL = Absent("no protocol is spoken")
NOT_KEPT = "websocket_communication does not run"

# What there is to tell of the host when it registers: members of the registration by name.
Facts = Callable[[], Mapping[str, Any]]


class Uplink:
    """Fulfils `runtime.module.Uplink`. `choice` None: there is no gateway; then nothing is made or loaded.

    `standing` gives how things stand, for a gateway that was not there while they changed.
    """

    def __init__(
        self,
        *,
        choice: Choice | None,
        agent_id: str,
        state_dir: str,
        clock: Clock,
        log: Log,
        facts: Facts,
        standing: Callable[[], list[Change]],
    ) -> None:
        self.choice = choice
        self.agent_id = agent_id
        self.state_dir = state_dir
        self.clock = clock
        self.log = log
        self.facts = facts
        self.standing = standing
        self.outbox: Outbox | None = None  # where there is a gateway that may be spoken to
        self.unsaid = Unsaid()
        self.on_order: Callable[[Order], None] = lambda _order: None
        self.count: Callable[[Sequence[AgentHappening]], None] = lambda _frame: (
            None
        )  # what came of each frame
        self.wake: Callable[[], None] = lambda: None  # of the connection there is
        self.ending = "websocket_communication was stopped"  # the reason a gateway is told
        self._uid: str | None = None
        state = LinkState.UNCONFIGURED if choice is None else LinkState.DISCONNECTED
        self._status = self._described(state, "" if choice is None else NOT_KEPT)

    # ---- what is known

    def status(self) -> LinkStatus:
        return self._status

    @property
    def up(self) -> bool:
        """Whether a connection carries records and orders, `connected` or not yet."""
        return self._status.up

    @property
    def connected(self) -> bool:
        return self._status.state is LinkState.CONNECTED

    def _described(self, state: LinkState, reason: str) -> LinkStatus:
        choice = self.choice
        if choice is None:
            absent = NO_GATEWAY
            return LinkStatus(
                state=state,
                reason=reason,
                since_ns=self.clock.wall_ns(),
                url=absent,
                uid=NO_KEY,
                protocol=absent,
                authenticated_ns=absent,
                insecure_v1=absent,
            )
        spoken = choice.refusal is None
        return LinkStatus(
            state=state,
            reason=reason,
            since_ns=self.clock.wall_ns(),
            url=choice.url.text,
            uid=NO_KEY_YET if self._uid is None else self._uid,
            protocol="v1" if spoken else NO_PROTOCOL,
            authenticated_ns=NOT_AUTHENTICATED,
            insecure_v1=True if spoken else NO_PROTOCOL,
        )

    # ---- what the one who keeps it says

    def is_now(self, state: LinkState, reason: str = "", *, up: bool = False) -> None:
        """Authentication holds from `authenticated` to the next state before it. What is connected is `up`."""
        before = self._status
        now = msgspec.structs.replace(self._described(state, reason), up=up or state is LinkState.CONNECTED)
        if state in {LinkState.REGISTERING, LinkState.CONNECTED}:
            now = msgspec.structs.replace(now, authenticated_ns=before.authenticated_ns)
        self._status = now
        if before.state is not state:
            write = self.log.warning if state is LinkState.REFUSED else self.log.info
            write("link", state=state.value, reason=reason or None)

    def authenticated(self) -> None:
        self.is_now(LinkState.REGISTERING)
        self._status = msgspec.structs.replace(self._status, authenticated_ns=self.clock.wall_ns())

    def is_called(self, uid: str) -> None:
        self._uid = uid
        self._status = msgspec.structs.replace(self._status, uid=uid)

    # ---- what is told over it

    def answer(self, reply: Reply) -> None:
        """Kept until a connection takes it."""
        self.unsaid.answer(reply)
        self.wake()

    def tell(self, change: Change) -> None:
        """A change while there is a connection; the next one is told how things stand."""
        if self.up:
            self.unsaid.change(change)
            self.wake()

    # ---- its life

    async def keep(self, settings: Settings, health: Health) -> None:
        """Fulfils `runtime.module.Uplink`."""
        choice = self.choice
        if choice is None:
            await asyncio.Event().wait()
            return
        try:
            if choice.refusal is not None:
                self.is_now(LinkState.REFUSED, str(choice.refusal))
                health.raise_("gateway_refused", str(choice.refusal), choice.refusal.hint or "")
                await asyncio.Event().wait()
                return
            assert self.outbox is not None
            from aegis.agent import spared

            spared.client()
            from aegis.agent.link.keeper import Keeper

            await Keeper(self, choice, self.outbox, settings, health).keep()
        finally:
            self.is_now(LinkState.DISCONNECTED, NOT_KEPT)
