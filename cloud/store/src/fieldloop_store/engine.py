"""Opening the store: SQLite by default, PostgreSQL by URL.

A commit means durable: SQLite runs with WAL and synchronous=FULL, PostgreSQL with its own default.
Writers on SQLite take the write lock at the beginning (`BEGIN IMMEDIATE`), so that two services
wait for each other instead of failing half-way; readers (`read`) never wait for a writer.

SQLite before 3.51.3 can damage a database whose WAL is checkpointed by two connections at the same
instant. So one service checkpoints (telemetry, the busiest writer: `checkpoints=True`); what others
write is copied by it, or by whoever closes the file last.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from sqlalchemy import URL, Connection, Engine, Table, create_engine, event, inspect
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from fieldloop_contract.errors import FixConfiguration, RetryLater

BUSY_TIMEOUT_S = 30.0
_CONNECT_TIMEOUT_S = 10
_WAL_PAGES = 4_000
_WAL_BYTES_KEPT = 64 << 20
_HINT = "use sqlite:////absolute/path.sqlite or postgresql+psycopg://user@host/database"
# Primary result codes of SQLite that heal by themselves or by a person making room (sqlite3.h):
# BUSY, LOCKED, NOMEM, READONLY, INTERRUPT, IOERR, FULL, CANTOPEN, PROTOCOL, SCHEMA.
_SQLITE_TRANSIENT = frozenset({5, 6, 7, 8, 9, 10, 13, 14, 15, 17})


class Store:
    """A handle on the database. Any thread may open connections."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @classmethod
    def open(
        cls,
        url: str,
        *,
        create: bool = True,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
        checkpoints: bool = False,
    ) -> Store:
        """Open the database at `url`.

        Args:
            create: bring its tables up to this release, making them where there are none.
            busy_timeout_s: how long a writer on SQLite waits for another one.
            checkpoints: whether this handle copies SQLite's WAL into the database; one service
                at a time.

        Raises:
            FixConfiguration: the URL is not one we know, the server refuses this user, password or
                database, or the database is of a later release.
            RetryLater: the database does not answer.
        """
        try:
            parsed = make_url(url)
            if parsed.get_backend_name() not in ("sqlite", "postgresql"):
                raise FixConfiguration(f"no back end for {parsed.drivername}", hint=_HINT)
            arguments: dict[str, Any] = {}
            if parsed.get_backend_name() == "postgresql":
                parsed = parsed.set(drivername="postgresql+psycopg")
                arguments = {"connect_timeout": _CONNECT_TIMEOUT_S, "keepalives_idle": 30}
            engine = create_engine(parsed, pool_pre_ping=True, connect_args=arguments)
        except (ArgumentError, NoSuchModuleError) as error:
            raise FixConfiguration(f"store URL {_shown(url)}: {error}", hint=_HINT) from error
        if engine.dialect.name == "sqlite":
            _prepare_sqlite(engine, busy_timeout_s, checkpoints)
        store = cls(engine)
        try:
            if create:
                # Alembic costs 0.1 s to import, which a reader of an existing store need not pay.
                from fieldloop_store.migrate import upgrade  # noqa: PLC0415

                upgrade(store)
            else:
                store._expect_tables(parsed)
        except RetryLater as error:
            store.close()
            if _forbidden(error):
                raise FixConfiguration(
                    f"the store refuses this user or database: {error}",
                    code="store.access",
                    hint="check user, password and database name in the store's URL",
                ) from error
            raise
        return store

    def _expect_tables(self, url: URL) -> None:
        """Where the tables must be there already, say so before somebody meets it in a query."""
        missing = FixConfiguration(f"there is no store at {url.render_as_string()}", hint=_HINT)
        if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
            raise missing
        with translated():
            if not inspect(self.engine).has_table("services"):
                raise missing

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """A transaction that commits at the end, or rolls back on an error.

        Raises:
            RetryLater: the database is away or locked for too long.
        """
        with translated(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A read-only transaction: one consistent view, no lock that a writer would wait for.

        Keep it short: an open view pins SQLite's WAL. Fetch a bounded page and leave.

        Raises:
            RetryLater: the database is away.
        """
        with translated(), self.engine.connect() as opened:
            options: dict[str, Any] = {"fieldloop_read": True}
            if self.engine.dialect.name == "postgresql":
                options["postgresql_readonly"] = True
                options["isolation_level"] = "REPEATABLE READ"
            connection = opened.execution_options(**options)
            with connection.begin():
                yield connection

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


@contextmanager
def translated() -> Iterator[None]:
    """Turn a driver's passing errors into RetryLater; others are faults of ours and stay."""
    try:
        yield
    except DBAPIError as error:
        if _transient(error):
            raise RetryLater(f"store: {error.orig!s:.200}", code="store.away") from error
        raise


def insert_into(connection: Connection, table: Table) -> sqlite.Insert:
    """An INSERT that knows ON CONFLICT, for the connection's back end.

    The two classes of SQLAlchemy have the same methods but no common type; the promise here is
    the part that both have.
    """
    if connection.dialect.name == "postgresql":
        return cast(sqlite.Insert, postgresql.insert(table))
    return sqlite.insert(table)


def _transient(error: DBAPIError) -> bool:
    if error.connection_invalidated:
        return True
    if type(error).__name__ != "OperationalError":
        return False
    code = getattr(error.orig, "sqlite_errorcode", None)
    return code is None or (code & 0xFF) in _SQLITE_TRANSIENT


def _forbidden(error: RetryLater) -> bool:
    """Whether the server answered, and its answer was no: waiting will not change it.

    libpq gives no SQLSTATE for a refused connection, only the server's words.
    """
    said = str(error)
    return ("FATAL" in said and any(
        words in said
        for words in ("authentication failed", "no pg_hba.conf entry", "does not exist",
                      "permission denied", "no password supplied")
    )) or "no password supplied" in said  # fmt: skip


def _shown(url: str) -> str:
    """The URL without what could be a password."""
    return repr(url.rsplit("@", 1)[-1][:80])


def _prepare_sqlite(engine: Engine, busy_timeout_s: float, checkpoints: bool) -> None:
    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={round(busy_timeout_s * 1000)}")
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute(f"PRAGMA wal_autocheckpoint={_WAL_PAGES if checkpoints else 0}")
        cursor.execute(f"PRAGMA journal_size_limit={_WAL_BYTES_KEPT}")
        cursor.execute("PRAGMA cache_size=-32768")
        cursor.close()

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        reads = connection.get_execution_options().get("fieldloop_read", False)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
