"""Rows of the kernel's tables: read back by the kernel's own rules they are the automaton."""

from __future__ import annotations

import random

import pytest

from aegis.errors import PolicyUnenforceable
from aegis.kernel import abi
from aegis.kernel.subject_patterns import compile_subjects
from aegis.kernel.subject_rows import Rows, rows_of
from aegis.model.policy_selectors import Subject
from tests.support.scale import seed

SUBJECTS = [
    Subject(unit=("ssh*.service", "*d.service"), exe=("/usr/*/x*y",)),
    Subject(cgroup=("/a/*/c", "/a/b*"), exe=("/usr/bin/x",)),
    Subject(cgroup=("/**/z",), user=("7",)),
]
WORDS = ["a", "b", "bb", "c", "z", "sshd.service", "ssh.service", "x.slice", "usr", "bin", "x", "xy", "xzy"]


def step(rows: Rows, slot: int, state: int, name: bytes) -> int:
    """As kern/automaton.bpf.h does it."""
    if state % abi.AUTOMATON_STATES == 0:
        return state
    edge = rows.edges.get(abi.pack("aegis_edge", state=state, text=name))
    if edge is not None:
        return int.from_bytes(edge, "little")
    row = abi.unpack("aegis_automaton_state", rows.states[state.to_bytes(4, "little")])[0]
    matched = 0
    head = name[: abi.AFFIX_BYTES].ljust(abi.AFFIX_BYTES, b"\0")
    tail = name[-abi.AFFIX_BYTES :].rjust(abi.AFFIX_BYTES, b"\0")
    for number in range(row.affix_count):
        at = slot * abi.AUTOMATON_AFFIXES + row.affix + number
        affix = abi.unpack("aegis_affix", rows.affixes[at.to_bytes(4, "little")])[0]
        same = all(
            int.from_bytes(text[word * 8 : word * 8 + 8], "little") & mask[word] == wanted[word]
            for text, mask, wanted in (
                (head, affix.prefix_mask, affix.prefix),
                (tail, affix.suffix_mask, affix.suffix),
            )
            for word in range(abi.AFFIX_BYTES // 8)
        )
        matched |= (same and len(name) >= affix.least) << number
    if not matched:
        return int(row.otherwise)
    return int.from_bytes(rows.branches[abi.pack("aegis_branch", state=state, matched=matched)], "little")


@pytest.mark.parametrize("slot", [0, 3])
def test_rows_walk_as_the_automata_do(slot: int) -> None:
    chance = random.Random(seed())
    made = compile_subjects(SUBJECTS)
    rows, *starts = rows_of(made, slot)
    assert made.cgroups is not None
    assert made.exes is not None
    for start, dimension in zip(starts, (made.cgroups, made.exes), strict=True):
        for _ in range(500):
            path = [chance.choice(WORDS).encode() for _ in range(chance.randint(0, 5))]
            state = start
            for name in path:
                state = step(rows, slot, state, name)
            expected = dimension.automaton.walk(path)
            if expected == 0:
                assert state == slot * abi.AUTOMATON_STATES, path
            else:
                row = abi.unpack("aegis_automaton_state", rows.states[state.to_bytes(4, "little")])[0]
                assert row.accepts == dimension.masks[expected], path


def test_slots_share_no_row() -> None:
    made = compile_subjects(SUBJECTS)
    one, other = rows_of(made, 1)[0], rows_of(made, 2)[0]
    for table in ("states", "affixes", "edges", "branches", "users"):
        assert getattr(one, table).keys() & getattr(other, table).keys() == set()
        assert len(getattr(one, table)) == len(getattr(other, table)) > 0


def test_the_dead_row_is_what_no_control_group_pattern_matches() -> None:
    made = compile_subjects(SUBJECTS)
    assert made.cgroups is not None
    row = abi.unpack("aegis_automaton_state", rows_of(made, 2)[0].states[(2 * 2048).to_bytes(4, "little")])[0]
    assert (row.accepts, row.otherwise) == (made.cgroups.base, 2 * 2048)


def test_no_room() -> None:
    many = tuple(f"/a{number}/b/c/d" for number in range(700))
    with pytest.raises(PolicyUnenforceable, match="states"):
        rows_of(compile_subjects([Subject(cgroup=many, exe=many)]), 0)
    globs = tuple(f"/p{number}/x{number}*" for number in range(300))
    with pytest.raises(PolicyUnenforceable, match="globs"):
        rows_of(compile_subjects([Subject(cgroup=globs)]), 0)
