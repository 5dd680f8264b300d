"""When a cursor was moved last, so that the number of an agent's cursors can be bounded."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("cursors", sa.Column("moved_ns", sa.BigInteger, nullable=False, server_default="0"))


def downgrade() -> None:
    op.drop_column("cursors", "moved_ns")
