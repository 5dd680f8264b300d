"""The table of conditions that hold now."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from aegis.model.health import Condition
from aegis.runtime.conditions import CONDITIONS

if TYPE_CHECKING:
    from aegis.runtime.module import Clock

_HINTS = {kind.code: kind.hint for kind in CONDITIONS}


class Conditions:
    """All current conditions, by who raised them. `changed` is called after each change with what to log."""

    def __init__(self, clock: Clock, changed: Callable[[str, Condition], None] | None = None) -> None:
        self._clock = clock
        self._held: dict[tuple[str, str], Condition] = {}
        self._changed = changed

    def raise_(self, source: str, code: str, text: str, hint: str = "") -> None:
        """An empty hint is the table's, where the table has the code."""
        before = self._held.get((source, code))
        condition = Condition(
            code=code,
            source=source,
            since_ns=before.since_ns if before else self._clock.wall_ns(),
            text=text,
            hint=hint or _HINTS.get(code, ""),
        )
        self._held[source, code] = condition
        if self._changed is not None and before is None:
            self._changed("raised", condition)

    def clear(self, source: str, code: str) -> None:
        before = self._held.pop((source, code), None)
        if before is not None and self._changed is not None:
            self._changed("cleared", before)

    def clear_all(self, source: str) -> None:
        for held_by, code in tuple(self._held):
            if held_by == source:
                self.clear(source, code)

    def of(self, source: str) -> tuple[Condition, ...]:
        return tuple(condition for (held_by, _), condition in self._held.items() if held_by == source)

    def all(self) -> tuple[Condition, ...]:
        """Oldest first."""
        return tuple(sorted(self._held.values(), key=lambda condition: condition.since_ns))

    def scoped(self, source: str) -> ScopedHealth:
        return ScopedHealth(self, source)


class ScopedHealth:
    """Fulfils `runtime.module.Health` in one source's name."""

    __slots__ = ("_conditions", "_source")

    def __init__(self, conditions: Conditions, source: str) -> None:
        self._conditions = conditions
        self._source = source

    def raise_(self, code: str, text: str, hint: str = "") -> None:
        self._conditions.raise_(self._source, code, text, hint)

    def clear(self, code: str) -> None:
        self._conditions.clear(self._source, code)

    def raised(self) -> tuple[str, ...]:
        return tuple(condition.code for condition in self._conditions.of(self._source))
