"""Numbers of name classes: what an address stands for, told by a number that keeps its meaning.

A class is the set of selectors (entries of toFQDNs) that a name matches. Addresses keep their classes over changes of
the policy and over restarts of the agent, so a number belongs to one set for as long as anything in the kernel refers
to it; the table beside the addresses holds a digest of each number's set.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable
from typing import Final

from aegis.errors import PolicyUnenforceable
from aegis.kernel import abi
from aegis.kernel.maps import Map
from aegis.model.policy_selectors import NameSelector

MOST: Final = abi.enum("aegis_names_limits")["AEGIS_NAME_CLASSES"] - 1
_NOTHING: Final = bytes(16)


def digest(selectors: Collection[NameSelector]) -> bytes:
    """What tells one set of selectors from every other."""
    lines = sorted(f"{'~' if each.pattern else '='}{each.text}\n" for each in selectors)
    return hashlib.sha256("".join(lines).encode()).digest()[:16]


class NameClasses:
    """The numbers in use. Borrows the table."""

    def __init__(self, table: Map) -> None:
        self._table = table
        self._numbers = {
            value: int.from_bytes(key, "little") for key, value in table.items_batch() if value != _NOTHING
        }
        self._sets: dict[int, frozenset[NameSelector]] = {}

    def sets(self) -> dict[int, frozenset[NameSelector]]:
        """What the numbers stand for that this process has met: addresses may still have those of an earlier policy."""
        return dict(self._sets)

    def number_all(
        self, sets: Iterable[frozenset[NameSelector]], in_use: Callable[[], Collection[int]]
    ) -> dict[frozenset[NameSelector], int]:
        """A number for each set, new ones where needed. When none is free, `in_use` tells which are still referred to.

        Raises PolicyUnenforceable when there are more sets than numbers.
        """
        found: dict[frozenset[NameSelector], int] = {}
        wanted = {each: digest(each) for each in sets}
        missing = [each for each, key in wanted.items() if key not in self._numbers]
        if len(self._numbers) + len(missing) > MOST:
            self._free(
                set(in_use()) | {self._numbers[key] for key in wanted.values() if key in self._numbers}
            )
            if len(self._numbers) + len(missing) > MOST:
                raise PolicyUnenforceable(
                    "toFQDNs", f"names of more than {MOST} kinds, told apart by which selectors match them"
                )
        taken = set(self._numbers.values())
        free = (number for number in range(1, MOST + 1) if number not in taken)
        for each in missing:
            number = next(free)
            self._table.update(number.to_bytes(4, "little"), wanted[each])
            self._numbers[wanted[each]] = number
        for each, key in wanted.items():
            found[each] = self._numbers[key]
            self._sets[self._numbers[key]] = each
        return found

    def _free(self, kept: set[int]) -> None:
        for key, number in list(self._numbers.items()):
            if number not in kept:
                self._table.update(number.to_bytes(4, "little"), _NOTHING)
                del self._numbers[key]
                self._sets.pop(number, None)
