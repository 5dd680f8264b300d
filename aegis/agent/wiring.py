"""Joins the rooms into one agent: what exists, what it is lent, in which order it begins and ends."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from pathlib import Path

from aegis.agent.context import ModuleContext
from aegis.agent.control.verbs import Verbs
from aegis.agent.directories import Directories
from aegis.agent.flow_source import IDENTITY as FLOWS
from aegis.agent.flow_source import FlowSource
from aegis.agent.kernel_room import KernelRoom
from aegis.agent.owners import Owners
from aegis.agent.remembered import remember
from aegis.agent.resources import Resources
from aegis.errors import ConfigError, HostError, KernelError, ModuleUnknown, StorageError
from aegis.host.reader import Host
from aegis.host.rtnetlink import Link
from aegis.model.health import Condition
from aegis.model.module import ModuleState, ModuleStatus
from aegis.runtime import log as logging
from aegis.runtime.bus import Bus
from aegis.runtime.clock import SystemClock
from aegis.runtime.config import Configuration, OptionTable, Setting, from_text
from aegis.runtime.counters import Counters
from aegis.runtime.health import Conditions
from aegis.runtime.history import EventHistory, LatestSamples
from aegis.runtime.settings import Settings
from aegis.runtime.supervisor import Supervisor

TICK_S = 1.0
AGENT = "agent"  # the source of the agent's own conditions
RECORDS = "attempted = submitted + ring_full + filtered + rate_limited; submitted = read"
HISTORY = "published = kept + evicted"


def agent_id(settings: Settings) -> str:
    """The configured name, else the host's, made of `[A-Za-z0-9_-]`."""
    configured = settings["id"]
    return re.sub(r"[^A-Za-z0-9_-]", "-", configured if isinstance(configured, str) else socket.gethostname())


class Agent:
    """One agent. Construction does no I/O; `running` begins everything and ends it."""

    def __init__(
        self, configuration: Configuration, read: Callable[[], Configuration], directories: Directories
    ) -> None:
        self.configuration = configuration
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
        self.kernel = KernelRoom(kernel, Path(directories.state), self.host, self.health, self.log)
        self.bus = Bus(self._sensor_wanted, self._sensor_unwanted)
        self.history = EventHistory(self.bus, configuration.table("agent").integer("history_events"))
        self.samples = LatestSamples(self.bus)
        self.flows = FlowSource(self.bus, self.clock, self.log)
        self.resources = Resources(self.clock, self.kernel.map_bytes)
        self.supervisor: Supervisor
        self._read = read
        self._directories = directories
        self._overrides: dict[str, Setting] = {}
        self._reading = asyncio.Lock()

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
            for ticker in (self._tick(), self._harvest()):
                stack.callback(group.create_task(ticker).cancel)
            self.supervisor = self._supervisor(group)
            stack.push_async_callback(self.supervisor.stop_all, left_s)
            starting = group.create_task(self.supervisor.start_enabled(), name="start modules")
            await asyncio.sleep(0)
            await self._open_socket(stack)
            await starting
            gc.collect()
            gc.freeze()
            self.log.info(
                "agent started",
                id=self.id,
                pid=self.pid,
                after_ms=round((self.clock.monotonic_ns() - self.started_ns) / 1e6, 1),
            )
            yield
            self.log.info("agent stops")

    def _open_flows(self, stack: AsyncExitStack) -> None:
        if self.kernel.datapath is None:
            return
        try:
            self.flows.open(self.kernel.datapath.object, self.kernel.flow_entries)
            stack.callback(self.flows.close)
            self.flows.backfill()
        except KernelError as error:
            self.health.raise_("owner_unavailable", str(error), error.hint or "")

    def release_kernel(self) -> None:
        """Leave or take down what is in the kernel, as `enforcement.on_stop` says. Twice is harmless."""
        keep = self.configuration.table("enforcement").text("on_stop") == "keep"
        self.kernel.close(keep=keep)

    def leave_nothing(self) -> None:
        """The last resort's release, where the loop does not turn: what would outlive the process."""
        self.release_kernel()
        with suppress(OSError):
            os.unlink(self._directories.socket)

    def _count(self, stack: ExitStack) -> None:
        stack.enter_context(self.counters.count(RECORDS, self._record_terms))
        stack.enter_context(self.counters.count(FLOWS, self.flows.terms))
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

    def _supervisor(self, group: asyncio.TaskGroup) -> Supervisor:
        return Supervisor(
            group=group,
            clock=self.clock,
            conditions=self.conditions,
            context=self._context,
            settings=self._module_settings,
            missing=self.kernel.missing,
            changed=self._module_changed,
        )

    async def _open_socket(self, stack: AsyncExitStack) -> None:
        from aegis.agent.answers import Answers
        from aegis.agent.control.follow import Events
        from aegis.agent.control.server import ControlServer

        answering = stack.enter_context(ExitStack())
        Answers(self).serve(answering)
        events = Events(self.bus, self.history, self.counters, self.clock)
        answering.enter_context(self.verbs.stream("events", events.stream))
        server = ControlServer(self._directories.socket, self.verbs, self.log)
        stack.push_async_callback(server.close)
        try:
            await server.open()
        except StorageError as error:
            self.health.raise_("socket_unavailable", str(error), error.hint or "")
            return
        if server.group_missing:
            self.health.raise_("socket_group_missing", "the host has no group aegis")

    def _context(self, name: str, settings: Settings) -> ModuleContext:
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
            log=logging.logger(source=name),
            agent_pid=self.pid,
            verbs=self.verbs,
            counters=self.counters,
        )

    # ---- while it runs

    async def _tick(self) -> None:
        while True:
            await self.clock.sleep(TICK_S)
            self.resources.tick()
            self.kernel.refresh_interfaces()

    async def _harvest(self) -> None:
        while True:
            await self.clock.sleep(self.configuration.table("kernel").number("harvest_interval_s"))
            await self.flows.tick()

    def links(self) -> tuple[Link, ...]:
        """Interfaces now; none where they cannot be read."""
        try:
            return self.host.links()
        except HostError:
            return ()

    def losses(self) -> dict[str, dict[str, int]]:
        """Records known to be lost, by stage and reason, without zeros."""
        found: dict[str, dict[str, int]] = {}
        for stage, terms in self._record_terms().items():
            lost = {reason: terms[reason] for reason in ("ring_full",) if terms[reason]}
            if lost:
                found[stage] = lost
        for topic, count in self.bus.dropped().items():
            if count:
                found[f"queue.{topic}"] = {"queue_full": count}
        return found | self.flows.losses()

    def _sensor_wanted(self, topic: str) -> None:
        assert self.kernel.hub is not None
        self.kernel.hub.wanted(topic)

    def _sensor_unwanted(self, topic: str) -> None:
        if self.kernel.hub is not None:
            self.kernel.hub.unwanted(topic)

    def _module_changed(self, status: ModuleStatus) -> None:
        write = self.log.warning if status.state is ModuleState.FAILED else self.log.info
        write("module", module=status.name, state=status.state.value, reason=status.reason)

    def _condition_changed(self, what: str, condition: Condition) -> None:
        write = self.log.warning if what == "raised" else self.log.info
        write(f"condition {what}", code=condition.code, by=condition.source, text=condition.text)

    # ---- configuration

    def _module_settings(self, name: str) -> Settings | None:
        if f"modules.{name}" in self.configuration.options.opaque:
            return None
        settings = self.configuration.table(f"modules.{name}")
        chosen = self.configuration["agent.modules"].value
        if isinstance(chosen, tuple) and name not in chosen:
            return Settings(
                settings.table, {**{one: settings[one] for one in settings.names()}, "enabled": False}
            )
        return settings

    def remember(self, module: str, *, enabled: bool) -> None:
        """Keep an order over restarts. Raises StorageError."""
        remember(self._directories.state, module, enabled=enabled)

    async def override(self, module: str, changes: Mapping[str, object]) -> None:
        """Give options of a module other values until the process ends. Raises ConfigError and changes nothing."""
        table = self.configuration.options
        problems: list[tuple[str, str, str]] = []
        taken: dict[str, Setting] = {}
        origin = "modules config"
        for name, value in changes.items():
            path = f"modules.{module}.{name}"
            option = table.by_path.get(path)
            if option is None or name == "enabled":
                text = (
                    table.unknown(path) if option is None else "is set by modules enable and modules disable"
                )
                problems.append((path, origin, text))
                continue
            plain = from_text(option, value) if isinstance(value, str) else value
            problem = option.problem(plain)
            if problem:
                problems.append((path, origin, problem))
            else:
                kept = tuple(plain) if isinstance(plain, list) else plain
                taken[path] = Setting(path=path, value=kept, origin=origin)  # type: ignore[arg-type]
        if problems:
            raise ConfigError(tuple(problems))
        async with self._reading:
            self._overrides |= taken
            await self._take(self.configuration.with_settings(taken))

    async def reload(self) -> None:
        """Read every source again (SIGHUP): take the whole if it is valid, else nothing."""
        async with self._reading:
            try:
                fresh = self._read()
            except ConfigError as error:
                for path, origin, text in error.problems:
                    self.log.warning("configuration problem", option=path, origin=origin, text=text)
                self.health.raise_("config_refused", str(error))
                return
            self.health.clear("config_refused")
            await self._take(fresh.with_settings(self._overrides))

    async def _take(self, fresh: Configuration) -> None:
        before, self.configuration = self.configuration, fresh
        changed = before.changes(fresh)
        self.log.info("configuration read", changed=list(changed))
        if "log.level" in changed:
            logging.set_level(fresh.table("log").text("level"))
        late = [
            path for path in changed if not path.startswith("modules.") and not _live(fresh.options, path)
        ]
        if late:
            self.health.raise_("restart_needed", f"changed, and taken at the next start: {', '.join(late)}")
        for name in self.supervisor.names():
            prefix = f"modules.{name}."
            own = frozenset(path.removeprefix(prefix) for path in changed if path.startswith(prefix))
            if own:
                await self._take_module(name, own, fresh)

    async def _take_module(self, name: str, changed: frozenset[str], fresh: Configuration) -> None:
        settings = self._module_settings(name)
        if settings is None:
            return
        try:
            if "enabled" in changed:
                order = self.supervisor.enable if settings.boolean("enabled") else self.supervisor.disable
                await order(name)
            if changed - {"enabled"}:
                live = frozenset(one for one in changed if _live(fresh.options, f"modules.{name}.{one}"))
                await self.supervisor.configure(name, changed - {"enabled"}, live)
        except ModuleUnknown:
            return


def _live(table: OptionTable, path: str) -> bool:
    option = table.by_path.get(path)
    return option is not None and option.reload == "live"
