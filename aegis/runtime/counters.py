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


def equations(identity: str) -> tuple[tuple[tuple[str, ...], ...], ...]:
    """`a = b + c; d = e` as (((a,), (b, c)), ((d,), (e,))). Each equation may have several sides."""
    return tuple(
        tuple(tuple(term.strip() for term in side.split("+")) for side in equation.split("="))
        for equation in identity.split(";")
    )


def balanced(identity: str, terms: Mapping[str, int]) -> bool:
    """Whether every side of every equation has the same sum. A term nobody read is a bug: KeyError."""
    return all(
        len({sum(terms[name] for name in side) for side in sides}) == 1 for sides in equations(identity)
    )


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
