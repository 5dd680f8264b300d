"""Alembic's scripts, shipped with the package; `store.sqlite` runs them where a database is not at its head."""
