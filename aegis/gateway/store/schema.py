"""Brings a database to the newest tables. Alembic is imported only where there is something to do."""

from __future__ import annotations

import sqlalchemy as sa

from aegis.errors import StorageError
from aegis.gateway.store.tables import HEAD


def bring_up_to_date(connection: sa.Connection) -> bool:
    """Run the migrations that are missing; whether there were any. Raises StorageError for a database of a later version.

    `connection` is not in a transaction.
    """
    found = version(connection)
    if found == HEAD:
        return False
    if found is not None and found > HEAD:
        raise StorageError(
            f"the database has version {found}, and this gateway knows them up to {HEAD}",
            hint="start the gateway version that wrote it, or choose another --data-dir",
        )
    from alembic import command  # noqa: PLC0415  30 ms and 6 MB that most starts do not need
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", "aegis.gateway.store:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    connection.commit()
    return True


def version(connection: sa.Connection) -> str | None:
    """The migration a database is at; None for an empty one."""
    with connection.begin():
        if not sa.inspect(connection).has_table("alembic_version"):
            return None
        found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    return None if found is None else str(found)
