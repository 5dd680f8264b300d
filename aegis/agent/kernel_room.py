"""The kernel's side of the agent: programs at their hooks, policy, ring; as much of it as this host allows.

Nothing here ends the agent. What cannot be had is a condition with its effect, and the rest goes on.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aegis.agent.hook_looks import HookLooks
from aegis.agent.kernel_features import KernelFeatures
from aegis.agent.kernel_sides import KernelSides
from aegis.agent.management_room import ManagementRoom
from aegis.agent.name_room import NameRoom
from aegis.agent.watched_interfaces import WatchedInterfaces
from aegis.errors import AegisError, HostError, KernelError, ShapeMismatch, StorageError
from aegis.host.cgroups import expect_hierarchy, mounted_at
from aegis.host.reader import Host
from aegis.kernel import type_information
from aegis.kernel.constants import Constants
from aegis.kernel.datapath import Datapath
from aegis.kernel.datapath_pins import clear, pinned_interfaces
from aegis.kernel.datapath_plan import CORE, load_most
from aegis.kernel.enforcer import Enforcer, Seed
from aegis.kernel.maps import map_bytes
from aegis.kernel.pins import PinDirectory
from aegis.kernel.policy_sides import Sides
from aegis.kernel.policy_slots import PolicySlots, generation_in
from aegis.kernel.tc import Way
from aegis.model.absent import Absent
from aegis.model.policy import EnforcementState, Reach
from aegis.runtime.clock import SystemClock
from aegis.runtime.module import Health, Log
from aegis.runtime.settings import Settings

if TYPE_CHECKING:
    from aegis.kernel.hub import Hub, Publish

_CLOCK: Final = SystemClock()
RESERVED_SHARE = 8  # one part of the ring in so many is kept for verdicts
SMALL_HOST_BYTES = 1 << 30
SMALL_FLOWS, FLOWS = 16_384, 65_536

NOTHING_LOADED = "effect: packets are neither counted nor judged, and flows and sockets have no owner"
OWN_BTF = "effect: programs are fitted by the type information of the kernel itself instead"
NO_BTF = "effect: programs cannot be fitted to this kernel"
NO_PINS = "effect: nothing is pinned, enforcement ends with the agent"
SOME_OWNERS = "effect: some flows and sockets have no owner, or name who made the socket"
NO_OWNER = "effect: flows and sockets have no owner, and events no cgroup"

# What the option kernel.hook leaves no choice about.
WAYS: Final[dict[str, Way | None]] = {"auto": None, "tcx": "tcx", "clsact": "clsact"}


class KernelRoom:
    """Made without I/O; `attach`, `enforce` and `listen` acquire in this order, `close` releases."""

    def __init__(
        self,
        settings: Settings,
        state_dir: Path,
        host: Host,
        health: Health,
        log: Log,
        *,
        subject_default: str = "allow",
        resolvers: Collection[str] = (),
        management: ManagementRoom | None = None,
    ) -> None:
        self.datapath: Datapath | None = None
        self.hub: Hub | None = None
        self.enforcer = Enforcer(state_dir, None, reason="the agent is starting")
        self._settings = settings
        self._state_dir = state_dir
        self._host = host
        self._health = health
        self._log = log
        self.features = KernelFeatures(settings, log, lambda: self.datapath)
        self._interfaces = WatchedInterfaces(settings, host, health, self.features.lacking)
        self.names = NameRoom(health, log, _CLOCK.boottime_ns, named=resolvers)
        self._sides = KernelSides(health, self.names)
        self._subject_default = subject_default
        self.management = management or ManagementRoom(health, log, resolvers=resolvers)
        self.hooks = HookLooks(lambda: self.datapath, self._interfaces, health, log)
        self._reason = ""
        self._started = False  # the enforcer: until then it does not know what the kernel enforces
        self._closed = False
        self.releasing = False  # `close` has begun and not ended

    # ---- sizes

    @cached_property
    def ring_bytes(self) -> int:
        return 1 << (self._settings.integer("ring_bytes") - 1).bit_length()

    @cached_property
    def flow_entries(self) -> int:
        if self._settings["flow_entries"] is not None:
            return self._settings.integer("flow_entries")
        try:
            return SMALL_FLOWS if self._host.memory_bytes() < SMALL_HOST_BYTES else FLOWS
        except HostError:
            return SMALL_FLOWS

    @property
    def _map_sizes(self) -> dict[str, int]:
        return {"aegis_ring": self.ring_bytes, "aegis_flows": self.flow_entries}

    @cached_property
    def constants(self) -> Constants:
        return Constants(
            agent_tgid=os.getpid(),
            ring_bytes=self.ring_bytes,
            ring_reserved_bytes=self.ring_bytes // RESERVED_SHARE,
        )

    @cached_property
    def cgroup_root(self) -> Path | None:
        """Where the owner hook sits: what is configured, else the root of the whole hierarchy."""
        try:
            given = self._settings["cgroup_root"]
            root = given if isinstance(given, str) else mounted_at()
            expect_hierarchy(root)
        except HostError as error:
            self._health.raise_("owner_unavailable", f"{error}; {NO_OWNER}", error.hint or "")
            return None
        return Path(root)

    # ---- acquire

    def attach(self) -> None:
        """Load the core object and put it at every hook, adopting what an agent before left pinned."""
        links = self._interfaces.wanted()
        self._interfaces.tell_about(links, {})
        self._tell_about_btf()
        try:
            self.datapath = self._install(None if links is None else [link.index for link in links])
        except KernelError as error:
            self._reason = self.features.describe(error)
            self._health.raise_(
                "kernel_unavailable",
                f"{self._reason}; {NOTHING_LOADED}",
                self.features.lacking() or error.hint or "",
            )
            return
        missing = {each.part: each.error for each in self.datapath.missing}
        interfaces = {part: error for part, error in missing.items() if part.startswith("interface ")}
        self._interfaces.tell_about(links, interfaces)
        owners = {part: missing[part] for part in missing.keys() - interfaces}
        self._interfaces.tell_failed("owner_unavailable", owners, SOME_OWNERS if owners else "")
        for kept in self.datapath.kept_sizes:
            self._health.raise_(
                "restart_needed",
                f"table {kept.name} was adopted with {kept.kept} entries, {kept.configured} are configured",
                "stop with enforcement.on_stop = detach once, to make it anew",
            )

    def _tell_about_btf(self) -> None:
        """A file that cannot be used is no reason to do without programs: the kernel mostly has its own."""
        problem = self.features.btf_problem
        if problem is None:
            return
        effect = OWN_BTF if type_information.own_problem() is None else NO_BTF
        text = f"type information (BTF) cannot be used: {problem}; {effect}"
        self._health.raise_("btf_unusable", text, type_information.FILE_HINT)

    def _install(self, indexes: list[int] | None) -> Datapath:
        pin_dir: Path | None = Path(self._settings.text("pin_dir"))
        assert pin_dir is not None
        try:
            PinDirectory(pin_dir).make()
        except KernelError as error:
            self._health.raise_("pins_unavailable", f"{error}; {NO_PINS}", error.hint or "")
            pin_dir = None
        try:
            return self._install_at(indexes, pin_dir)
        except ShapeMismatch as error:
            if pin_dir is None:
                raise
            # What was pinned goes on judging unless there is something to put in its place.
            load_most(CORE, self.constants, self._map_sizes, {}, self.features.btf)[0].close()
            self._health.raise_(
                "pins_replaced", f"what was pinned had another shape and was made anew: {error}"
            )
            pins = PinDirectory(pin_dir)
            if indexes is None:
                indexes = list(pinned_interfaces(pins))
            clear(pins)
            return self._install_at(indexes, pin_dir)

    def _install_at(self, indexes: Iterable[int] | None, pin_dir: Path | None) -> Datapath:
        return Datapath.install(
            CORE,
            constants=self.constants,
            map_sizes=self._map_sizes,
            interfaces=indexes,
            cgroup_root=self.cgroup_root,
            pin_dir=pin_dir,
            prefer=WAYS[self._settings.text("hook")],
            btf=self.features.btf,
        )

    def enforce(self) -> EnforcementState:
        """Take over the policy in the kernel, or load the committed one."""
        slots = None
        try:
            if self.datapath is not None:  # before any policy
                self.management.open(self.datapath)
            slots = None if self.datapath is None else PolicySlots.of(self.datapath)
        except (KernelError, OSError) as error:
            self._reason = f"the policy tables cannot be used: {error}"
            self._health.raise_("policy_not_loaded", self._reason)
        self.enforcer = Enforcer(
            self._state_dir,
            slots,
            reason=self._reason,
            hooked=lambda: self.datapath is not None and bool(self.datapath.interfaces()),
            sides=self._open_sides(),
            grow=self._grow,
            clocks=lambda: (_CLOCK.wall_ns() // 1_000_000, _CLOCK.boottime_ns() // 1_000_000),
        )
        try:
            state = self.enforcer.start()
        except (KernelError, StorageError) as error:
            self._health.raise_("policy_not_loaded", f"{error.code}: {error}", error.hint or "")
            return self.enforcer.state()
        self._started = True
        return state

    def _open_sides(self) -> Sides:
        if self.datapath is None:
            return Sides()
        return self._sides.open(self.datapath, self.cgroup_root, subject_default=self._subject_default)

    def _grow(self, image_bytes: int, seed: Seed) -> PolicySlots:
        """Load the programs again for larger policy images."""
        assert self.datapath is not None
        constants = replace(self.constants, image_bytes=image_bytes)
        self.datapath.grow(constants, self._map_sizes, seed, btf=self.features.btf)
        return PolicySlots.of(self.datapath)

    def listen(self, publish: Publish, loop: asyncio.AbstractEventLoop) -> None:
        """Make the hub; its sensors come with their listeners. Without one there are no records, and all else goes on."""
        hub = None
        try:
            from aegis.kernel.hub import Hub

            hub = Hub(
                publish=publish,
                constants=self.constants,
                map_sizes={"aegis_ring": self.ring_bytes},
                shared=() if self.datapath is None else self.datapath.object.maps(),
                btf=self.features.btf,
            )
            hub.start(loop)
        except (KernelError, OSError) as error:
            self._health.raise_("records_unavailable", str(error))
            if hub is not None:
                hub.close()
        else:
            self.hub = hub

    # ---- while it runs

    def reach(self) -> Reach:
        """Where the policies in force judge packets now."""
        datapath, state = self.datapath, self.enforcer.state()
        attached = frozenset() if datapath is None else datapath.interfaces()
        try:
            names = {link.index: link.name for link in self._host.links()} if attached else {}
        except HostError:
            names = {}
        unjudged = state.state == "stale" or (state.state == "unavailable" and bool(attached))
        return Reach(
            interfaces=tuple(sorted(names.get(index, str(index)) for index in attached)),
            unattached=self._interfaces.unattached,
            absent=self._interfaces.absent,
            reason=state.reason if unjudged or datapath is None else None,
        )

    def missed_runs(self) -> dict[int, tuple[str, int]]:
        """How often each program that is attached was not run, for it ran on that CPU already; name and count by its id.

        Raises KernelError.
        """
        programs = () if self.datapath is None else self.datapath.object.programs()
        if self.hub is not None:
            programs += self.hub.programs()
        return {info.id: (info.name, info.recursion_misses) for info in (each.info() for each in programs)}

    def map_bytes(self) -> int | Absent:
        """Kernel memory of every table of the agent."""
        if self.hub is None:
            return Absent("no table was made")
        core = () if self.datapath is None else self.datapath.object.maps()
        try:
            return map_bytes((*core, *self.hub.maps()))
        except OSError as error:
            return Absent(f"fdinfo of a table: {error.strerror}")

    # ---- release

    @property
    def committed(self) -> bool:
        """Whether the kernel holds a policy that a stop may leave enforced. What cannot be known counts as one."""
        if self.datapath is None or (self._started and self.enforcer.state().state == "none"):
            return False
        try:
            return generation_in(self.datapath) != 0
        except KernelError:
            return True

    def stop_listening(self) -> None:
        """Unload the sensors and leave the loop."""
        if self.hub is not None:
            self.hub.close()
            self.hub = None

    def close(self, *, keep: bool) -> None:
        """Leave what is committed enforced when `keep`, else take everything down. Twice is harmless."""
        if self._closed:
            return
        self._closed = self.releasing = True
        keep = keep and self.committed
        self._each(
            self.stop_listening,
            self.enforcer.close,
            self._sides.close,
            self.names.close,
            self.management.close,
        )
        if self.datapath is not None:
            self._each(self.datapath.close if keep else self.datapath.detach)
            self.datapath = None
        self.releasing = False

    def _each(self, *releases: Callable[[], None]) -> None:
        for release in releases:
            try:
                release()
            except (AegisError, OSError) as error:
                self._log.error("not released", what=release.__qualname__, error=str(error))
