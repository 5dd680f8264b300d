"""Names in the kernel, from user space: which are of interest, whose answers are believed, what addresses stand for.

The kernel binds addresses by itself, before it delivers the answer they came with. User space tells it what to look for,
binds what it looked up itself, keeps what open flows still use and takes out what has long been over. It never writes an
entry of the address table: a program does, so that nothing learnt at the same instant is lost.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from aegis.errors import MapFull
from aegis.kernel import abi
from aegis.kernel.flows import FlowReader
from aegis.kernel.maps import Map
from aegis.kernel.names_classes import NameClasses
from aegis.kernel.names_plan import (
    LIMITS,
    STATES,
    NamePlan,
    accepted,
    build_names,
    class_table,
    selectors_of,
)
from aegis.kernel.object import Program
from aegis.model.policy_selectors import NameSelector

ADDRESSES: Final = "aegis_names"
COUNTS: Final = "aegis_name_counts"
RESOLVERS: Final = "aegis_name_resolvers"
ROOTS: Final = "aegis_name_roots"
QUESTIONS: Final = "aegis_name_questions"
CLASSES: Final = "aegis_name_classes"
EDGES: Final = "aegis_name_edges"
NODES: Final = "aegis_name_states"
BRANCHES: Final = "aegis_name_branches"
AFFIXES: Final = "aegis_name_affixes"
MAPS: Final = (ADDRESSES, COUNTS, RESOLVERS, ROOTS, QUESTIONS, CLASSES, EDGES, NODES, BRANCHES, AFFIXES)
PROGRAM: Final = "syscall_names"
GRACE_S: Final = LIMITS["AEGIS_NAME_GRACE_S"]
IDLE_S: Final = 600  # an address stays known, without standing for anything, for so long
_DEAD: Final = (1 << 64) - 1
_COUNT_NAMES: Final = {
    number: name.removeprefix("AEGIS_NAME_").lower()
    for name, number in abi.enum("aegis_name_count").items()
    if name != "AEGIS_NAME_COUNTS"
}
_ORDERS: Final = abi.enum("aegis_name_order_kind")


@dataclass(frozen=True, slots=True, kw_only=True)
class Harvest:
    """One look through the addresses: how many are known, and how many of those were taken out."""

    addresses: int
    removed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """What an address (16 bytes, IPv4 mapped) stands for: seconds of CLOCK_BOOTTIME at which it is over, by class."""

    address: bytes
    classes: Mapping[int, int]


class Names:
    """Owns its descriptors of the tables. One writer at a time: the agent."""

    def __init__(self, maps: Mapping[str, Map], program: Program) -> None:
        """Takes over the tables of `MAPS`; `program` belongs to the loaded object, which must outlive this."""
        self._maps = dict(maps)
        self._program = program
        self._classes = NameClasses(self._maps[CLASSES])

    @classmethod
    def of(cls, tables: Any) -> Self:
        """The names of anything with `map(name)` and `program(name)`: a loaded object."""
        with contextlib.ExitStack() as undo:
            found: dict[str, Map] = {}
            for name in MAPS:
                found[name] = tables.map(name).duplicate()
                undo.callback(found[name].close)
            names = cls(found, tables.program(PROGRAM))
            undo.pop_all()
        return names

    def close(self) -> None:
        """Leave; what is known stays with the programs."""
        for each in self._maps.values():
            each.close()

    # What to look for.

    def plan(self, selectors: Sequence[NameSelector]) -> NamePlan:
        """The automaton of these selectors (`PolicySet.names()`) and the numbers of its classes.

        Raises PolicyUnenforceable where the kernel's tables are too small for them.
        """
        automaton = build_names(selectors)
        sets = {bits: selectors_of(bits, selectors) for bits in sorted(accepted(automaton))}
        numbers = self._classes.number_all(sets.values(), self._in_use)
        classes = {bits: numbers[each] for bits, each in sets.items()}
        return NamePlan(
            automaton=automaton,
            classes=classes,
            table=class_table(self._classes.sets(), selectors),
            exact=tuple(each.text for each in selectors if not each.pattern),
        )

    def put(self, slot: int, plan: NamePlan, *, beside: int | None = None) -> None:
        """Fill a slot that no state word names. `beside`: the slot of the policy that comes back when a trial ends.

        Raises MapFull, with the slot empty again, where there is no room.
        """
        self.clear(slot)
        try:
            for table, key, value in plan.rows(slot):
                self._maps[table].update(key, value)
        except MapFull:
            self.clear(slot)
            raise
        self._set_root(
            slot, plan.root and slot * STATES + plan.root, 0 if beside is None else self._root(beside)
        )

    def settle(self, slot: int) -> None:
        """The trial is over: only the slot's own automaton is asked from now on."""
        self._set_root(slot, self._root(slot), 0)

    def clear(self, slot: int) -> None:
        """Take a slot's automaton out of the tables; no state word may name the slot."""
        self._set_root(slot, 0, 0)
        for name, at in (
            (EDGES, 0),
            (NODES, 0),
            (BRANCHES, abi.struct("aegis_name_branch").offsets["state"]),
        ):
            keys = [key for key, _ in self._maps[name].items_batch()]
            for key in keys:
                if int.from_bytes(key[at : at + 4], "little") // STATES == slot:
                    self._maps[name].delete(key)

    def asked(self) -> bool:
        """Whether a policy in the kernel names names."""
        return any(self._root(slot) for slot in range(abi.POLICY_SLOTS))

    def _root(self, slot: int) -> int:
        row = self._maps[ROOTS].lookup(slot.to_bytes(4, "little"))
        return 0 if row is None else int(abi.unpack("aegis_name_root", row).root)

    def _set_root(self, slot: int, root: int, also: int) -> None:
        self._maps[ROOTS].update(
            slot.to_bytes(4, "little"), abi.pack("aegis_name_root", root=root, also=also)
        )

    def _in_use(self) -> frozenset[int]:
        """Every class that an address, an awaited question or an automaton refers to."""
        FlowReader.wait()  # whoever walked an automaton that was cleared has left its entry
        used = {number for each in self.bindings() for number in each.classes}
        for _, value in self._maps[NODES].items_batch():
            used.add(abi.unpack("aegis_name_state", value).class_)
        for _, value in self._maps[QUESTIONS].items_batch():
            used |= set(abi.unpack("aegis_name_question", value).classes)
        return frozenset(used - {0})

    # Whose answers are believed.

    def set_resolvers(self, addresses: Collection[bytes]) -> None:
        """The servers (16 bytes, IPv4 mapped) whose answers are read. Raises MapFull for more than 64."""
        table = self._maps[RESOLVERS]
        before = {key for key, _ in table.items_batch()}
        for address in before - set(addresses):
            table.delete(address)
        for address in set(addresses) - before:
            table.update(address, (1).to_bytes(4, "little"))

    def resolvers(self) -> frozenset[bytes]:
        return frozenset(key for key, _ in self._maps[RESOLVERS].items_batch())

    # What addresses stand for.

    def bind(self, address: bytes, class_: int, ttl_s: int, now_s: int) -> str | None:
        """Let an address stand for a class for so long and the grace; why not, as the kernel counts it, or None."""
        until = now_s + ttl_s + GRACE_S
        refused = self._order("BIND", now=now_s, until=until, class_=class_, address=list(address)).refused
        return _COUNT_NAMES[refused] if refused else None

    def keep(self, addresses: Collection[bytes], until_s: int, now_s: int) -> int:
        """Let what these addresses stand for now hold until then at least: open flows use it. How many changed."""
        return sum(
            self._order("KEEP", now=now_s, until=until_s, address=list(each)).changed for each in addresses
        )

    def keep_open(self, until_s: int, now_s: int) -> int:
        """As `keep`, for the peer of every open flow that this host began: a change of the policy judges these again, and
        what was allowed by a name must not be cut because the name is over. How many slots changed."""
        return int(self._order("FLOWS", now=now_s, until=until_s).changed)

    def harvest(self, now_s: int) -> Harvest:
        """Take out addresses that stand for nothing since ten minutes; at once while the table is three quarters full.

        Blocks for an RCU grace period (about 10 ms) if there are any.
        """
        done = self._order("MARK", now=now_s, until=max(0, now_s - IDLE_S))
        marked, entries = done.changed, done.entries
        if 4 * (entries - marked) > 3 * self._maps[ADDRESSES].max_entries:
            marked += self._order("MARK", now=now_s, until=now_s).changed
        if not marked:
            return Harvest(addresses=entries, removed=0)
        FlowReader.wait()
        return Harvest(addresses=entries, removed=self._order("REAP", now=now_s).changed)

    def bindings(self) -> tuple[Binding, ...]:
        """What every known address stands or stood for."""
        found = []
        for key, value in self._maps[ADDRESSES].items_batch():
            words = memoryview(value).cast("Q")
            classes = {word >> 32: word & 0xFFFFFFFF for word in words if word not in {0, _DEAD}}
            found.append(Binding(address=key, classes=classes))
        return tuple(found)

    def counts(self) -> dict[str, int]:
        """Messages by what they counted as, and addresses bound or refused, since the tables were made."""
        found = dict.fromkeys(_COUNT_NAMES.values(), 0)
        for key, values in self._maps[COUNTS].items_batch():
            name = _COUNT_NAMES.get(int.from_bytes(key, "little"))
            if name is not None:
                found[name] = sum(memoryview(values).cast("Q"))
        return found

    def _order(self, kind: str, **fields: Any) -> Any:
        order = abi.pack("aegis_name_order", kind=_ORDERS[f"AEGIS_NAME_ORDER_{kind}"], **fields)
        return abi.unpack("aegis_name_order", self._program.run(ctx=order).ctx_out)
