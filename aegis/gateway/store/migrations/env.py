"""Alembic runs this file for each migration, with the connection it was given."""

from __future__ import annotations

from alembic import context

from aegis.gateway.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite cannot alter most things in place
)
with context.begin_transaction():
    context.run_migrations()
