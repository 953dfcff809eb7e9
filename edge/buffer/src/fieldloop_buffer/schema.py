"""The tables of a log file and their migrations, by sqlite-utils.

Migrations only ever add, and run forward one by one; `PRAGMA user_version` says how many have run.
An older release opens a newer file as long as it finds the tables it knows.

sqlite-utils costs 16 MiB of resident memory, so it is imported only here, and this module runs in a
short-lived child process (`python -m fieldloop_buffer.migrate PATH`) unless the library has been
loaded in this process anyway.
"""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from fieldloop_contract.errors import Isolate, OutOfSpace, RetryLater

VERSION = 1
_MIGRATE_TIMEOUT_S = 60
_EXIT_FULL = 75


def migrate(path: str) -> None:
    """Bring the file at `path` to `VERSION`, creating it where there is none. Imports sqlite-utils.

    Raises:
        sqlite3.Error: as SQLite says; nothing of an unfinished migration remains.
    """
    import sqlite_utils  # noqa: PLC0415 - see the module's docstring

    connection = sqlite3.connect(path, isolation_level=None, timeout=10)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        for number, step in enumerate(_MIGRATIONS, start=1):
            connection.execute("BEGIN IMMEDIATE")
            try:
                # Read inside: the child of a service that was killed may be at it as well.
                if int(connection.execute("PRAGMA user_version").fetchone()[0]) < number:
                    step(sqlite_utils.Database(connection))
                    connection.execute(f"PRAGMA user_version={number}")
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise
    finally:
        connection.close()


def ensure(path: str, found: int) -> None:
    """Migrate a file that is at version `found`, in a child process where that saves memory.

    Raises:
        OutOfSpace: the disk is full.
        RetryLater: the child did not end in time, or could not be started.
        Isolate: SQLite refused the file.
    """
    if found >= VERSION:
        return
    if "sqlite_utils" in sys.modules:
        migrate(path)
        return
    command = [sys.executable, "-m", "fieldloop_buffer.migrate", path]
    try:
        done = subprocess.run(
            command, timeout=_MIGRATE_TIMEOUT_S, capture_output=True, text=True, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RetryLater(f"the log could not be migrated: {error}", code="log.migrate") from error
    if done.returncode == _EXIT_FULL:
        raise OutOfSpace("no room to make the log", hint="free some disk")
    if done.returncode != 0:
        raise Isolate(f"the log could not be migrated: {done.stderr.strip()[-300:]}")


def _first(db: Any) -> None:
    """Version 1: the log as it began."""

    def table(name: str, columns: dict[str, type], **options: Any) -> None:
        # Not `create_table`, which would commit the transaction around it.
        db.conn.execute(db.create_table_sql(name, columns, strict=True, **options))

    table(
        "rows",
        {
            "id": int,
            "kind": int,
            "stream": int,
            "t_ns": int,
            "at_s": int,
            "withheld": int,
            "crc": int,
            "payload": bytes,
        },
        pk="id",
        not_null={"kind", "stream", "t_ns", "at_s", "withheld", "crc", "payload"},
    )
    table("pending", {"first": int, "last": int}, pk="first", not_null={"last"})
    table("streams", {"no": int, "stream": str}, pk="no", not_null={"stream"})
    table(
        "epochs",
        {
            "no": int,
            "epoch": str,
            "next_seq": int,
            "durable_seq": int,
            "stored": int,
            "pending": int,
            "withheld": int,
            "created_ns": int,
        },
        pk="no",
        not_null={"epoch", "next_seq", "durable_seq", "stored", "pending", "withheld"},
    )
    db.conn.execute("CREATE UNIQUE INDEX idx_epochs_epoch ON epochs (epoch)")
    drops = {"no": int, "cause": str, "n": int}
    table("drops", drops, pk=("no", "cause"), not_null={"n"})
    table("state", {"key": str, "value": str}, pk="key", not_null={"value"})
    table(
        "dead_letters",
        {
            "id": int,
            "t_ns": int,
            "source": str,
            "stream": str,
            "code": str,
            "reason": str,
            "excerpt": bytes,
        },
        pk="id",
        not_null={"t_ns", "source", "stream", "code", "reason"},
    )
    table("rejects", {"code": str, "n": int}, pk="code", not_null={"n"})


_MIGRATIONS: tuple[Callable[[Any], None], ...] = (_first,)
