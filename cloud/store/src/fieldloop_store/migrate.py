"""Bringing a database up to this release, with Alembic, forward only.

All pending migrations run in one transaction under a lock, so that services that start together do
it once, and a failure leaves the database as it was. Before the first statement of a migration the
whole store is copied (`before`): on SQLite to a file beside it, on PostgreSQL into a schema of its
own in the same database. A copy of an earlier migration is for a person to delete.
"""

from __future__ import annotations

from pathlib import Path

from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect

from fieldloop_contract.errors import FixConfiguration
from fieldloop_store.engine import Store
from fieldloop_store.schema import metadata

_FOLDER = Path(__file__).parent / "migrations"
_LOCK = 0x66696C64  # any number of our own: "fild"


def scripts() -> ScriptDirectory:
    """The migrations of this release."""
    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    return ScriptDirectory.from_config(config)


def revision(store: Store) -> str | None:
    """The migration a database stands at; None for an empty one. Raises RetryLater."""
    with store.read() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def upgrade(store: Store) -> None:
    """Run what is pending.

    Raises:
        FixConfiguration: the database is of a later release than this code.
        RetryLater: the database is away or locked for too long.
    """
    directory = scripts()
    head = directory.get_current_head()
    if revision(store) == head:
        return
    with store.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
        current = MigrationContext.configure(connection).get_current_revision()
        known = {script.revision for script in directory.walk_revisions()}
        if current is not None and current not in known:
            raise FixConfiguration(
                f"the store is at migration {current}, which this release does not know",
                hint="run the release that made it, or a later one",
            )
        if current == head:
            return
        if current is not None:
            before(connection, current)
        _run(directory, connection)


def before(connection: Connection, current: str) -> str:
    """Copy the store as it stands at migration `current`; returns where to.

    The caller holds the write lock. A copy of the same name is of an attempt that failed, and is
    replaced.

    Raises:
        FixConfiguration: there is no room for it, or no permission; nothing was migrated.
    """
    if connection.dialect.name == "sqlite":
        from fieldloop_store.backup import copy_sqlite  # noqa: PLC0415 - it imports this module

        source = Path(str(connection.engine.url.database))
        target = source.with_name(f"{source.name}.before-{current}")
        copy_sqlite(source, target)
        return str(target)
    name = f"fieldloop_before_{current}"
    connection.exec_driver_sql(f"DROP SCHEMA IF EXISTS {name} CASCADE")
    connection.exec_driver_sql(f"CREATE SCHEMA {name}")
    own = connection.exec_driver_sql("SELECT current_schema()").scalar_one()
    for table in inspect(connection).get_table_names():
        connection.exec_driver_sql(f'CREATE TABLE {name}."{table}" AS TABLE "{own}"."{table}"')
    return name


def _run(directory: ScriptDirectory, connection: Connection) -> None:
    def pending(current: tuple[str, ...], _context: MigrationContext) -> list[object]:
        return list(directory._upgrade_revs("head", current))  # type: ignore[arg-type]

    with EnvironmentContext(Config(), directory, fn=pending, destination_rev="head") as environment:
        environment.configure(
            connection=connection, target_metadata=metadata, transactional_ddl=True
        )
        environment.run_migrations()
