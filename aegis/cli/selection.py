"""Choosing rows and fields: one filter grammar for every command that lists.

A filter is `field OP value` with OP one of == != >= <= > < ~ !~ (regular expression); several
filters must all hold. A value compares as a number where both sides are numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import click

from aegis.cli.fields import refuse_unknown

Row = dict[str, Any]
Predicate = Callable[[Row], bool]

_OPERATOR = re.compile(r"^\s*([A-Za-z_][A-Za-z0-9_.]*)\s*(==|!=|>=|<=|!~|=|>|<|~)\s*(.*)$", re.DOTALL)
_ENVELOPE = ("schema", "version")


def value_at(row: Row, field: str) -> Any:
    """The value of a dotted field, None where any part is missing."""
    value: Any = row
    for part in field.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(part)
    return value


def _compare(left: Any, operator: str, right: str) -> bool:
    if operator in ("~", "!~"):
        found = left is not None and re.search(right, _text(left)) is not None
        return found if operator == "~" else not found
    if isinstance(left, bool) or left is None:
        same = _text(left) == right
        return {"==": same, "=": same, "!=": not same}.get(operator, False)
    if isinstance(left, int | float):
        try:
            number = float(right)
        except ValueError:
            return operator == "!="
        return {
            "==": left == number,
            "=": left == number,
            "!=": left != number,
            ">=": left >= number,
            "<=": left <= number,
            ">": left > number,
            "<": left < number,
        }[operator]
    text = _text(left)
    return {
        "==": text == right,
        "=": text == right,
        "!=": text != right,
        ">=": text >= right,
        "<=": text <= right,
        ">": text > right,
        "<": text < right,
    }[operator]


def _text(value: Any) -> str:
    if value is None:
        return ""
    if value is True or value is False:
        return "true" if value else "false"
    if isinstance(value, list):
        return " ".join(_text(part) for part in value)
    return str(value)


def parse_filter(expression: str, fields: frozenset[str] | None = None) -> Predicate:
    """A predicate of one filter expression; an unknown field is refused with the known ones."""
    match = _OPERATOR.match(expression)
    if match is None:
        raise click.UsageError(f"filter {expression!r} is not FIELD OP VALUE (==, !=, >=, <=, >, <, ~, !~)")
    field, operator, right = match.groups()
    if fields is not None:
        refuse_unknown(field, fields)
    if operator in ("~", "!~"):
        try:
            re.compile(right)
        except re.error as error:
            raise click.UsageError(f"filter {expression!r}: {error}") from error
    return lambda row: _compare(value_at(row, field), operator, right)


def parse_filters(expressions: Iterable[str], fields: frozenset[str] | None = None) -> Predicate:
    """All filters as one predicate."""
    predicates = [parse_filter(one, fields) for one in expressions]
    return lambda row: all(predicate(row) for predicate in predicates)


def pick(row: Row, fields: tuple[str, ...], excluded: tuple[str, ...]) -> Row:
    """The row with only the named fields (all where none is named) and without the excluded ones."""
    if fields:
        return {field: value_at(row, field) for field in fields}
    if excluded:
        return {key: value for key, value in row.items() if key not in excluded}
    return row


def split_names(values: Iterable[str]) -> tuple[str, ...]:
    """Names given as repeated options or separated by commas."""
    return tuple(name.strip() for value in values for name in value.split(",") if name.strip())


def displayed(row: Row) -> list[str]:
    """The fields a table shows when none is named: all but the envelope."""
    return [key for key in row if key not in _ENVELOPE and not key.endswith("_reason")]
