"""The kernel's tables of subjects: rows of the automata, control groups that exist, users, and who is asked in which slot."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from aegis._native import _system
from aegis.errors import MapAccessFailed, MapFull, PolicyUnenforceable
from aegis.kernel import abi
from aegis.kernel.flows import FlowReader
from aegis.kernel.links import run_iter
from aegis.kernel.maps import Map
from aegis.kernel.object import Program
from aegis.kernel.pins import close_all
from aegis.kernel.subject_patterns import CompiledSubjects
from aegis.kernel.subject_rows import rows_of

NOEXIST: Final = 1
FLAGS: Final = abi.enum("aegis_subject_flag")
_SLOT: Final = abi.struct("aegis_subject_slot")
_CONTROL: Final = abi.struct("aegis_subject_control")
_TABLES: Final = {
    "control": "aegis_subject_control",
    "cgroups": "aegis_subject_cgroups",
    "exes": "aegis_subject_exes",
    "users": "aegis_subject_users",
    "counts": "aegis_subject_counts",
    "states": "aegis_automaton_states",
    "affixes": "aegis_automaton_affixes",
    "edges": "aegis_automaton_edges",
    "branches": "aegis_automaton_branches",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Filled:
    """What a classification of the control groups that exist found: known ones, those it placed, those that it could not."""

    known: int
    unplaced: int
    filled: int = 0


class SubjectTables:
    """Owns its descriptors. One writer at a time: the agent.

    A policy's subjects are prepared for its slot before the state word names the slot, and forgotten when it is free:

        tables.prepare(slot, generation, compiled); switch(...); tables.forget(old_slot)
    """

    def __init__(self, maps: dict[str, Map], programs: dict[str, Program]) -> None:
        self.not_kept = 0  # control groups there was no room for: judged as the nearest known one above
        self._maps = maps
        self._programs = programs
        self._memory = maps["control"].mmap(writable=True)
        self._word: Any = _system.ffi.from_buffer(self._memory)

    @classmethod
    def of(cls, loaded: Any) -> Self:
        """The tables of anything with `map(name)` and `program(name)`; it keeps its own descriptors of the maps."""
        with contextlib.ExitStack() as undo:
            maps = {}
            for role, name in _TABLES.items():
                maps[role] = loaded.map(name).duplicate()
                undo.callback(maps[role].close)
            names = ("syscall_subject_fill", "syscall_subject_root", "iter_task_subject")
            tables = cls(maps, {name: loaded.program(name) for name in names})
            undo.pop_all()
        return tables

    def start(self, root: Path) -> None:
        """Take in the control groups at and below `root`. Call it once the programs that see new ones are attached."""
        self._programs["syscall_subject_root"].run()
        self.not_kept = 0
        self._take_in(os.fspath(root), 0, b"")
        while self._walk(root):
            settle()
        self._store(_CONTROL.offsets["taken_in"], 1)
        self._fill_live()

    def _take_in(self, directory: str, parent: int, name: bytes) -> bool:
        """True when it was not known, and is now."""
        key = os.stat(directory).st_ino.to_bytes(8, "little")
        if self._maps["cgroups"].lookup(key) is not None:
            return False
        value = abi.pack("aegis_subject_cgroup", parent=parent, name_bytes=len(name), text=name)
        try:
            self._maps["cgroups"].update(key, value, flags=NOEXIST)
        except MapFull:
            self.not_kept += 1
            return False
        except MapAccessFailed as error:
            if error.errno != errno.EEXIST:
                raise
            return False  # the kernel was first
        return True

    def _walk(self, root: Path) -> int:
        """Parents first; how many were not known. One that is made meanwhile below a known one is the kernel's."""
        found = self.not_kept = 0
        todo = [os.fspath(root)]
        while todo:
            directory = todo.pop()
            with contextlib.suppress(OSError):  # gone
                parent = os.stat(directory).st_ino
                with os.scandir(directory) as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            found += self._take_in(entry.path, parent, os.fsencode(entry.name))
                            todo.append(entry.path)
        return found

    def prepare(
        self, slot: int, generation: int, compiled: CompiledSubjects, *, unknown_denied: bool = False
    ) -> Filled:
        """Make everything that exists known to a slot that no packet uses yet. PolicyUnenforceable: no room."""
        rows, cgroup_start, exe_start = rows_of(compiled, slot)
        self.forget(slot)
        try:
            for role in ("states", "affixes", "edges", "branches", "users"):
                for key, value in getattr(rows, role).items():
                    self._maps[role].update(key, value)
        except MapFull as error:
            self.forget(slot)
            raise PolicyUnenforceable("spec.subject", f"a table of the kernel is full: {error}") from error
        asked = (
            (FLAGS["AEGIS_SUBJECT_BY_CGROUP"], compiled.cgroups is not None),
            (FLAGS["AEGIS_SUBJECT_BY_EXE"], compiled.exes is not None),
            (FLAGS["AEGIS_SUBJECT_BY_USER"], compiled.users is not None),
            (FLAGS["AEGIS_SUBJECT_UNKNOWN_DENIED"], unknown_denied),
            (FLAGS["AEGIS_SUBJECT_RECEIVES"], compiled.receives),
        )
        row = abi.pack(
            "aegis_subject_slot",
            generation=generation & 0xFFFFFFFF,
            flags=sum(flag for flag, there in asked if there),
            subjects=compiled.subjects,
            user_base=compiled.user_base,
            exe_base=compiled.exes.base if compiled.exes is not None else 0,
            cgroup_start=cgroup_start,
            exe_start=exe_start,
        )
        # Generation and flags are one word: from its store on, the last, the kernel classifies for the slot.
        for offset in reversed(range(0, _SLOT.size, 8)):
            self._store(slot * _SLOT.size + offset, int.from_bytes(row[offset : offset + 8], "little"))
        self._ask_exes(slot, asked=compiled.exes is not None)
        return self._classify(slot, cgroups=compiled.cgroups is not None, exes=compiled.exes is not None)

    def _classify(self, slot: int, *, cgroups: bool, exes: bool) -> Filled:
        settle()
        found = Filled(known=0, unplaced=0)
        settled = not cgroups
        while not settled:
            filled = self._fill(slot)
            while filled.filled:
                filled = self._fill(slot)
            # Those that were being made from one not yet classified are in the table now.
            settle()
            found = self._fill(slot)
            settled = not found.filled
        if exes:
            # Whoever was forked from one not yet classified in the first round is there in the second.
            run_iter(self._programs["iter_task_subject"])
            settle()
            run_iter(self._programs["iter_task_subject"])
        return found

    def _fill(self, slot: int) -> Filled:
        run = self._programs["syscall_subject_fill"].run(ctx=abi.pack("aegis_subject_fill", slot=slot))
        out = abi.unpack("aegis_subject_fill", run.ctx_out)[0]
        return Filled(known=out.walked, filled=out.filled, unplaced=out.missing - out.filled)

    def _fill_live(self) -> None:
        for slot in range(abi.POLICY_SLOTS):
            at = slot * _SLOT.size
            if int.from_bytes(self._memory[at : at + 4], "little"):
                flags = int.from_bytes(self._memory[at + 4 : at + 8], "little")
                self._classify(
                    slot,
                    cgroups=bool(flags & FLAGS["AEGIS_SUBJECT_BY_CGROUP"]),
                    exes=bool(flags & FLAGS["AEGIS_SUBJECT_BY_EXE"]),
                )

    def forget(self, slot: int) -> None:
        """Ask nothing in a slot that no packet uses any more."""
        self._store(slot * _SLOT.size, 0)
        self._ask_exes(slot, asked=False)
        settle()
        low, high = slot * abi.AUTOMATON_STATES, (slot + 1) * abi.AUTOMATON_STATES
        self._drop("edges", lambda key: low <= int.from_bytes(key[:4], "little") < high)
        self._drop("branches", lambda key: low <= int.from_bytes(key[8:12], "little") < high)
        self._drop("users", lambda key: int.from_bytes(key[:4], "little") == slot)
        if not int.from_bytes(self._memory[_CONTROL.offsets["exes"] :][:8], "little"):
            self._drop("exes", lambda _: True)

    def _drop(self, role: str, unwanted: Callable[[bytes], bool]) -> None:
        for key in [key for key, _ in self._maps[role].items_batch() if unwanted(key)]:
            self._maps[role].delete(key)

    def _ask_exes(self, slot: int, *, asked: bool) -> None:
        at = _CONTROL.offsets["exes"]
        now = int.from_bytes(self._memory[at : at + 8], "little")
        self._store(at, now | 1 << slot if asked else now & ~(1 << slot))

    def _store(self, offset: int, word: int) -> None:
        _system.lib.aegis_store64(self._word + offset, word)

    def counts(self) -> dict[str, int]:
        """What happened since the tables were made, by name."""
        found = {}
        for name, number in abi.enum("aegis_subject_count").items():
            if number < abi.SUBJECT_COUNTS:
                (count,) = self._maps["counts"].sum_u64(number.to_bytes(4, "little"))
                found[name.removeprefix("AEGIS_SUBJECT_").lower()] = count
        return found

    def close(self) -> None:
        """Leave; the kernel goes on with what it has."""
        self._word = None
        self._memory.close()
        close_all(self._maps.values())


def settle() -> None:
    """Wait until the programs that run have ended, and control groups that are being made can be seen."""
    FlowReader.wait()
    Path("/proc/self/cgroup").read_bytes()  # takes the lock under which they are made
