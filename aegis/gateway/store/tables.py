"""The tables, once for every engine. A change here needs a migration; a test compares the two.

Items are stored a batch a row, as they came: what makes an item findable stands beside the batch, each value once
(`batch_keys`), so that an event costs a few microseconds and not a row with five indexes. A query finds batches by key
and time and looks at the items inside.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

HEAD: Final = "0002"  # the newest migration
KEY_PEER: Final = 1
KEY_POLICY: Final = 2

metadata = sa.MetaData()
_Number = sa.BigInteger().with_variant(sa.Integer, "sqlite")

agents = sa.Table(
    "agents",
    metadata,
    sa.Column("number", _Number, primary_key=True, autoincrement=True),
    sa.Column("uid", sa.Text, nullable=False, unique=True),
    sa.Column("key", sa.LargeBinary, nullable=False, unique=True),
    sa.Column("agent_id", sa.Text, nullable=False),
    sa.Column("host_id", sa.Text, nullable=False),
    sa.Column("org_id", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("machine_id_hash", sa.Text, nullable=False),
    sa.Column("capabilities", sa.Text, nullable=False),
    sa.Column("platform", sa.Text, nullable=False),
    sa.Column("network", sa.Text, nullable=False),
    sa.Column("labels", sa.Text, nullable=False),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("created_ns", sa.BigInteger, nullable=False),
    sa.Column("last_seen_ns", sa.BigInteger, nullable=False),
    sa.Column("floor", sa.SmallInteger, nullable=False),
)

cursors = sa.Table(
    "cursors",
    metadata,
    sa.Column("agent", _Number, primary_key=True),
    sa.Column("boot_id", sa.Text, primary_key=True),
    sa.Column("stream", sa.BigInteger, primary_key=True),
    sa.Column("cls", sa.SmallInteger, primary_key=True),
    sa.Column("next", sa.BigInteger, nullable=False),
    sa.Column("moved_ns", sa.BigInteger, nullable=False, server_default="0"),
    sqlite_with_rowid=False,
)

batches = sa.Table(
    "batches",
    metadata,
    sa.Column("id", _Number, primary_key=True, autoincrement=True),
    sa.Column("cls", sa.SmallInteger, nullable=False),
    sa.Column("agent", _Number, nullable=False),
    sa.Column("stream", sa.BigInteger, nullable=False),
    sa.Column("first", sa.BigInteger, nullable=False),
    sa.Column("count", sa.Integer, nullable=False),
    sa.Column("boot_id", sa.Text, nullable=False),
    sa.Column("oldest_ns", sa.BigInteger, nullable=False),
    sa.Column("newest_ns", sa.BigInteger, nullable=False),
    sa.Column("received_ns", sa.BigInteger, nullable=False),
    sa.Column(
        "types", sa.BigInteger, nullable=False
    ),  # a bit for each value of `type` in it, `store.items.TYPES`
    sa.Column("bytes", sa.Integer, nullable=False),
    sa.Column("items", sa.LargeBinary, nullable=False),
    sa.Index("batches_by_time", "cls", "newest_ns", "oldest_ns", "types"),
    sa.Index("batches_by_agent", "agent", "cls", "newest_ns", "oldest_ns", "types"),
    sa.Index("batches_by_arrival", "cls", "id"),
    sqlite_autoincrement=True,  # a follower's place must never be given twice
)

batch_keys = sa.Table(
    "batch_keys",
    metadata,
    sa.Column("kind", sa.SmallInteger, primary_key=True),
    sa.Column("value", sa.Text, primary_key=True),
    sa.Column("newest_ns", sa.BigInteger, primary_key=True),
    sa.Column("batch", _Number, primary_key=True),
    sa.Index("batch_keys_by_batch", "batch"),
    sqlite_with_rowid=False,
)

totals = sa.Table(
    "totals",
    metadata,
    sa.Column("cls", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("items", sa.BigInteger, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
)

messages = sa.Table(
    "messages",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("uid", sa.Text, nullable=False),
    sa.Column("command_id", sa.Text, nullable=False),
    sa.Column("channel", sa.Text, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("error", sa.Text, nullable=False),
    sa.Column("created_ns", sa.BigInteger, nullable=False),
    sa.Column("expires_ns", sa.BigInteger, nullable=False),
    sa.Column("sent_ns", sa.BigInteger),
    sa.Column("answered_ns", sa.BigInteger),
    sa.Column("answer", sa.Text),
    sa.Index("messages_by_time", "created_ns"),
    sa.Index(
        "messages_waiting",
        "created_ns",
        sqlite_where=sa.text("status = 'queued'"),
        postgresql_where=sa.text("status = 'queued'"),
    ),
)

nonces = sa.Table(
    "nonces",
    metadata,
    sa.Column("digest", sa.LargeBinary, primary_key=True),
    sa.Column("forget_s", sa.BigInteger, nullable=False),
    sa.Index("nonces_by_age", "forget_s"),
    sqlite_with_rowid=False,
)
