"""The kernel's side of the agent: programs at their hooks, policy, ring; as much of it as this host allows.

Nothing here ends the agent. What cannot be had is a condition with its effect, and the rest goes on.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aegis.errors import AegisError, HostError, KernelError, ShapeMismatch, StorageError
from aegis.host.cgroups import mounted_at
from aegis.host.reader import Host
from aegis.host.rtnetlink import Link
from aegis.kernel.constants import Constants
from aegis.kernel.datapath import CORE, Datapath, clear, load_most, pinned_interfaces
from aegis.kernel.enforcer import Enforcer
from aegis.kernel.maps import map_bytes
from aegis.kernel.pins import PinDirectory
from aegis.kernel.policy_slots import PolicySlots, generation_in
from aegis.kernel.tc import Way
from aegis.model.absent import Absent
from aegis.model.policy import EnforcementState
from aegis.runtime.module import Health, Log
from aegis.runtime.settings import Settings

if TYPE_CHECKING:
    from aegis.kernel.features import Feature
    from aegis.kernel.hub import Hub, Publish

RESERVED_SHARE = 8  # one part of the ring in so many is kept for verdicts
SMALL_HOST_BYTES = 1 << 30
SMALL_FLOWS, FLOWS = 16_384, 65_536
NO_INTERFACE = "none"
# What a feature asks of the process (capabilities(7)), so that its absence can be put down to it.
CAPABILITIES_OF = {
    "bpf": ("CAP_BPF",),
    "ringbuf": ("CAP_BPF",),
    "sk_storage": ("CAP_BPF",),
    "tracing": ("CAP_BPF", "CAP_PERFMON"),
    "iterators": ("CAP_BPF", "CAP_PERFMON"),
    "tcx": ("CAP_BPF", "CAP_NET_ADMIN"),
    "clsact": ("CAP_BPF", "CAP_NET_ADMIN"),
    "cgroup": ("CAP_BPF", "CAP_NET_ADMIN"),
}

# So many times in a row every hook is found in its place before a lost one is forgotten (the agent looks every minute).
LOOKS_REMEMBERED = 10

# What the option kernel.hook leaves no choice about.
WAYS: Final[dict[str, Way | None]] = {"auto": None, "tcx": "tcx", "clsact": "clsact"}


class KernelRoom:
    """Made without I/O; `attach`, `enforce` and `listen` acquire in this order, `close` releases."""

    def __init__(self, settings: Settings, state_dir: Path, host: Host, health: Health, log: Log) -> None:
        self.datapath: Datapath | None = None
        self.hub: Hub | None = None
        self.enforcer = Enforcer(state_dir, None, reason="the agent is starting")
        self._settings = settings
        self._state_dir = state_dir
        self._host = host
        self._health = health
        self._log = log
        self._reason = ""
        self._started = False  # the enforcer: until then it does not know what the kernel enforces
        self._closed = False
        self._unreadable = False  # the interfaces, when last read
        self._quiet_looks = 0  # since a hook was lost
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
    def btf(self) -> Path | None:
        return None if self._settings["btf"] is None else Path(self._settings.text("btf"))

    @cached_property
    def cgroup_root(self) -> Path | None:
        """Where the owner hook sits: what is configured, else the root of the whole hierarchy."""
        try:
            given = self._settings["cgroup_root"]
            root = Path(given if isinstance(given, str) else mounted_at())
            if not root.is_dir():
                raise HostError(f"{root} is no directory", hint="choose another --cgroup-root")
            return root
        except HostError as error:
            self._health.raise_("owner_unavailable", str(error), error.hint or "")
            return None

    # ---- acquire

    def wanted_interfaces(self) -> tuple[Link, ...] | None:
        """The interfaces to watch that are there now, by configuration or by default; None where they cannot be read.

        Not to know is not to have none: hooks are let go only for what is known to be unwanted.
        """
        try:
            found = self._read_interfaces()
        except HostError as error:
            self._unreadable = True
            self._health.raise_("interfaces_unreadable", str(error), error.hint or "")
            return None
        self._unreadable = False
        self._health.clear("interfaces_unreadable")
        return found

    def _read_interfaces(self) -> tuple[Link, ...]:
        names = self._settings["interfaces"]
        if names is None:
            return self._host.default_interfaces()
        assert isinstance(names, tuple)
        if names == (NO_INTERFACE,):
            return ()
        return tuple(link for link in self._host.links() if link.name in names)

    def attach(self) -> None:
        """Load the core object and put it at every hook, adopting what an agent before left pinned."""
        links = self.wanted_interfaces()
        self._tell_about(links, {})
        try:
            self.datapath = self._install(None if links is None else [link.index for link in links])
        except KernelError as error:
            self._reason = f"{error.code}: {error}"
            self._health.raise_("kernel_unavailable", self._reason, self._lacking() or error.hint or "")
            return
        missing = {each.part: each.error for each in self.datapath.missing}
        interfaces = {part: error for part, error in missing.items() if part.startswith("interface ")}
        self._tell_about(links, interfaces)
        self._tell_failed("owner_unavailable", {part: missing[part] for part in missing.keys() - interfaces})
        for kept in self.datapath.kept_sizes:
            self._health.raise_(
                "restart_needed",
                f"table {kept.name} was adopted with {kept.kept} entries, {kept.configured} are configured",
                "stop with enforcement.on_stop = detach once, to make it anew",
            )

    def _lacking(self) -> str:
        """What to do about capabilities that are missing; empty where none is."""
        names = {name for names in CAPABILITIES_OF.values() for name in names}
        gone = [one.name for one in self.features if one.name in names and one.state == "missing"]
        return f"start the agent with {', '.join(gone)}" if gone else ""

    def _install(self, indexes: list[int] | None) -> Datapath:
        pin_dir: Path | None = Path(self._settings.text("pin_dir"))
        assert pin_dir is not None
        try:
            PinDirectory(pin_dir).make()
        except KernelError as error:
            self._health.raise_("pins_unavailable", str(error), error.hint or "")
            pin_dir = None
        try:
            return self._install_at(indexes, pin_dir)
        except ShapeMismatch as error:
            if pin_dir is None:
                raise
            # What was pinned goes on judging unless there is something to put in its place.
            load_most(CORE, self.constants, self._map_sizes, {}, self.btf)[0].close()
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
            btf=self.btf,
        )

    def _tell_about(self, links: tuple[Link, ...] | None, failed: Mapping[str, KernelError]) -> None:
        """What is not watched: interfaces that are not there, and those where attaching failed."""
        names = self._settings["interfaces"]
        absent = ""
        if links is not None:
            missing = (
                []
                if names is None
                else sorted({*self._settings.texts("interfaces")} - {one.name for one in links})
            )
            absent = f"there is no {', '.join(missing)}" if missing and missing != [NO_INTERFACE] else ""
            if links or missing == [NO_INTERFACE]:
                self._health.clear("no_interface")
            else:
                self._health.raise_("no_interface", absent or "no interface holds a route")
                absent = ""
        self._tell_failed("interface_unattached", failed, absent)

    def _tell_failed(self, code: str, failed: Mapping[str, KernelError], besides: str = "") -> None:
        """One condition for all that failed: a second of the same code would take the first one's place."""
        texts = [besides] if besides else []
        texts += [f"{part}: {failed[part]}" for part in sorted(failed)]
        if texts:
            hints = [self._lacking(), *(error.hint or "" for error in failed.values())] if failed else []
            self._health.raise_(code, "; ".join(texts), next(filter(None, hints), ""))
        elif code == "interface_unattached":
            self._health.clear(code)

    def enforce(self) -> EnforcementState:
        """Take over the policy in the kernel, or load the committed one."""
        slots = None
        try:
            slots = None if self.datapath is None else PolicySlots.of(self.datapath)
        except (KernelError, OSError) as error:
            self._reason = f"the policy tables cannot be used: {error}"
            self._health.raise_("policy_not_loaded", self._reason)
        self.enforcer = Enforcer(
            self._state_dir,
            slots,
            reason=self._reason,
            hooked=lambda: self.datapath is not None and bool(self.datapath.interfaces()),
        )
        try:
            state = self.enforcer.start()
        except (KernelError, StorageError) as error:
            self._health.raise_("policy_not_loaded", f"{error.code}: {error}", error.hint or "")
            return self.enforcer.state()
        self._started = True
        return state

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
                btf=self.btf,
            )
            hub.start(loop)
        except (KernelError, OSError) as error:
            self._health.raise_("records_unavailable", str(error))
            if hub is not None:
                hub.close()
        else:
            self.hub = hub

    # ---- while it runs

    def look(self) -> None:
        """The regular look, once a minute: as `refresh_interfaces`, and what was lost long ago is forgotten."""
        self._quiet_looks += 1
        self.refresh_interfaces()
        self._look_before()
        if self._quiet_looks >= LOOKS_REMEMBERED:
            self._health.clear("hook_lost")

    def look_quickly(self) -> None:
        """Every second: whether every hook is where it was put; all else only when something is amiss."""
        if self.datapath is None:
            return
        try:
            amiss = self._unreadable or not self.datapath.in_place()
        except KernelError as error:
            self._log.warning("hooks cannot be looked at", error=str(error))
            amiss = True
        if amiss:
            self.refresh_interfaces()

    def refresh_interfaces(self) -> None:
        """Take on interfaces that came, let go of those that went, and put back what somebody took off."""
        datapath = self.datapath
        if datapath is None:
            return
        links = self.wanted_interfaces()
        failed: dict[str, KernelError] = {}
        wanted = None if links is None else {link.index for link in links}
        if wanted is not None:
            for index in datapath.touched() - wanted:
                try:
                    datapath.remove_interface(index)
                except KernelError as error:
                    self._log.warning("interface not released", interface=index, error=str(error))
        self._mend(datapath)
        for index in sorted((datapath.touched() if wanted is None else wanted) - datapath.interfaces()):
            try:
                datapath.add_interface(index)
            except KernelError as error:
                failed[f"interface {index}"] = error
        self._tell_about(links, failed)

    def _look_before(self) -> None:
        """Whether somebody's program comes before ours: packets it accepts or drops are not judged."""
        datapath, told = self.datapath, []
        if datapath is None:
            return
        for index in sorted(datapath.touched()):
            try:
                found = datapath.before(index)
            except KernelError as error:
                self._log.warning("programs before ours cannot be listed", interface=index, error=str(error))
                continue
            told += [
                f"{one.direction.name.lower()} of interface {index}: {one.name or 'program'}"
                + (f" (id {one.program_id})" if one.program_id else "")
                for one in found
            ]
        if told:
            self._health.raise_("hook_preceded", "; ".join(told))
        else:
            self._health.clear("hook_preceded")

    def _mend(self, datapath: Datapath) -> None:
        try:
            mended = datapath.mend()
        except KernelError as error:
            self._health.raise_("hook_lost", f"the hooks cannot be looked at: {error}", error.hint or "")
            self._quiet_looks = 0
            return
        told, unseen = [], []
        for each in mended:
            if each.error is None:
                told.append(f"{each.part}: was taken off, and is attached again")
            elif not each.seen:
                unseen.append(f"{each.part}: cannot be looked at: {each.error}")
            elif each.error.errno != errno.ENODEV:  # a device that went takes its hooks along
                told.append(f"{each.part}: was taken off, and cannot be attached again: {each.error}")
        if told:
            self._log.warning("hooks lost", what="; ".join(told))
        if told or unseen:
            self._quiet_looks = 0
            self._health.raise_("hook_lost", "; ".join(told + unseen))

    @cached_property
    def features(self) -> tuple[Feature, ...]:
        """Every feature, probed when first asked for (20 ms)."""
        return self.probe()

    def probe(self) -> tuple[Feature, ...]:
        """Every feature, probed now."""
        from aegis.kernel.features import probe_all

        root = self._settings["cgroup_root"]
        return (
            probe_all(
                btf=self.btf,
                pin_dir=Path(self._settings.text("pin_dir")),
                cgroup_root=Path(root) if isinstance(root, str) else None,
            )
            + self._others()
        )

    def _others(self) -> tuple[Feature, ...]:
        """The programs of others on our hooks, as one more line; none without hooks of ours."""
        from aegis.kernel.features import describe_others

        if self.datapath is None:
            return ()
        try:
            return (describe_others(self.datapath.others()),)
        except KernelError as error:
            self._log.warning("programs of others cannot be listed", error=str(error))
            return ()

    def missing(self, names: tuple[str, ...]) -> str | None:
        """Why the first of these features that is not there is missing, as a typed reason; None when all are."""
        if not names:
            return None
        found = {feature.name: feature for feature in self.features if feature.state == "missing"}
        for name in names:
            if name not in found:
                continue
            lacking = [one for one in CAPABILITIES_OF.get(name, ()) if one in found]
            if lacking:
                return f"missing_capability({', '.join(lacking)}): {name}: {found[name].reason}"
            return f"feature_unsupported({name}): {found[name].reason}"
        return None

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
        self._each(self.stop_listening, self.enforcer.close)
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
