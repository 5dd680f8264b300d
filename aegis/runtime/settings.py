"""One configuration option, and the settings of one table as its reader sees them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import msgspec

Value = bool | int | float | str | tuple[str, ...] | None
Kind = Literal["bool", "int", "float", "str", "list"]


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the option table. In a module's config.py `name` is relative to `modules.NAME`.

    `kind` is what a file may hold: bool, int, float (an int passes), str, list (of strings). `minimum` and `maximum`
    bound numbers, both inclusive; `choices` bounds strings, or `wrong` gives the sentence for one that cannot be.
    `default` None: decided at start, as `help` says.
    `reload` is `live` when a changed value is taken at SIGHUP, `restart` when the next start takes it.
    """

    name: str
    kind: Kind
    default: Value
    help: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    wrong: Callable[[str], str | None] | None = None
    reload: Literal["live", "restart"] = "restart"

    def problem(self, value: object) -> str | None:
        """Why `value` cannot be this option's, in a sentence without a full stop; None when it can."""
        if self.kind == "bool":
            return None if isinstance(value, bool) else f"must be true or false, not {_shown(value)}"
        if self.kind in {"int", "float"}:
            allowed = int if self.kind == "int" else (int, float)
            if isinstance(value, bool) or not isinstance(value, allowed):
                noun = "a whole number" if self.kind == "int" else "a number"
                return f"must be {noun}, not {_shown(value)}"
            return self._out_of_range(value)
        if self.kind == "list":
            if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
                return f"must be a list of strings, not {_shown(value)}"
            return None
        if not isinstance(value, str):
            return f"must be a string, not {_shown(value)}"
        if self.choices and value not in self.choices:
            return f"must be one of {', '.join(self.choices)}, not {value!r}"
        return self.wrong(value) if self.wrong is not None else None

    def _out_of_range(self, value: float) -> str | None:
        if value != value:  # noqa: PLR0124  TOML has nan, and nan passes every comparison below
            return "must be a number, not nan"
        if self.minimum is not None and value < self.minimum:
            return f"must be at least {self.minimum:g}, not {value}"
        if self.maximum is not None and value > self.maximum:
            return f"must be at most {self.maximum:g}, not {value}"
        return None


def _shown(value: object) -> str:
    names = {
        bool: "a boolean",
        int: "an integer",
        float: "a float",
        str: "a string",
        list: "a list",
        dict: "a table",
    }
    noun = names.get(type(value), f"a {type(value).__name__}")
    return noun if isinstance(value, dict | list) else f"{noun} ({value!r})"


class Settings:
    """The values of one table (`kernel`, `modules.telemetry`), by option name below it.

    Reading a name that the table does not have, or by another kind, is a bug and raises LookupError or TypeError.
    """

    __slots__ = ("_values", "table")

    def __init__(self, table: str, values: Mapping[str, Value]) -> None:
        self.table = table
        self._values = dict(values)

    def __getitem__(self, name: str) -> Value:
        try:
            return self._values[name]
        except KeyError:
            raise LookupError(f"no option {self.table}.{name}") from None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Settings):
            return NotImplemented
        return self.table == other.table and self._values == other._values

    def __hash__(self) -> int:
        return hash((self.table, tuple(sorted(self._values))))

    def names(self) -> Iterable[str]:
        return self._values.keys()

    def boolean(self, name: str) -> bool:
        value = self[name]
        if isinstance(value, bool):
            return value
        raise TypeError(f"{self.table}.{name} is no boolean")

    def integer(self, name: str) -> int:
        value = self[name]
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        raise TypeError(f"{self.table}.{name} is no integer")

    def number(self, name: str) -> float:
        value = self[name]
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        raise TypeError(f"{self.table}.{name} is no number")

    def text(self, name: str) -> str:
        value = self[name]
        if isinstance(value, str):
            return value
        raise TypeError(f"{self.table}.{name} is no string")

    def texts(self, name: str) -> tuple[str, ...]:
        value = self[name]
        if isinstance(value, tuple):
            return value
        raise TypeError(f"{self.table}.{name} is no list")
