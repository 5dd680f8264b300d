"""Statements that are made often, as text with the driver's own placeholders.

SQLAlchemy builds and looks up a statement in the time in which SQLite runs ten; so each of these is compiled once.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa


def insert(table: sa.Table, names: Sequence[str], dialect: sa.Dialect) -> str:
    """`INSERT INTO table (...) VALUES (...)`; parameters in the order of `names`."""
    ordered = sa.table(table.name, *(sa.column(name) for name in names))
    return str(ordered.insert().compile(dialect=dialect, column_keys=list(names)))


def upsert(table: sa.Table, names: Sequence[str], on: Sequence[str], change: str, dialect: sa.Dialect) -> str:
    """The same, and what to do where a row with those `on` is there."""
    return f"{insert(table, names, dialect)} ON CONFLICT ({', '.join(on)}) DO {change}"


def taking(names: Sequence[str]) -> str:
    """`UPDATE SET a = excluded.a, ...`."""
    return "UPDATE SET " + ", ".join(f"{name} = excluded.{name}" for name in names)


def update(table: sa.Table, values: dict[str, str], key: str, dialect: sa.Dialect) -> str:
    """`UPDATE table SET name = expression ... WHERE key = ?`; `?` in an expression is a parameter, in order.

    Expressions are ours, never somebody's text.
    """
    placeholder = insert(table, [key], dialect).partition("VALUES (")[2].rstrip(")")
    sets = ", ".join(f"{name} = {expression}" for name, expression in values.items())
    text = f"UPDATE {table.name} SET {sets} WHERE {key} = ?"  # noqa: S608  all of it is written in this room
    return text.replace("?", placeholder)
