"""Who owns a flow: asked of the module that watches processes, while one does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aegis.model.flow import Owner

LookUp = Callable[[int], "Owner | None"]


class Owners:
    """Fulfils `runtime.module.Owners`. The newest provider answers."""

    def __init__(self) -> None:
        self._providers: list[LookUp] = []

    @property
    def provided(self) -> bool:
        return bool(self._providers)

    @contextmanager
    def provide(self, look_up: LookUp) -> Iterator[None]:
        self._providers.append(look_up)
        try:
            yield
        finally:
            self._providers.remove(look_up)

    def find(self, owner: int) -> Owner | None:
        return self._providers[-1](owner) if self._providers else None
