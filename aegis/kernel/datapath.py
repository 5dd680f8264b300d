"""The installed datapath: the core object at its hooks, pinned, adopted after a crash, taken down on request.

Adoption never leaves a packet without a program: pinned tables are shared with the new programs, each pinned link gets
its new program by one swap, and only then goes what nobody needs any more.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from aegis.errors import AttachFailed, KernelError
from aegis.kernel import tc
from aegis.kernel.constants import Constants
from aegis.kernel.datapath_pins import drop_clsact, link_name, pinned_interfaces
from aegis.kernel.datapath_plan import KeptSize, Mended, Missing, Plan, load_most
from aegis.kernel.links import Link, attach_cgroup, attach_tracing, run_iter
from aegis.kernel.maps import Map
from aegis.kernel.object import HITS, IMAGES, BpfObject, Program
from aegis.kernel.pins import PinDirectory, close_all
from aegis.kernel.sensors import RING
from aegis.kernel.tc import ClsactFilter, Direction, Way

Hook = Link | ClsactFilter
Place = tuple[int, Direction] | str  # of a packet hook; or the name of another link's pin


class Datapath:
    """The core object, loaded and at its hooks. Make one with `install`; end it with `close` or `detach`."""

    def __init__(self, plan: Plan, loaded: BpfObject, pins: PinDirectory | None, prefer: Way | None) -> None:
        self.object = loaded
        self.adopted = False
        self.kept_sizes: tuple[KeptSize, ...] = ()
        self.missing: tuple[Missing, ...] = ()
        self._plan = plan
        self._pins = pins
        self._prefer = prefer
        self._hooks: dict[tuple[int, Direction], Hook] = {}
        self._links: dict[str, Link] = {}  # by the name of the pin
        self._cgroup_root: Path | None = None
        self._ids: dict[str, int] = {}
        self._grown: list[BpfObject] = []  # earlier loads, of which others hold programs

    @classmethod
    def install(
        cls,
        plan: Plan,
        *,
        constants: Constants | None,
        map_sizes: Mapping[str, int],
        interfaces: Iterable[int] | None,
        cgroup_root: Path | None,
        pin_dir: Path | None,
        prefer: Way | None = None,
        btf: Path | None = None,
    ) -> Datapath:
        """Load and attach everywhere, adopting what is pinned. Without `pin_dir` all ends with the process.

        `interfaces` None: they cannot be known now, so those of the agent before are kept.
        ShapeMismatch: a pinned table has another layout, nothing was changed (`clear` begins anew).
        """
        pins = PinDirectory(pin_dir) if pin_dir is not None else None
        if pins is not None:
            pins.make()
        with contextlib.ExitStack() as undo:
            pinned = {name: pins.open_map(name) for name in pins.map_names()} if pins is not None else {}
            undo.callback(close_all, pinned.values())
            sizes = dict(map_sizes)
            kept = [
                KeptSize(name=name, configured=sizes[name], kept=table.max_entries)
                for name, table in pinned.items()
                if name in sizes and table.max_entries != sizes[name]
            ]
            if constants is not None and RING in pinned:
                constants = constants.for_ring(pinned[RING].max_entries)
            if constants is not None and HITS in pinned:
                constants = constants.for_images(pinned[HITS].max_entries)
            loaded, lost = load_most(plan, constants, sizes, pinned, btf)
            failed = undo.enter_context(contextlib.ExitStack())
            failed.callback(loaded.close)
            path = cls(plan, loaded, pins, prefer)
            path.kept_sizes = tuple(kept)
            path.adopted = bool(pinned)
            path.missing = lost
            failed.callback(path._release)
            if interfaces is None:
                interfaces = () if pins is None else pinned_interfaces(pins)
            path._attach(tuple(interfaces), cgroup_root, frozenset(pinned))
            failed.pop_all()
        return path

    def _attach(self, interfaces: tuple[int, ...], cgroup_root: Path | None, pinned: frozenset[str]) -> None:
        # Tables first: a link must never be pinned without the tables its program writes.
        persistent = {table.name: table for table in self.object.maps() if not table.name.startswith(".")}
        if self._pins is not None:
            for name in persistent.keys() - pinned:
                self._pins.put_map(persistent[name])
        self._cgroup_root = cgroup_root
        wanted: set[str] = set()
        for ifindex in interfaces:
            with self._noting(f"interface {ifindex}"):
                self.add_interface(ifindex)
        for name in self._loaded(self._plan.cgroup):
            if cgroup_root is not None:
                with self._noting(name):
                    wanted.add(self._attach_cgroup(self.object.program(name), cgroup_root))
        for name in self._loaded(self._plan.tracing):
            with self._noting(name):
                wanted.add(self._attach_tracing(self.object.program(name)))
        for name in self._loaded(self._plan.snapshot):
            with self._noting(name):
                run_iter(self.object.program(name))
        if self._pins is None:
            return
        wanted |= {link_name(*key) for key, hook in self._hooks.items() if isinstance(hook, Link)}
        # Where the new programs were refused the old ones go on judging: they share the tables.
        refused = {(ifindex, way) for ifindex in interfaces for way in self._plan.packet} - self._hooks.keys()
        old = {link_name(*key) for key in refused}
        for name in self._pins.link_names() - wanted:
            if name not in old or not self._pinned_ifindex(name):
                self._pins.drop_link(name)
        filtered = {key[0] for key, hook in self._hooks.items() if isinstance(hook, ClsactFilter)}
        filtered |= {ifindex for ifindex, way in refused if tc.clsact_program_id(ifindex, way)}
        for ifindex in self._pins.clsact_interfaces() - filtered:
            self._drop_clsact(ifindex)
        for name in pinned - persistent.keys():
            self._pins.drop_map(name)

    def _pinned_ifindex(self, name: str) -> int:
        """The interface a pinned link is attached to; 0 where it is at none."""
        assert self._pins is not None
        with self._pins.open_link(name) as link:
            return link.info().ifindex

    def grow(
        self,
        constants: Constants,
        map_sizes: Mapping[str, int],
        seed: Callable[[BpfObject], None],
        *,
        btf: Path | None = None,
    ) -> None:
        """Load the programs again for policy images of another size, and swap them in, each in one step.

        `seed` fills the new tables with the policy in force before any packet asks them, so that it goes on whichever of
        the programs a packet meets. The other tables are shared. Raises KernelError, with all as it was where a program
        was refused; one that could not be swapped in goes on with the policy it has.
        """
        kept = {
            table.name: table
            for table in self.object.maps()
            if not table.name.startswith(".") and table.name not in (IMAGES, HITS)
        }
        if RING in kept:
            constants = constants.for_ring(kept[RING].max_entries)
        loaded, lost = load_most(self._plan, constants, map_sizes, kept, btf)
        with contextlib.ExitStack() as undo:
            undo.callback(loaded.close)
            seed(loaded)
            undo.pop_all()
        before, self.object = self.object, loaded
        self._grown.append(before)
        self._ids.clear()
        self.missing = (*self.missing, *lost)
        for (ifindex, direction), hook in tuple(self._hooks.items()):
            program = loaded.program(self._plan.packet[direction])
            with self._noting(f"interface {ifindex}"):
                if isinstance(hook, Link):
                    hook.update(program)
                else:
                    tc.attach_clsact(program, ifindex, direction)
        for name in self._loaded(self._plan.cgroup):
            with self._noting(name):
                if f"cgroup-{name}" in self._links:
                    self._links[f"cgroup-{name}"].update(loaded.program(name))
        if self._pins is not None:
            for name in (IMAGES, HITS):
                self._pins.put_map(loaded.map(name))

    def _loaded(self, names: tuple[str, ...]) -> tuple[str, ...]:
        present = {program.name for program in self.object.programs()}
        return tuple(name for name in names if name in present)

    @contextlib.contextmanager
    def _noting(self, part: str) -> Iterator[None]:
        """What fails inside is noted as missing, and the rest goes on."""
        try:
            yield
        except KernelError as error:
            self.missing = (*self.missing, Missing(part=part, error=error))

    def _attach_cgroup(self, program: Program, root: Path) -> str:
        name = f"cgroup-{program.name}"
        try:
            directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise AttachFailed("open cgroup", str(root), error.errno or 0) from error
        try:
            link = self._adopt(name, program, cgroup_id=os.fstat(directory).st_ino)
            if link is None:
                link = attach_cgroup(program, directory)
                if self._pins is not None:
                    self._pins.put_link(link, name)
        finally:
            os.close(directory)
        self._take_link(name, link)
        return name

    def _attach_tracing(self, program: Program) -> str:
        """A tracepoint's link takes no other program, so old and new run side by side until the old pin is replaced."""
        name = f"tracing-{program.name}"
        link = attach_tracing(program)
        self._take_link(name, link)
        if self._pins is not None:
            self._pins.put_link(link, name)
        return name

    def _take_link(self, name: str, link: Link) -> None:
        before, self._links[name] = self._links.get(name), link
        if before is not None:
            before.close()

    def _adopt(self, name: str, program: Program, *, ifindex: int = 0, cgroup_id: int = 0) -> Link | None:
        """The pinned link with `program` swapped in; None where there is none or it is at another hook or none."""
        if self._pins is None or name not in self._pins.link_names():
            return None
        link = self._pins.open_link(name)
        found = link.info()
        if found.ifindex != ifindex if ifindex else found.cgroup_id != cgroup_id:
            link.close()
            return None
        try:
            link.update(program)
        except AttachFailed as error:
            link.close()
            if error.errno not in (errno.ENOLINK, errno.ENOENT, errno.ENODEV):
                raise
            return None
        return link

    def add_interface(self, ifindex: int) -> None:
        """Attach to one interface in both directions. Twice is harmless."""
        for direction, program_name in self._plan.packet.items():
            if (ifindex, direction) not in self._hooks:
                program = self.object.program(program_name)
                self._hooks[ifindex, direction] = self._attach_packet(program, ifindex, direction)

    def _attach_packet(self, program: Program, ifindex: int, direction: Direction) -> Hook:
        name = link_name(ifindex, direction)
        if self._prefer != "clsact":
            link = self._adopt(name, program, ifindex=ifindex)
            if link is not None:
                return link
        if self._pins is not None and self._prefer == "clsact":
            self._pins.mark_clsact(ifindex)
        hook = tc.attach(program, ifindex, direction, prefer=self._prefer)
        if self._pins is not None:
            if isinstance(hook, Link):
                self._pins.put_link(hook, name)
            else:
                self._pins.mark_clsact(ifindex, made=hook.made_qdisc)
        return hook

    def remove_interface(self, ifindex: int) -> None:
        """Take our programs off one interface; one that is gone already is no error.

        An error in one direction does not spare the other. What could not be removed is still in `touched`.
        """
        with contextlib.ExitStack() as steps:  # each is taken whatever the others raise; the last one first
            if self._pins is not None and ifindex in self._pins.clsact_interfaces():
                steps.callback(self._drop_clsact, ifindex)
            for direction in Direction:
                steps.callback(self._remove_hook, ifindex, direction)

    def _remove_hook(self, ifindex: int, direction: Direction) -> None:
        hook = self._hooks.get((ifindex, direction))
        if isinstance(hook, ClsactFilter):
            hook.detach()
            del self._hooks[ifindex, direction]
            if hook.made_qdisc and self._pins is None:
                tc.destroy_clsact(ifindex)
            return
        try:
            if (
                self._pins is not None
            ):  # without a hook it is one kept of the agent before, where ours was refused
                self._pins.drop_link(link_name(ifindex, direction))
        finally:
            self._hooks.pop((ifindex, direction), None)
            if hook is not None:
                hook.close()

    def _drop_clsact(self, ifindex: int) -> None:
        if self._pins is not None:
            drop_clsact(self._pins, ifindex)

    def interfaces(self) -> frozenset[int]:
        """Interfaces with every packet program at its hook."""
        return frozenset(
            ifindex
            for ifindex in self.touched()
            if all((ifindex, way) in self._hooks for way in self._plan.packet)
        )

    def touched(self) -> frozenset[int]:
        """Interfaces with a packet program at a hook, also one of the agent before that was kept."""
        kept = () if self._pins is None else pinned_interfaces(self._pins)
        return frozenset(ifindex for ifindex, _ in self._hooks) | frozenset(kept)

    def ways(self) -> frozenset[Way]:
        """The kinds of packet hook in use."""
        return frozenset("tcx" if isinstance(hook, Link) else "clsact" for hook in self._hooks.values())

    def in_place(self) -> bool:
        """Whether everything attached is still where it was put. Asked often: a few system calls a hook."""
        return self._displaced() == ((), ())

    def _displaced(self) -> tuple[tuple[Place, ...], tuple[Mended, ...]]:
        """What somebody took off, gave another program or unpinned, and what cannot be looked at."""
        pinned = None if self._pins is None else self._pins.link_names()
        lost: list[Place] = []
        unseen: list[Mended] = []
        places: tuple[Place, ...] = (*self._hooks, *self._links)
        for place in places:
            try:
                if not self._holds(place, pinned):
                    lost.append(place)
            except KernelError as error:
                unseen.append(Mended(part=part_name(place), error=error, seen=False))
        return tuple(lost), tuple(unseen)

    def _holds(self, place: Place, pinned: frozenset[str] | None) -> bool:
        if isinstance(place, str):
            at_cgroup = place.removeprefix("cgroup-") in self._plan.cgroup
            on = not at_cgroup or bool(self._links[place].info().cgroup_id)
            return on and (pinned is None or place in pinned)
        ifindex, direction = place
        hook, ours = self._hooks[place], self._program_id(self._plan.packet[direction])
        if isinstance(hook, ClsactFilter):
            return hook.program_id() == ours
        found = hook.info()
        on = found.ifindex == ifindex and found.program_id == ours
        return on and (pinned is None or link_name(ifindex, direction) in pinned)

    def _program_id(self, name: str) -> int:
        if name not in self._ids:
            self._ids[name] = self.object.program(name).info().id
        return self._ids[name]

    def mend(self) -> tuple[Mended, ...]:
        """Put back what is not in place any more. What cannot be put back is no longer counted as attached."""
        displaced, unseen = self._displaced()
        if displaced and self._pins is not None:
            self._pins.make()
        return (*(self._mend(each) for each in displaced), *unseen)

    def _mend(self, lost: Place) -> Mended:
        part = part_name(lost)
        try:
            if isinstance(lost, str):
                self._mend_link(lost)
            else:
                self._mend_hook(*lost)
        except KernelError as error:
            return Mended(part=part, error=error)
        return Mended(part=part, error=None)

    def _mend_hook(self, ifindex: int, direction: Direction) -> None:
        program = self.object.program(self._plan.packet[direction])
        before = self._hooks[ifindex, direction]
        if isinstance(before, Link) and self._pins is not None:
            found = before.info()
            if found.ifindex == ifindex and found.program_id == self._program_id(program.name):
                self._pins.put_link(before, link_name(ifindex, direction))  # only its pin is gone
                return
        del self._hooks[ifindex, direction]
        try:
            hook = self._attach_packet(program, ifindex, direction)
        finally:
            before.close()
        if isinstance(before, ClsactFilter) and isinstance(hook, ClsactFilter):
            hook.made_qdisc = hook.made_qdisc or before.made_qdisc
        self._hooks[ifindex, direction] = hook

    def _mend_link(self, name: str) -> None:
        link = self._links[name]
        program = name.partition("-")[2]
        if program not in self._plan.cgroup or link.info().cgroup_id:
            if self._pins is not None:
                self._pins.put_link(link, name)
            return
        self._links.pop(name).close()
        if self._cgroup_root is not None:
            self._attach_cgroup(self.object.program(program), self._cgroup_root)

    def others(self) -> tuple[tc.OtherProgram, ...]:
        """Programs that are not ours on the hooks we use."""
        ours = frozenset(program.info().id for program in self.object.programs())
        return tuple(other for ifindex in self.touched() for other in tc.other_programs(ifindex, ours))

    def before(self, ifindex: int) -> tuple[tc.OtherProgram, ...]:
        """Programs that are not ours and run before ours on an interface. Raises KernelError."""
        return tc.programs_before(
            ifindex, frozenset(self._program_id(name) for name in self._plan.packet.values())
        )

    def map(self, name: str) -> Map:
        return self.object.map(name)

    def close(self) -> None:
        """Leave. What is pinned stays and goes on judging; what is not pinned ends."""
        self._end(remove=self._pins is None)

    def detach(self) -> None:
        """Take everything down: hooks, links, pins and tables. An error in one part does not spare the others."""
        self._end(remove=True)

    def _end(self, *, remove: bool) -> None:
        with contextlib.ExitStack() as steps:  # each is taken whatever the others raise; the last one first
            for each in (self.object, *self._grown):
                steps.callback(each.close)
            steps.callback(self._release)
            if not remove:
                return
            if self._pins is not None:
                steps.callback(self._pins.remove_all)
            for ifindex in self.touched():
                steps.callback(self.remove_interface, ifindex)

    def _release(self) -> None:
        for hook in (*self._hooks.values(), *self._links.values()):
            hook.close()
        self._hooks.clear()
        self._links.clear()


def part_name(place: Place) -> str:
    """A place as people are told of it."""
    return place if isinstance(place, str) else f"{place[1].name.lower()} of interface {place[0]}"
