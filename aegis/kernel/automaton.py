"""Patterns over a row of components, built into one automaton: control groups from the root, names from the right,
executables from the file's own name up.

A pattern is a row of steps. A step matches one component, by its exact bytes or by a glob with at most one `*` (any
bytes, also none); a repeated step matches any number of components one after the other, also none. A row of components
is accepted by a pattern that matches all of it; one that ends in `BELOW` accepts what lies below, too.

The automaton is the product of all patterns, as the kernel walks it: (state, component) -> state, by the exact
component, else by which of the state's affixes match, else by what holds for any other component.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from aegis.errors import PolicyUnenforceable

DEAD: Final = 0  # the state in which nothing can match any more
STATES: Final = 2048  # of one automaton
AFFIXES: Final = 64  # different ones in a state: the kernel notes the matching ones as bits of a word


@dataclass(frozen=True, slots=True, order=True)
class Glob:
    """A component by its ends. Not `open`: exactly `prefix`, and `suffix` is empty."""

    prefix: bytes
    suffix: bytes = b""
    open: bool = False

    def matches(self, component: bytes) -> bool:
        if not self.open:
            return component == self.prefix
        return (
            len(component) >= len(self.prefix) + len(self.suffix)
            and component.startswith(self.prefix)
            and component.endswith(self.suffix)
        )


ANY: Final = Glob(b"", b"", open=True)


@dataclass(frozen=True, slots=True, order=True)
class Step:
    """One component, or with `repeated` any number of them."""

    glob: Glob
    repeated: bool = False


BELOW: Final = Step(ANY, repeated=True)

Pattern = tuple[Step, ...]
_Item = tuple[int, int]  # pattern, and how many of its steps are behind


def glob_of(text: bytes, path: str) -> Glob:
    """A component as it is written in a document. PolicyUnenforceable, naming `path`, for more than one `*`."""
    prefix, star, suffix = text.partition(b"*")
    if not star:
        return Glob(text)
    if b"*" in suffix:
        raise PolicyUnenforceable(
            path, f"{text.decode(errors='replace')!r}: more than one * between separators"
        )
    return Glob(prefix, suffix, open=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """`accepts`: a bit for each pattern that matches what was read. `branches`: next states by the bits of the matching
    `affixes`, at least one; `otherwise` where none matches."""

    accepts: int
    exact: dict[bytes, int]
    affixes: tuple[Glob, ...]
    branches: dict[int, int]
    otherwise: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Automaton:
    """`states[0]` is dead; `start` is where reading begins."""

    states: tuple[State, ...]
    start: int

    def step(self, state: int, component: bytes) -> int:
        """The next state, by the kernel's own steps."""
        here = self.states[state]
        if component in here.exact:
            return here.exact[component]
        matched = sum(1 << number for number, affix in enumerate(here.affixes) if affix.matches(component))
        return here.branches[matched] if matched else here.otherwise

    def walk(self, components: Iterable[bytes]) -> int:
        """The state after all components."""
        state = self.start
        for component in components:
            state = self.step(state, component)
        return state


def build(patterns: Sequence[Pattern], path: str = "subject", *, most: int = STATES) -> Automaton:
    """The product of the patterns; the bit of a pattern is its place. Deterministic.

    PolicyUnenforceable, naming `path`, where it has more than `most` states or AFFIXES affixes in one.
    """
    start = _closed(patterns, ((number, 0) for number in range(len(patterns))))
    numbers: dict[frozenset[_Item], int] = {frozenset(): DEAD}
    numbers.setdefault(start, len(numbers))
    found: list[frozenset[_Item]] = list(numbers)
    states: list[State] = []
    while len(states) < len(found):
        here = found[len(states)]

        def number_of(items: frozenset[_Item]) -> int:
            if items not in numbers:
                if len(found) >= most:
                    raise PolicyUnenforceable(
                        path, f"the patterns of all policies together need more than {most} states"
                    )
                numbers[items] = len(found)
                found.append(items)
            return numbers[items]

        globs = sorted({patterns[each][at].glob for each, at in here if at < len(patterns[each])})
        affixes = tuple(glob for glob in globs if glob.open and glob != ANY)
        if len(affixes) > AFFIXES:
            raise PolicyUnenforceable(path, f"more than {AFFIXES} patterns with * for one component")
        exact = {
            glob.prefix: number_of(
                _after(patterns, here, {each for each in globs if each.matches(glob.prefix)})
            )
            for glob in globs
            if not glob.open
        }
        branches: dict[int, int] = {}
        for matched in _combinations(affixes):
            chosen = {affix for number, affix in enumerate(affixes) if matched >> number & 1}
            branches[matched] = number_of(_after(patterns, here, chosen | {ANY}))
        states.append(
            State(
                accepts=sum(1 << each for each, at in here if at == len(patterns[each])),
                exact=exact,
                affixes=affixes,
                branches=branches,
                otherwise=number_of(_after(patterns, here, {ANY})),
            )
        )
    return Automaton(states=tuple(states), start=numbers[start])


def _closed(patterns: Sequence[Pattern], items: Iterable[_Item]) -> frozenset[_Item]:
    """With what is reached by leaving out repeated steps."""
    closed: set[_Item] = set()
    for number, first in items:
        at, steps = first, patterns[number]
        closed.add((number, at))
        while at < len(steps) and steps[at].repeated:
            at += 1
            closed.add((number, at))
    return frozenset(closed)


def _after(patterns: Sequence[Pattern], here: frozenset[_Item], matching: set[Glob]) -> frozenset[_Item]:
    """What is reached by a component that exactly the globs `matching` match."""
    return _closed(
        patterns,
        (
            (number, at if patterns[number][at].repeated else at + 1)
            for number, at in here
            if at < len(patterns[number]) and patterns[number][at].glob in matching
        ),
    )


@functools.lru_cache(maxsize=256)
def _combinations(affixes: tuple[Glob, ...]) -> tuple[int, ...]:
    """Every set of affixes, as bits, that some component matches exactly; not the empty one.

    What matches a component follows from the longest prefix and the longest suffix it has, and where these overlap
    from its length; so a component of each kind is tried.
    """
    used = {byte for affix in affixes for byte in affix.prefix + affix.suffix}
    filler = bytes([next((byte for byte in range(1, 256) if byte not in used), 0)])
    found: set[int] = set()
    for prefix in {affix.prefix for affix in affixes} | {b""}:
        for suffix in {affix.suffix for affix in affixes} | {b""}:
            witnesses = [prefix + filler + suffix, prefix + suffix]
            witnesses += [
                prefix + suffix[common:]
                for common in range(1, min(len(prefix), len(suffix)) + 1)
                if prefix.endswith(suffix[:common])
            ]
            for witness in witnesses:
                found.add(sum(1 << number for number, affix in enumerate(affixes) if affix.matches(witness)))
    return tuple(sorted(found - {0}))
