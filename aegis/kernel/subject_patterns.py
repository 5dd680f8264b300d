"""Subjects of policies as patterns over components, one automaton for control groups and one for executables.

A control group's path is read from the root. `cgroup: /a/b*` means that control group and all below it. `unit:` means
what the system's service manager would: the unit stands below slices only, and what it makes below itself stays part of
it. So nobody who may make control groups of his own (a user's manager, a container) can make one that passes for a unit
of the system.

An executable's path is read from the file's own name to the root, so that nearly all others are done after one step. `*`
stands for any characters of one component, `**` for any number of components.
"""

from __future__ import annotations

import pwd
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from aegis.errors import PolicyUnenforceable
from aegis.kernel import abi
from aegis.kernel.automaton import BELOW, Automaton, Pattern, Step, build, glob_of
from aegis.model.policy_selectors import Subject

EVERYBODY: Final = 1
MOST_SUBJECTS: Final = 63
UNIT_SUFFIXES: Final = (".service", ".scope", ".slice", ".socket", ".mount", ".swap")
_SLICES: Final = Step(glob_of(b"*.slice", "unit"), repeated=True)
_LONGEST_NAME: Final = 255

Users = Callable[[str], Iterable[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimension:
    """An automaton and the mask of subjects of each of its states; `base` is of what no pattern matches."""

    automaton: Automaton
    masks: tuple[int, ...]
    base: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledSubjects:
    """What the kernel is to ask. A dimension that no subject has is None. `users` has the masks of users some subject names."""

    subjects: int  # bits of all, with that of everybody; 0: none
    cgroups: Dimension | None
    exes: Dimension | None
    users: dict[int, int] | None
    user_base: int
    receives: bool  # there are rules about what subjects receive

    def mask(self, cgroup: Sequence[bytes], exe: Sequence[bytes], uid: int) -> int:
        """The subject mask by the kernel's own steps. `cgroup` from the root, `exe` from the file's own name."""
        if not self.subjects:
            return EVERYBODY
        found = self.subjects
        for dimension, path in ((self.cgroups, cgroup), (self.exes, exe)):
            if dimension is not None:
                found &= dimension.masks[dimension.automaton.walk(path)]
        if self.users is not None:
            found &= self.users.get(uid, self.user_base)
        return found | EVERYBODY


def users_of(pattern: str) -> Iterable[int]:
    """The ids of a user by name, number or glob, as the host's data base has them now."""
    if pattern.isdecimal():
        return (int(pattern),)
    if "*" in pattern:
        return tuple(entry.pw_uid for entry in pwd.getpwall() if fnmatchcase(entry.pw_name, pattern))
    try:
        return (pwd.getpwnam(pattern).pw_uid,)
    except KeyError:
        return ()


def compile_subjects(
    subjects: Sequence[Subject], *, users: Users = users_of, receives: bool = True
) -> CompiledSubjects:
    """Subject n gets bit n + 1. `receives`: whether rules are about what they receive, too.

    PolicyUnenforceable where the kernel cannot hold it.
    """
    if len(subjects) > MOST_SUBJECTS:
        raise PolicyUnenforceable(
            "spec.subject", f"{len(subjects)} different subjects, the kernel tells {MOST_SUBJECTS} apart"
        )
    everyone = (1 << (len(subjects) + 1)) - 1
    by_cgroup = [(_cgroups(each.cgroup), _units(each.unit)) for each in subjects]
    by_exe = [(_exes(each.exe),) for each in subjects]
    by_user: dict[int, int] = {}
    user_base = everyone
    for number, subject in enumerate(subjects):
        if subject.user:
            user_base &= ~(2 << number)
            for uid in {uid for pattern in subject.user for uid in users(pattern)}:
                by_user[uid] = by_user.get(uid, 0) | 2 << number
    return CompiledSubjects(
        subjects=everyone if subjects else 0,
        cgroups=_dimension(by_cgroup, everyone, "spec.subject.cgroup"),
        exes=_dimension(by_exe, everyone, "spec.subject.exe"),
        users={uid: mask | user_base for uid, mask in by_user.items()} if user_base != everyone else None,
        user_base=user_base,
        receives=receives and bool(subjects),
    )


def _dimension(
    groups: Sequence[tuple[tuple[Pattern, ...], ...]], everyone: int, path: str
) -> Dimension | None:
    """`groups`: of each subject rows of patterns; it matches where one pattern of each row that is not empty does."""
    patterns = sorted({pattern for rows in groups for row in rows for pattern in row})
    if not patterns:
        return None
    bits = {pattern: 1 << number for number, pattern in enumerate(patterns)}
    wanted = [[sum(bits[each] for each in row) for row in rows if row] for rows in groups]
    automaton = build(patterns, path)

    def mask(accepts: int) -> int:
        hit = (2 << number for number, rows in enumerate(wanted) if all(row & accepts for row in rows))
        return (EVERYBODY | sum(hit)) & everyone

    return Dimension(
        automaton=automaton, masks=tuple(mask(state.accepts) for state in automaton.states), base=mask(0)
    )


def _cgroups(patterns: Iterable[str]) -> tuple[Pattern, ...]:
    return tuple((*_components(text, "spec.subject.cgroup"), BELOW) for text in patterns)


def _units(patterns: Iterable[str]) -> tuple[Pattern, ...]:
    where = "spec.subject.unit"
    found = []
    for text in patterns:
        if "/" in text or not text.endswith(UNIT_SUFFIXES):
            raise PolicyUnenforceable(where, f"{text!r}: a unit's name ends in {', '.join(UNIT_SUFFIXES)}")
        found.append((_SLICES, _step(text.encode(), where), BELOW))
    return tuple(found)


def _exes(patterns: Iterable[str]) -> tuple[Pattern, ...]:
    return tuple(tuple(reversed(_components(text, "spec.subject.exe"))) for text in patterns)


def _components(text: str, where: str) -> tuple[Step, ...]:
    parts = text.encode(errors="surrogateescape").split(b"/")
    if parts[0] or (len(parts) > 1 and not parts[-1] and text != "/"):
        raise PolicyUnenforceable(where, f"{text!r}: a path begins with / and does not end with it")
    if any(part in {b"", b".", b".."} for part in parts[1:]) and text != "/":
        raise PolicyUnenforceable(where, f"{text!r}: a part of the path is empty, . or ..")
    return tuple(_step(part, where) for part in parts[1:] if part)


def _step(part: bytes, where: str) -> Step:
    if part == b"**":
        return BELOW
    glob = glob_of(part, where)
    ends = max(len(glob.prefix), len(glob.suffix))
    longest = abi.AFFIX_BYTES if glob.open else abi.COMPONENT_BYTES
    if ends > longest:
        shown = part.decode(errors="replace")
        what = "before or after a *" if glob.open else "in one component"
        raise PolicyUnenforceable(where, f"{shown!r}: more than {longest} bytes {what}")
    return Step(glob)
