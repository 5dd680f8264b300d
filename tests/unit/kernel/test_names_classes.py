from __future__ import annotations

from collections.abc import Iterator

import pytest

from aegis.errors import PolicyUnenforceable
from aegis.kernel import names_classes
from aegis.kernel.names_classes import NameClasses, digest
from aegis.model.policy_selectors import NameSelector

A, B, C, D = (frozenset({NameSelector(f"{letter}.test")}) for letter in "abcd")


class Table:
    """The kernel's array, in memory."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}

    def update(self, key: bytes, value: bytes) -> None:
        self.rows[key] = value

    def items_batch(self) -> Iterator[tuple[bytes, bytes]]:
        yield from self.rows.items()


def opened(table: Table) -> NameClasses:
    return NameClasses(table)  # type: ignore[arg-type]


def nothing() -> list[int]:
    raise AssertionError("there is room: nobody need look")


def test_numbers_from_one_on_and_the_same_again() -> None:
    table = Table()
    classes = opened(table)
    assert classes.number_all([A, B], nothing) == {A: 1, B: 2}
    assert classes.number_all([C, B], nothing) == {C: 3, B: 2}
    assert opened(table).number_all([D, C], nothing) == {D: 4, C: 3}
    assert classes.sets() == {1: A, 2: B, 3: C}


def test_a_set_is_no_list() -> None:
    one, other = NameSelector("a.test"), NameSelector("b.test")
    assert digest({one, other}) == digest([other, one])
    assert (
        len({digest([one]), digest([other]), digest([one, other]), digest([NameSelector("a.test", True)])})
        == 4
    )


def test_what_nobody_refers_to_is_given_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names_classes, "MOST", 3)
    table = Table()
    classes = opened(table)
    classes.number_all([A, B, C], nothing)
    assert classes.number_all([D, A], lambda: [3]) == {D: 2, A: 1}
    assert classes.sets() == {1: A, 2: D, 3: C}
    with pytest.raises(PolicyUnenforceable, match="more than 3 kinds"):
        classes.number_all([B], lambda: [1, 2, 3])
    assert opened(table).number_all([C], nothing) == {C: 3}
