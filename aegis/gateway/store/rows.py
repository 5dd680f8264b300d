"""Agents, messages and nonces: statements of SQLAlchemy Core inside the caller's transaction."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from aegis.gateway.store.base import CLASSES, AgentRow, Cursor, MessageChange, MessageRow
from aegis.gateway.store.statements import insert, taking, update, upsert
from aegis.gateway.store.tables import agents, cursors, messages, nonces

_asdict = msgspec.structs.asdict
_astuple = msgspec.structs.astuple
_MESSAGE_COLUMNS = [getattr(messages.c, name) for name in MessageRow.__struct_fields__]
_AGENT_COLUMNS = [getattr(agents.c, name) for name in AgentRow.__struct_fields__]


def all_agents(connection: sa.Connection) -> list[AgentRow]:
    rows = connection.execute(sa.select(*_AGENT_COLUMNS).order_by(agents.c.number)).mappings()
    return [AgentRow(**{**row, "labels": tuple(json.loads(row["labels"]))}) for row in rows]


class RowStatements:
    """What is written often; belongs to the writer."""

    def __init__(self, dialect: sa.Dialect) -> None:
        names = AgentRow.__struct_fields__
        kept = {"uid", "key", "created_ns"}
        self._save_agent = upsert(
            agents, names, ["key"], taking([name for name in names if name not in kept]), dialect
        )
        self._save_seen = update(agents, {"last_seen_ns": "?"}, "uid", dialect)
        self._add_message = insert(messages, MessageRow.__struct_fields__, dialect)
        self._change_message = update(
            messages,
            {
                # An answer is final: what is told of the message later, that it was sent, does not take it back.
                "status": "CASE WHEN status = 'answered' THEN status ELSE ? END",
                "error": "?",
                "sent_ns": "COALESCE(sent_ns, ?)",
                "answered_ns": "COALESCE(answered_ns, ?)",
                "answer": "COALESCE(answer, ?)",
            },
            "id",
            dialect,
        )

    def save_agent(self, connection: sa.Connection, row: AgentRow) -> None:
        values = tuple(
            json.dumps(value) if name == "labels" else value for name, value in _asdict(row).items()
        )
        connection.exec_driver_sql(self._save_agent, values)

    def save_seen(self, connection: sa.Connection, seen: Sequence[tuple[str, int]]) -> None:
        if seen:
            connection.exec_driver_sql(self._save_seen, [(instant, uid) for uid, instant in seen])

    def add_messages(self, connection: sa.Connection, rows: Sequence[MessageRow]) -> None:
        if rows:
            connection.exec_driver_sql(self._add_message, [_astuple(row) for row in rows])

    def change_messages(self, connection: sa.Connection, changes: Sequence[MessageChange]) -> None:
        if changes:
            connection.exec_driver_sql(
                self._change_message,
                [
                    (each.status, each.error, each.sent_ns, each.answered_ns, each.answer, each.id)
                    for each in changes
                ],
            )


def agent_cursors(connection: sa.Connection, uid: str) -> list[Cursor]:
    selected = (
        sa.select(cursors.c.boot_id, cursors.c.stream, cursors.c.cls, cursors.c.next)
        .join_from(cursors, agents, agents.c.number == cursors.c.agent)
        .where(agents.c.uid == uid)
        .order_by(cursors.c.boot_id, cursors.c.stream, cursors.c.cls)
    )
    return [
        Cursor(boot_id=boot_id, stream=stream, cls=CLASSES[cls], next=following)
        for boot_id, stream, cls, following in connection.execute(selected)
    ]


def one_message(connection: sa.Connection, message_id: str) -> MessageRow | None:
    selected = sa.select(*_MESSAGE_COLUMNS).where(messages.c.id == message_id)
    row = connection.execute(selected).mappings().first()
    return None if row is None else _message(row)


def waiting_messages(connection: sa.Connection) -> list[MessageRow]:
    selected = (
        sa.select(*_MESSAGE_COLUMNS)
        .where(messages.c.status == sa.literal_column("'queued'"))
        .order_by(messages.c.created_ns, messages.c.id)
    )
    return [_message(row) for row in connection.execute(selected).mappings()]


def prune_messages(connection: sa.Connection, before_ns: int, most: int) -> int:
    old = (
        sa.select(messages.c.id)
        .where(messages.c.created_ns < before_ns, messages.c.status != "queued")
        .order_by(messages.c.created_ns)
        .limit(most)
    )
    return connection.execute(sa.delete(messages).where(messages.c.id.in_(old))).rowcount


def save_nonces(connection: sa.Connection, new: Iterable[tuple[bytes, int]], now_s: int) -> None:
    connection.execute(sa.delete(nonces).where(nonces.c.forget_s < now_s))
    parameters = [{"digest": digest, "forget_s": forget_s} for digest, forget_s in new]
    if parameters:
        # A nonce that is kept already stays: the same authentication cannot be accepted twice.
        ignoring = {"sqlite": "OR IGNORE"}.get(connection.dialect.name, "")
        connection.execute(sa.insert(nonces).prefix_with(ignoring), parameters)


def all_nonces(connection: sa.Connection) -> list[tuple[bytes, int]]:
    return [(bytes(digest), forget_s) for digest, forget_s in connection.execute(sa.select(nonces))]


def _message(row: Any) -> MessageRow:
    return MessageRow(**row)
