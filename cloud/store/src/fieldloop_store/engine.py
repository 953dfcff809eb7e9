"""Opening the store: SQLite by default, PostgreSQL by URL.

A commit means durable: SQLite runs with WAL and synchronous=FULL, PostgreSQL with its own default.
Writers on SQLite take the write lock at the beginning (`BEGIN IMMEDIATE`), so that two services
wait for each other instead of failing half-way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from fieldloop_contract.errors import FixConfiguration, RetryLater
from fieldloop_store.schema import metadata

_BUSY_TIMEOUT_S = 30
_HINT = "use sqlite:////absolute/path.sqlite or postgresql+psycopg://user@host/database"


class Store:
    """A handle on the database. Any thread may open connections."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @classmethod
    def open(cls, url: str, *, create: bool = True) -> Store:
        """Open the database at `url`, making its tables where there are none.

        Raises:
            FixConfiguration: the URL is not one we know.
            RetryLater: the database does not answer.
        """
        try:
            parsed = make_url(url)
            if parsed.get_backend_name() == "postgresql" and parsed.drivername == "postgresql":
                parsed = parsed.set(drivername="postgresql+psycopg")
            if parsed.get_backend_name() not in ("sqlite", "postgresql"):
                raise FixConfiguration(f"no back end for {parsed.drivername}", hint=_HINT)
            engine = create_engine(parsed, pool_pre_ping=True)
        except (ArgumentError, NoSuchModuleError) as error:
            raise FixConfiguration(f"store URL {url!r:.80}: {error}", hint=_HINT) from error
        if engine.dialect.name == "sqlite":
            _prepare_sqlite(engine)
        store = cls(engine)
        if create:
            with translated():
                metadata.create_all(engine)
        return store

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """A transaction that commits at the end, or rolls back on an error.

        Raises:
            RetryLater: the database is away or locked for too long.
        """
        with translated(), self.engine.begin() as connection:
            yield connection

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


@contextmanager
def translated() -> Iterator[None]:
    """Turn a driver's operational errors into RetryLater."""
    try:
        yield
    except DBAPIError as error:
        if error.connection_invalidated or type(error).__name__ == "OperationalError":
            raise RetryLater(f"store: {error.orig!s:.200}", code="store.away") from error
        raise


def _prepare_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT_S * 1000}")
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
