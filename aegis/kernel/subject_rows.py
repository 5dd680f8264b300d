"""Compiled subjects as rows of the kernel's tables: bytes for one policy slot."""

from __future__ import annotations

from dataclasses import dataclass, field

from aegis.errors import PolicyUnenforceable
from aegis.kernel import abi
from aegis.kernel.automaton import Glob
from aegis.kernel.subject_patterns import CompiledSubjects, Dimension

_WORD = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Keys and values by table. State 0 of a slot is dead; its row is the control groups'."""

    states: dict[bytes, bytes] = field(default_factory=dict)
    affixes: dict[bytes, bytes] = field(default_factory=dict)
    edges: dict[bytes, bytes] = field(default_factory=dict)
    branches: dict[bytes, bytes] = field(default_factory=dict)
    users: dict[bytes, bytes] = field(default_factory=dict)


def rows_of(compiled: CompiledSubjects, slot: int) -> tuple[Rows, int, int]:
    """The rows, and in which state the reading of a control group and of an executable begins.

    PolicyUnenforceable where a slot has no room for them.
    """
    made = _Made(slot)
    cgroup_start = made.add(compiled.cgroups, "spec.subject.cgroup") if compiled.cgroups else 0
    exe_start = made.add(compiled.exes, "spec.subject.exe") if compiled.exes else 0
    for uid, mask in (compiled.users or {}).items():
        made.rows.users[abi.pack("aegis_subject_user", slot=slot, uid=uid)] = mask.to_bytes(8, "little")
    return made.rows, cgroup_start, exe_start


class _Made:
    def __init__(self, slot: int) -> None:
        self.rows = Rows()
        self._first = slot * abi.AUTOMATON_STATES
        self._first_affix = slot * abi.AUTOMATON_AFFIXES
        self._states = 1
        self._affixes: dict[tuple[Glob, ...], int] = {(): 0}

    def add(self, dimension: Dimension, path: str) -> int:
        automaton = dimension.automaton
        begin = self._states - 1
        self._states += len(automaton.states) - 1
        if self._states > abi.AUTOMATON_STATES:
            raise PolicyUnenforceable(
                path, f"the subjects of all policies together need more than {abi.AUTOMATON_STATES} states"
            )
        numbers = [self._first + (begin + number if number else 0) for number in range(len(automaton.states))]
        for number, state in enumerate(automaton.states):
            key = numbers[number].to_bytes(4, "little")
            if key in self.rows.states:
                continue  # dead, of both
            self.rows.states[key] = abi.pack(
                "aegis_automaton_state",
                accepts=dimension.masks[number],
                otherwise=numbers[state.otherwise],
                affix=self._add_affixes(state.affixes, path),
                affix_count=len(state.affixes),
            )
            for component, to in state.exact.items():
                edge = abi.pack("aegis_edge", state=numbers[number], text=component)
                self.rows.edges[edge] = numbers[to].to_bytes(4, "little")
            for matched, to in state.branches.items():
                branch = abi.pack("aegis_branch", state=numbers[number], matched=matched)
                self.rows.branches[branch] = numbers[to].to_bytes(4, "little")
        if max(len(self.rows.edges), len(self.rows.branches)) > abi.AUTOMATON_EDGES // abi.POLICY_SLOTS:
            raise PolicyUnenforceable(
                path, f"the subjects of all policies together need more than {abi.AUTOMATON_EDGES} edges"
            )
        return numbers[automaton.start]

    def _add_affixes(self, affixes: tuple[Glob, ...], path: str) -> int:
        if affixes not in self._affixes:
            at = len(self.rows.affixes)
            if at + len(affixes) > abi.AUTOMATON_AFFIXES:
                raise PolicyUnenforceable(
                    path,
                    f"the subjects of all policies together need more than {abi.AUTOMATON_AFFIXES} globs",
                )
            for number, glob in enumerate(affixes, self._first_affix + at):
                self.rows.affixes[number.to_bytes(4, "little")] = _affix(glob)
            self._affixes[affixes] = at
        return self._affixes[affixes]


def _affix(glob: Glob) -> bytes:
    size = abi.AFFIX_BYTES
    return abi.pack(
        "aegis_affix",
        prefix=_words(glob.prefix.ljust(size, b"\0")),
        prefix_mask=_words(bytes([255]) * len(glob.prefix) + bytes(size - len(glob.prefix))),
        suffix=_words(glob.suffix.rjust(size, b"\0")),
        suffix_mask=_words(bytes(size - len(glob.suffix)) + bytes([255]) * len(glob.suffix)),
        least=len(glob.prefix) + len(glob.suffix),
    )


def _words(data: bytes) -> list[int]:
    return [int.from_bytes(data[at : at + _WORD], "little") for at in range(0, len(data), _WORD)]
