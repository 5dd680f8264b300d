from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from aegis.errors import StorageError
from aegis.gateway.store.schema import bring_up_to_date, version
from aegis.gateway.store.tables import HEAD, metadata


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sa.Connection]:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/x.db", poolclass=sa.pool.NullPool)
    with engine.connect() as made:
        yield made
    engine.dispose()


def config(connection: sa.Connection) -> Config:
    made = Config()
    made.set_main_option("script_location", "aegis.gateway.store:migrations")
    made.set_main_option("path_separator", "os")
    made.attributes["connection"] = connection
    return made


def test_an_empty_database_gets_the_tables_once(connection: sa.Connection) -> None:
    assert version(connection) is None
    assert bring_up_to_date(connection) is True
    assert version(connection) == HEAD
    assert bring_up_to_date(connection) is False


def test_the_migrations_make_the_tables_of_the_code(connection: sa.Connection) -> None:
    bring_up_to_date(connection)
    assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    connection.rollback()
    # What the comparison does not look at: order, keys and options of a table.
    made = {
        row[0]: row[1] for row in connection.execute(sa.text("SELECT name, sql FROM sqlite_master")) if row[1]
    }
    connection.rollback()
    metadata.drop_all(connection)
    metadata.create_all(connection)
    wanted = {
        row[0]: row[1] for row in connection.execute(sa.text("SELECT name, sql FROM sqlite_master")) if row[1]
    }
    connection.rollback()
    made = {name: " ".join(text.split()) for name, text in made.items()}
    wanted = {name: " ".join(text.split()) for name, text in wanted.items()}
    made.pop("alembic_version")
    wanted.pop("alembic_version", None)
    assert made == wanted


def test_every_migration_goes_up_and_down(connection: sa.Connection) -> None:
    script = ScriptDirectory.from_config(config(connection))
    assert script.get_heads() == [HEAD]
    for each in reversed(list(script.walk_revisions())):
        command.upgrade(config(connection), each.revision)
        command.downgrade(config(connection), each.down_revision or "base")
        command.upgrade(config(connection), each.revision)
    connection.commit()
    command.downgrade(config(connection), "base")
    assert sa.inspect(connection).get_table_names() == ["alembic_version"]


def test_a_database_of_a_later_version_is_refused(connection: sa.Connection) -> None:
    bring_up_to_date(connection)
    connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    connection.commit()
    with pytest.raises(StorageError, match="9999"):
        bring_up_to_date(connection)


def test_alembic_is_loaded_only_where_there_is_something_to_do(tmp_path: Path) -> None:
    script = (
        "import sys, asyncio\n"
        "from aegis.gateway.store.sqlite import SqliteStore\n"
        "async def main():\n"
        "    store = SqliteStore(sys.argv[1])\n"
        "    await store.open()\n"
        "    await store.close()\n"
        "asyncio.run(main())\n"
        "print('alembic' in sys.modules)\n"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", script, str(tmp_path)], check=True, capture_output=True, text=True
        ).stdout.strip()
        for _ in range(2)
    ]
    assert said == ["True", "False"]
