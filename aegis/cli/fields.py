"""Which fields a row can have, from the model itself; imported only where the user names one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import click

Kind = Literal["event", "flow"]


def known_fields(kind: Kind) -> frozenset[str]:
    """Every key of the JSON objects of that kind, of all types of event."""
    from msgspec import structs

    found = {"schema", "agent_uid"}  # the second: of a gateway's rows
    for document in _documents(kind):
        found |= {field.encode_name for field in structs.fields(document)}
    return frozenset(found)


def _documents(kind: Kind) -> Iterable[Any]:
    if kind == "flow":
        from aegis.model.flow import Flow

        return (Flow,)
    from aegis.model.event import Document

    found: list[Any] = [Document]
    for document in found:  # grows while it is walked
        found += document.__subclasses__()
    return found


def refuse_unknown(name: str, known: frozenset[str]) -> None:
    """UsageError that names the known fields; what only says why another is absent is known, but not listed."""
    if name not in known:
        listed = ", ".join(sorted(field for field in known if not field.endswith("_reason")))
        raise click.UsageError(f"unknown field {name!r}; known: {listed}")


def check_fields(kind: Kind, names: Iterable[str], filters: Iterable[str]) -> None:
    """Refuse a field no row of that kind has, named alone or in a filter. Nothing is imported where none is named."""
    from aegis.cli.selection import parse_filter

    chosen, expressions = tuple(names), tuple(filters)
    if not chosen and not expressions:
        return
    known = known_fields(kind)
    for name in chosen:
        refuse_unknown(name, known)
    for expression in expressions:
        parse_filter(expression, known)
