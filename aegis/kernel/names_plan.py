"""From the selectors of a policy set to the automaton the kernel walks names with, label by label from the right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from aegis.errors import PolicyUnenforceable
from aegis.kernel import abi
from aegis.kernel.automaton import ANY, BELOW, Automaton, Glob, Pattern, Step, build, glob_of
from aegis.model.policy_selectors import NameSelector

LIMITS: Final = abi.enum("aegis_names_limits")
STATES: Final = LIMITS["AEGIS_NAME_STATES"]
AFFIXES: Final = LIMITS["AEGIS_NAME_AFFIXES"]
LABEL: Final = 64
PATH: Final = "toFQDNs"

Rows = Iterator[tuple[str, bytes, bytes]]  # table, key, value


def pattern_of(selector: NameSelector) -> Pattern:
    """The selector as a row of labels from the right."""
    labels = selector.text.split(".")
    if not selector.pattern:
        return tuple(Step(Glob(label.encode())) for label in reversed(labels))
    if selector.text == "*":
        return (Step(ANY), BELOW)
    below = labels[0] == "**"
    steps = tuple(Step(glob_of(label.encode(), PATH)) for label in reversed(labels[below:]))
    return (*steps, Step(ANY), BELOW) if below else steps


def build_names(selectors: Sequence[NameSelector]) -> Automaton:
    """The automaton of all selectors; the bit of each is its place. Raises PolicyUnenforceable."""
    automaton = build([pattern_of(each) for each in selectors], PATH, most=STATES)
    count = sum(len(state.affixes) for state in automaton.states)
    if count > AFFIXES:
        raise PolicyUnenforceable(PATH, f"labels with * need {count} places, {AFFIXES} are there")
    return automaton


def accepted(automaton: Automaton) -> frozenset[int]:
    """The sets of selectors some name matches, as bits; the empty one is not among them."""
    return frozenset(state.accepts for state in automaton.states) - {0}


def selectors_of(bits: int, selectors: Sequence[NameSelector]) -> frozenset[NameSelector]:
    return frozenset(each for place, each in enumerate(selectors) if bits >> place & 1)


def class_table(
    sets: Mapping[int, frozenset[NameSelector]], selectors: Sequence[NameSelector]
) -> tuple[tuple[int, ...], ...]:
    """Of each class from number 1 on the ascending numbers of those of its selectors that are among `selectors`.

    A class of an earlier policy goes on standing for what both have in common.
    """
    places = {each: place for place, each in enumerate(selectors)}
    table = {
        number: tuple(sorted(places[each] for each in one if each in places)) for number, one in sets.items()
    }
    last = max((number for number, found in table.items() if found), default=0)
    return tuple(table.get(number, ()) for number in range(1, last + 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class NamePlan:
    """What a policy set says about names, ready for a slot of the kernel.

    `classes`: number of the class by the bits of the selectors. `table`: see `class_table`; the image's compiler takes it.
    """

    automaton: Automaton
    classes: Mapping[int, int]
    table: tuple[tuple[int, ...], ...]
    exact: tuple[str, ...] = ()  # names that are written out

    @property
    def root(self) -> int:
        """The state to begin in, within the slot; 0: no name is of interest."""
        return self.automaton.start if self.classes else 0

    def class_of(self, name: str) -> int:
        """The class of a name, given in any case, with or without the final dot; 0: of no interest."""
        labels = name.lower().removesuffix(".").encode("ascii", "replace").split(b".")
        return self.classes.get(self.automaton.states[self.automaton.walk(reversed(labels))].accepts, 0)

    def rows(self, slot: int) -> Rows:
        """Every row of the kernel's tables for a slot."""
        base = slot * STATES
        affix = slot * AFFIXES
        for number, state in enumerate(self.automaton.states):
            here = _u32(base + number)
            for label, following in state.exact.items():
                key = abi.pack("aegis_name_edge", state=base + number, size=len(label), label=_words(label))
                yield "aegis_name_edges", key, _u32(base + following)
            for matched, following in state.branches.items():
                key = abi.pack("aegis_name_branch", state=base + number, matched=matched)
                yield "aegis_name_branches", key, _u32(base + following)
            for place, glob in enumerate(state.affixes):
                yield "aegis_name_affixes", _u32(affix + place), affix_row(glob)
            yield (
                "aegis_name_states",
                here,
                abi.pack(
                    "aegis_name_state",
                    otherwise=base + state.otherwise,
                    class_=self.classes.get(state.accepts, 0),
                    affix=affix,
                    affix_count=len(state.affixes),
                ),
            )
            affix += len(state.affixes)


def affix_row(glob: Glob) -> bytes:
    """The bytes of `struct aegis_name_affix`."""
    return abi.pack(
        "aegis_name_affix",
        prefix=_words(glob.prefix),
        prefix_mask=_words(b"\xff" * len(glob.prefix)),
        suffix=_words(glob.suffix.rjust(LABEL, b"\0")),
        suffix_mask=_words((b"\xff" * len(glob.suffix)).rjust(LABEL, b"\0")),
        least=len(glob.prefix) + len(glob.suffix),
    )


def _words(label: bytes) -> list[int]:
    padded = label.ljust(LABEL, b"\0")
    return [int.from_bytes(padded[at : at + 8], "little") for at in range(0, LABEL, 8)]


def _u32(number: int) -> bytes:
    return number.to_bytes(4, "little")
