"""Conservation identities: for each stage the terms, and whether they add up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import msgspec


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """One stage as read now. `identity` is what must hold of `terms`, `balanced` whether it does."""

    stage: str
    identity: str
    terms: dict[str, int]
    balanced: bool


Read = Callable[[], Mapping[str, Mapping[str, int]]]


def relations(identity: str) -> tuple[tuple[tuple[tuple[str, ...], ...], str], ...]:
    """Each `;`-separated relation as its sides, in terms, and the sign between them: `=` or `<=`.

    `a = b + c; d <= e` is (((("a",), ("b", "c")), "="), ((("d",), ("e",)), "<=")). A relation has one kind of sign.
    """
    found = []
    for relation in identity.split(";"):
        sign = "<=" if "<=" in relation else "="
        sides = tuple(tuple(term.strip() for term in side.split("+")) for side in relation.split(sign))
        found.append((sides, sign))
    return tuple(found)


def balanced(identity: str, terms: Mapping[str, int]) -> bool:
    """Whether the sums of the sides stand as the signs say. A term nobody read is a bug: KeyError."""
    for sides, sign in relations(identity):
        sums = [sum(terms[name] for name in side) for side in sides]
        if sorted(sums) != sums or (sign == "=" and len(set(sums)) != 1):
            return False
    return True


class Counters:
    """What has been registered; `read` reads all of it now, in the order of registration."""

    def __init__(self) -> None:
        self._stages: list[tuple[str, Read]] = []

    @contextmanager
    def count(self, identity: str, read: Read) -> Iterator[None]:
        """Add stages until the context ends: `read` gives the terms of each stage; all obey one identity."""
        entry = (identity, read)
        self._stages.append(entry)
        try:
            yield
        finally:
            self._stages.remove(entry)

    def read(self) -> tuple[Identity, ...]:
        return tuple(
            Identity(stage=stage, identity=identity, terms=dict(terms), balanced=balanced(identity, terms))
            for identity, read in tuple(self._stages)
            for stage, terms in read().items()
        )
