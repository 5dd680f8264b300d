"""Joins the rooms into one agent: what exists, what it is lent, in which order it begins and ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import re
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from aegis._native._system import lib
from aegis.agent.control.verbs import Verbs
from aegis.agent.directories import Directories
from aegis.agent.kernel_room import KernelRoom
from aegis.agent.management_room import ManagementRoom
from aegis.agent.missed_runs import IDENTITY as MISSED
from aegis.agent.missed_runs import MissedRuns
from aegis.agent.options import Options
from aegis.agent.owners import Owners
from aegis.agent.resources import Resources
from aegis.agent.spin_guard import SpinGuard
from aegis.errors import AegisError, FeatureUnsupported, HostError, KernelError, StorageError
from aegis.host.changes import NetworkChanges
from aegis.host.reader import Host
from aegis.host.rtnetlink import Link
from aegis.model.health import Condition
from aegis.model.module import ModuleState, ModuleStatus
from aegis.runtime import log as logging
from aegis.runtime.bus import Bus
from aegis.runtime.clock import SystemClock
from aegis.runtime.config import Configuration
from aegis.runtime.counters import Counters
from aegis.runtime.gateway_url import parse
from aegis.runtime.health import Conditions
from aegis.runtime.history import EventHistory, LatestSamples
from aegis.runtime.settings import Settings

if TYPE_CHECKING:  # these are imported once the host is enforced: the way there is short
    from aegis.agent.context import ModuleContext
    from aegis.agent.flow_source import FlowSource
    from aegis.agent.link.room import LinkRoom
    from aegis.agent.module_orders import ModuleOrders
    from aegis.agent.policy_orders import PolicyOrders
    from aegis.agent.uplink import Uplink
    from aegis.runtime.supervisor import Supervisor

TICK_S = 1.0
SETTLE_S = 0.05
LOOK_NS = 60_000_000_000
LINK = "websocket_communication"  # the module that keeps the link to the gateway
AGENT = "agent"  # the source of the agent's own conditions
RECORDS = "attempted = submitted + ring_full + filtered + rate_limited; submitted = read"
HISTORY = "published = kept + evicted"


def agent_id(settings: Settings) -> str:
    """The configured name, else the host's, made of 1 to 64 of `[A-Za-z0-9_-]`: what a channel's name can hold."""
    configured = settings["id"]
    name = configured if isinstance(configured, str) else socket.gethostname()
    return re.sub(r"[^A-Za-z0-9_-]", "-", name)[:64] or "host"


def give_back() -> None:
    """Hand the heap's free pages back to the host. About 1 ms behind a long backlog, a fifth of that else.

    By itself the heap keeps what a backlog took, and touches more and more of its free pages.
    """
    lib.malloc_trim(0)


class Agent:
    """One agent. Construction does no I/O; `running` begins everything and ends it."""

    def __init__(
        self, configuration: Configuration, read: Callable[[], Configuration], directories: Directories
    ) -> None:
        self.clock = SystemClock()
        self.started_ns = self.clock.monotonic_ns()
        self.pid = os.getpid()
        self.id = agent_id(configuration.table("agent"))
        self.log = logging.logger(source=AGENT)
        self.conditions = Conditions(self.clock, self._condition_changed)
        self.health = self.conditions.scoped(AGENT)
        self.counters = Counters()
        self.verbs = Verbs()
        self.owners = Owners()
        kernel = configuration.table("kernel")
        root = kernel["cgroup_root"]
        self.host = Host(
            wall_ns=self.clock.wall_ns,
            monotonic_ns=self.clock.monotonic_ns,
            cgroup_root=root if isinstance(root, str) else None,
        )
        self.kernel = KernelRoom(
            kernel,
            Path(directories.state),
            self.host,
            self.health,
            self.log,
            subject_default=configuration.table("policy").text("subject_default"),
            resolvers=configuration.table("policy").texts("resolvers"),
            management=ManagementRoom(
                self.health,
                self.log,
                gateway=parse(str(configuration.table("gateway")["url"] or "")),
                allowed=configuration.table("policy").texts("management_allow"),
                resolvers=configuration.table("policy").texts("resolvers"),
            ),
        )
        self.bus = Bus(self._sensor_wanted, self._sensor_unwanted)
        self.history = EventHistory(self.bus, configuration.table("agent").integer("history_events"))
        self.samples = LatestSamples(self.bus)
        self.missed = MissedRuns(self.clock, self.history)
        self.spins = SpinGuard(directories.state, self.clock, self.health, self.history, self.log)
        self.resources = Resources(self.clock, self.kernel.map_bytes)
        self.flows: FlowSource
        self.supervisor: Supervisor
        self.module_orders: ModuleOrders
        self.policy_orders: PolicyOrders
        self.link: LinkRoom | None = None
        self.options = Options(configuration, read, directories.state, self.health, self.log)
        self._directories = directories

    # ---- begin and end

    @asynccontextmanager
    async def running(self, left_s: Callable[[], float]) -> AsyncIterator[None]:
        """Everything, in the order that makes the host safe first: policy, then records, modules, the socket.

        `left_s` tells how many seconds of a stop are left. Between two steps a stop can come in.
        """
        async with AsyncExitStack() as stack:
            stack.callback(self.host.close)
            stack.callback(self.release_kernel)
            self.kernel.attach()
            await asyncio.sleep(0)
            state = self.kernel.enforce()
            self.log.info(
                "enforcement",
                state=state.state,
                generation=state.generation,
                reason=state.reason,
                after_ms=round((self.clock.monotonic_ns() - self.started_ns) / 1e6, 1),
            )
            await asyncio.sleep(0)
            self._open_flows(stack)
            self.kernel.listen(self.bus.publish, asyncio.get_running_loop())
            self._count(stack.enter_context(ExitStack()))
            group = await stack.enter_async_context(asyncio.TaskGroup())
            self._watch_network(stack)
            for ticker in (self._tick(), self._harvest(), self.kernel.names.keep()):
                stack.callback(group.create_task(ticker).cancel)
            self.link = self._link()
            await self.link.open(stack, group, self.counters)
            management = self.kernel.management.keep(self.link.uplink.status)
            stack.callback(group.create_task(management).cancel)
            self.supervisor = self._supervisor(group)
            self._take_orders(self.link, group)
            stack.push_async_callback(self._stop_modules, self.link, left_s)
            stack.callback(self.spins.close)
            self.spins.open(asyncio.get_running_loop())
            starting = group.create_task(self.supervisor.start_enabled(), name="start modules")
            await asyncio.sleep(0)
            await self._open_socket(stack)
            await self._open_health(stack)
            await starting
            self.spins.begin()
            stack.callback(group.create_task(self.spins.keep(self.supervisor)).cancel)
            gc.collect()
            give_back()  # parsing the kernel's types left several megabytes free in the heap
            gc.freeze()
            gc.enable()
            self.log.info(
                "agent started",
                id=self.id,
                pid=self.pid,
                after_ms=round((self.clock.monotonic_ns() - self.started_ns) / 1e6, 1),
            )
            yield
            self.log.info("agent stops")

    def _open_flows(self, stack: AsyncExitStack) -> None:
        from aegis.agent.flow_source import FlowSource

        self.flows = FlowSource(self.bus, self.clock, self.log)
        if self.kernel.datapath is None:
            return
        try:
            self.flows.open(self.kernel.datapath.object, self.kernel.flow_entries)
            stack.callback(self.flows.close)
        except KernelError as error:
            self.health.raise_("flows_unavailable", str(error), error.hint or "")

    def release_kernel(self) -> None:
        """Leave or take down what is in the kernel, as `enforcement.on_stop` says. Twice is harmless."""
        keep = self.options.table("enforcement").text("on_stop") == "keep"
        self.kernel.close(keep=keep)

    async def reload(self) -> None:
        """Take the configuration anew; before there are modules they will begin with it."""
        await self.options.reload(getattr(self, "supervisor", None))

    def leave_nothing(self) -> bool:
        """The last resort's release, where the loop does not turn: what would outlive the process.

        May interrupt a release; then nothing is done, and it says False.
        """
        if self.kernel.releasing:
            return False
        self.release_kernel()
        self._directories.leave_nothing()
        return True

    def _count(self, stack: ExitStack) -> None:
        stack.enter_context(self.counters.count(RECORDS, self._record_terms))
        stack.enter_context(self.counters.count(MISSED, self._missed_terms))
        stack.enter_context(self.counters.count(self.flows.identity, self.flows.terms))
        stack.enter_context(
            self.counters.count(
                HISTORY,
                lambda: {
                    "history": {
                        "published": self.history.published,
                        "kept": self.history.kept,
                        "evicted": self.history.evicted,
                    }
                },
            )
        )

    def _record_terms(self) -> Mapping[str, Mapping[str, int]]:
        if self.kernel.hub is None:
            return {}
        return {
            f"records.{terms.kind}": {
                "attempted": terms.attempted,
                "submitted": terms.submitted,
                "ring_full": terms.ring_full,
                "filtered": terms.filtered,
                "rate_limited": terms.rate_limited,
                "read": terms.read,
            }
            for terms in self.kernel.hub.record_counters()
        }

    def _missed_terms(self) -> Mapping[str, Mapping[str, int]]:
        self._take_missed()
        return self.missed.terms()

    def _take_missed(self) -> None:
        self.missed.take(self.kernel.missed_runs())

    def _supervisor(self, group: asyncio.TaskGroup) -> Supervisor:
        from aegis.runtime.supervisor import Supervisor

        return Supervisor(
            group=group,
            clock=self.clock,
            conditions=self.conditions,
            context=self._context,
            settings=self.options.of_module,
            missing=self.kernel.features.missing,
            changed=self._module_changed,
            held=self.spins.reason,
            released=self.spins.released,
        )

    def _link(self) -> LinkRoom:
        from aegis.agent.link.room import LinkRoom

        return LinkRoom(
            agent_id=self.id,
            state_dir=self._directories.state,
            options=self.options,
            clock=self.clock,
            bus=self.bus,
            host=self.host,
            conditions=self.conditions,
            health=self.health,
            interfaces=self._interfaces,
        )

    def _interfaces(self) -> list[str]:
        """Names of those that are watched."""
        watched = self.kernel.datapath.interfaces() if self.kernel.datapath else frozenset()
        return sorted(link.name for link in self.links() if link.index in watched)

    @property
    def uplink(self) -> Uplink:
        assert self.link is not None  # it is made before anybody can ask
        return self.link.uplink

    def _take_orders(self, link: LinkRoom, group: asyncio.TaskGroup) -> None:
        from aegis.agent.module_orders import ModuleOrders
        from aegis.agent.policy_orders import PolicyOrders

        self.policy_orders = PolicyOrders(self.kernel)
        self.module_orders = ModuleOrders(self.supervisor, self.options)
        link.obey(self.module_orders, self.policy_orders, group, self.spins.interrupted())
        self.spins.orders = link.under_way

    async def _stop_modules(self, link: LinkRoom, left_s: Callable[[], float]) -> None:
        """The module that keeps the link stops last, when what the others said has had a moment to arrive."""
        await self.supervisor.stop_all(left_s, keep=frozenset({LINK}))
        await link.drain(left_s)
        await self.supervisor.stop_all(left_s)

    async def _open_socket(self, stack: AsyncExitStack) -> None:
        from aegis.agent import spared

        spared.server()
        from aegis.agent.answers import Answers
        from aegis.agent.control.follow import Events
        from aegis.agent.control.server import ControlServer

        answering = stack.enter_context(ExitStack())
        Answers(self).serve(answering)
        events = Events(self.bus, self.history, self.counters, self.clock)
        answering.enter_context(self.verbs.stream("events", events.stream))
        server = ControlServer(self._directories.socket, self.verbs, self.log, self._ready)
        stack.push_async_callback(server.close)
        try:
            await server.open()
        except StorageError as error:
            self.health.raise_("socket_unavailable", str(error), error.hint or "")
            return
        if server.group_missing:
            self.health.raise_("socket_group_missing", "the host has no group aegis")

    def _ready(self) -> bool:
        from aegis.agent.probes import is_ready

        return is_ready(self.supervisor.statuses(), self.kernel.enforcer.state())

    async def _open_health(self, stack: AsyncExitStack) -> None:
        """Where a port is configured."""
        listen = self.options.table("health")["listen"]
        if not isinstance(listen, str):
            return
        from aegis.agent.health_port import HealthPort
        from aegis.runtime.listen_address import parse

        address = parse(listen)
        assert address is not None  # the option was judged when it was read
        port = HealthPort(self._ready)
        stack.push_async_callback(port.close)
        try:
            await port.open(*address)
        except OSError as error:
            hint = "choose another --health-listen (health.listen), then restart the agent"
            self.health.raise_("health_unavailable", f"{listen}: {error.strerror or error}", hint)
        else:
            self.log.info("health port", listen=listen, port=port.port)

    def _context(self, name: str, settings: Settings) -> ModuleContext:
        from aegis.agent.context import ModuleContext

        return ModuleContext(
            name=name,
            config=settings,
            bus=self.bus,
            enforcer=self.kernel.enforcer,
            flows=self.flows,
            owners=self.owners,
            host=self.host,
            clock=self.clock,
            health=self.conditions.scoped(name),
            history=self.history,
            samples=self.samples,
            uplink=self.uplink,
            log=logging.logger(source=name),
            agent_pid=self.pid,
            verbs=self.verbs,
            counters=self.counters,
        )

    # ---- while it runs

    def _watch_network(self, stack: AsyncExitStack) -> None:
        """Interfaces that come or go are taken on or let go at once, not at the next look."""
        loop = asyncio.get_running_loop()
        try:
            changes = stack.enter_context(NetworkChanges())
        except HostError as error:
            self.log.warning("interfaces are looked at once a minute only", error=str(error))
            return
        pending: asyncio.TimerHandle | None = None

        def refresh() -> None:
            nonlocal pending
            pending = None
            self.kernel.hooks.refresh()

        def changed() -> None:
            nonlocal pending
            if changes.drain() and pending is None:  # a change rarely comes alone
                pending = loop.call_later(SETTLE_S, refresh)

        def cancel() -> None:
            if pending is not None:
                pending.cancel()

        loop.add_reader(changes.fileno(), changed)
        stack.callback(cancel)
        stack.callback(loop.remove_reader, changes.fileno())

    async def _tick(self) -> None:
        from aegis.agent.loss_watch import LossWatch

        losses = LossWatch(self.clock, self.health, self.history)
        started = False

        def lost() -> None:
            nonlocal started
            found = self._ring_full()
            if not started:
                losses.start(found)
                started = True
            losses.take(found)

        self._guarded({"lost records": lost})
        looked_ns = self.clock.monotonic_ns()
        while True:
            await self.clock.sleep(TICK_S)
            steps = {
                "resources": self.resources.tick,
                "lost records": lost,
                "hooks": self.kernel.hooks.look_quickly,
                "trial": self._look_at_trial,
            }
            if self.clock.monotonic_ns() - looked_ns >= LOOK_NS:
                looked_ns = self.clock.monotonic_ns()
                steps |= {
                    "hooks": self.kernel.hooks.look,
                    "missed runs": self._take_missed,
                    "memory": give_back,
                }
            self._guarded(steps)

    def _look_at_trial(self) -> None:
        """What the kernel undid at the deadline is a condition until the next change of the policies."""
        self.kernel.enforcer.settle()
        if not self.kernel.enforcer.undone:
            self.health.clear("policy_undone")
        elif "policy_undone" not in self.health.raised():
            self.health.raise_(
                "policy_undone",
                "a policy on trial was not confirmed in time: the policies before it are in force again",
                "aegis policy history shows them",
            )

    def _guarded(self, steps: Mapping[str, Callable[[], None]]) -> None:
        """Take each step; what the kernel or the host refuses is a condition and the next step, not the agent's end."""
        failed = []
        for name, step in steps.items():
            try:
                step()
            except (AegisError, OSError) as error:
                failed.append(f"{name}: {error}")
        if failed:
            self.health.raise_("look_failed", "; ".join(failed))
        else:
            self.health.clear("look_failed")

    async def _harvest(self) -> None:
        while True:
            await self.clock.sleep(self.options.table("kernel").number("harvest_interval_s"))
            await self.flows.tick()

    def links(self) -> tuple[Link, ...]:
        """Interfaces now; none where they cannot be read."""
        try:
            return self.host.links()
        except HostError:
            return ()

    def _ring_full(self) -> dict[str, int]:
        return {} if self.kernel.hub is None else self.kernel.hub.ring_full()

    def losses(self) -> dict[str, dict[str, int]]:
        """Records known to be lost, by stage and reason, without zeros."""
        found: dict[str, dict[str, int]] = {}
        for kind, count in self._ring_full().items():
            found[f"records.{kind}"] = {"ring_full": count}
        for topic, count in self.bus.dropped().items():
            if count:
                found[f"queue.{topic}"] = {"queue_full": count}
        outbox = {} if self.link is None else self.link.losses()
        return found | self.flows.losses() | self.missed.losses() | outbox

    def _sensor_wanted(self, topic: str) -> None:
        if self.kernel.hub is None:
            raise FeatureUnsupported(
                "listen to", topic, detail="the ring cannot be read: aegis status says why"
            )
        self.kernel.hub.wanted(topic)

    def _sensor_unwanted(self, topic: str) -> None:
        if self.kernel.hub is not None:
            with contextlib.suppress(
                KernelError
            ):  # what its programs missed is known as long as they are there
                self._take_missed()
            self.kernel.hub.unwanted(topic)

    def _module_changed(self, status: ModuleStatus) -> None:
        write = self.log.warning if status.state is ModuleState.FAILED else self.log.info
        write("module", module=status.name, state=status.state.value, reason=status.reason)
        if self.link is not None:
            self.link.module_changed(status)

    def _condition_changed(self, what: str, condition: Condition) -> None:
        write = self.log.warning if what == "raised" else self.log.info
        write(f"condition {what}", code=condition.code, by=condition.source, text=condition.text)
        if self.link is not None:
            self.link.condition_changed(condition, holds=what == "raised")
