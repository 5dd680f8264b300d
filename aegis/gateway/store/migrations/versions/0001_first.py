"""The first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_number = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_WAITING = sa.text("status = 'queued'")


def upgrade() -> None:
    _agents()
    _items()
    _messages()


def _agents() -> None:
    op.create_table(
        "agents",
        sa.Column("number", _number, primary_key=True, autoincrement=True),
        sa.Column("uid", sa.Text, nullable=False, unique=True),
        sa.Column("key", sa.LargeBinary, nullable=False, unique=True),
        *(
            sa.Column(name, sa.Text, nullable=False)
            for name in (
                "agent_id",
                "host_id",
                "org_id",
                "version",
                "machine_id_hash",
                "capabilities",
                "platform",
                "network",
                "labels",
                "note",
            )
        ),
        sa.Column("created_ns", sa.BigInteger, nullable=False),
        sa.Column("last_seen_ns", sa.BigInteger, nullable=False),
        sa.Column("floor", sa.SmallInteger, nullable=False),
    )
    op.create_table(
        "nonces",
        sa.Column("digest", sa.LargeBinary, primary_key=True),
        sa.Column("forget_s", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("nonces_by_age", "nonces", ["forget_s"])


def _items() -> None:
    op.create_table(
        "cursors",
        sa.Column("agent", _number, primary_key=True),
        sa.Column("boot_id", sa.Text, primary_key=True),
        sa.Column("stream", sa.BigInteger, primary_key=True),
        sa.Column("cls", sa.SmallInteger, primary_key=True),
        sa.Column("next", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "batches",
        sa.Column("id", _number, primary_key=True, autoincrement=True),
        sa.Column("cls", sa.SmallInteger, nullable=False),
        sa.Column("agent", _number, nullable=False),
        sa.Column("stream", sa.BigInteger, nullable=False),
        sa.Column("first", sa.BigInteger, nullable=False),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("boot_id", sa.Text, nullable=False),
        sa.Column("oldest_ns", sa.BigInteger, nullable=False),
        sa.Column("newest_ns", sa.BigInteger, nullable=False),
        sa.Column("received_ns", sa.BigInteger, nullable=False),
        sa.Column("types", sa.BigInteger, nullable=False),
        sa.Column("bytes", sa.Integer, nullable=False),
        sa.Column("items", sa.LargeBinary, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("batches_by_time", "batches", ["cls", "newest_ns", "oldest_ns", "types"])
    op.create_index("batches_by_agent", "batches", ["agent", "cls", "newest_ns", "oldest_ns", "types"])
    op.create_index("batches_by_arrival", "batches", ["cls", "id"])
    op.create_table(
        "batch_keys",
        sa.Column("kind", sa.SmallInteger, primary_key=True),
        sa.Column("value", sa.Text, primary_key=True),
        sa.Column("newest_ns", sa.BigInteger, primary_key=True),
        sa.Column("batch", _number, primary_key=True),
        sqlite_with_rowid=False,
    )
    op.create_index("batch_keys_by_batch", "batch_keys", ["batch"])
    op.create_table(
        "totals",
        sa.Column("cls", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("items", sa.BigInteger, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
    )


def _messages() -> None:
    op.create_table(
        "messages",
        sa.Column("id", sa.Text, primary_key=True),
        *(
            sa.Column(name, sa.Text, nullable=False)
            for name in ("uid", "command_id", "channel", "type", "body", "status", "error")
        ),
        sa.Column("created_ns", sa.BigInteger, nullable=False),
        sa.Column("expires_ns", sa.BigInteger, nullable=False),
        sa.Column("sent_ns", sa.BigInteger),
        sa.Column("answered_ns", sa.BigInteger),
        sa.Column("answer", sa.Text),
    )
    op.create_index("messages_by_time", "messages", ["created_ns"])
    op.create_index(
        "messages_waiting", "messages", ["created_ns"], sqlite_where=_WAITING, postgresql_where=_WAITING
    )


def downgrade() -> None:
    for name in ("messages", "totals", "batch_keys", "batches", "cursors", "nonces", "agents"):
        op.drop_table(name)
