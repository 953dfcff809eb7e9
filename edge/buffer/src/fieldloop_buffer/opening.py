"""Opening a log file: the writer's lock, the check of the file, whether a new epoch is due."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from fieldloop_buffer.connection import FAILURES, decode_text, translate
from fieldloop_contract.errors import FixConfiguration, Isolate


def lock_writer(path: str) -> IO[bytes]:
    """Take the writer's lock, a file of its own, held until it is closed or the process ends.

    Raises:
        FixConfiguration: another process writes this log, or the folder cannot be written.
    """
    try:
        Path(path).absolute().parent.mkdir(parents=True, exist_ok=True)
        lock = open(path + ".lock", "ab")  # noqa: SIM115 - held for the life of the log
    except OSError as error:
        raise FixConfiguration(
            f"the log {path} cannot be written: {error}",
            hint="FIELDLOOP_LOG_PATH names a file in a writable folder on a local volume",
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise FixConfiguration(
            f"another process writes the log {path}", hint="give each service a log of its own"
        ) from error
    return lock


def inspect(path: str, check_s_max: float) -> int:
    """Check the file and return its schema version; 0 for a missing or empty one.

    The check reads pages for at most `check_s_max`; damage beyond that is found in operation.

    Raises:
        Isolate: the file is damaged.
        RetryLater: it cannot be read for another reason.
    """
    if not os.path.exists(path) or os.path.getsize(path) == 0:
        return 0
    try:
        connection = sqlite3.connect(path, isolation_level=None, timeout=10)
        connection.text_factory = decode_text
        try:
            version = int(connection.execute("PRAGMA user_version").fetchone()[0])
            verdict = _quick_check(connection, check_s_max)
        finally:
            connection.close()
    except FAILURES as error:
        raise translate(error, path) from error
    if verdict != "ok":
        raise Isolate(f"{path} is damaged: {verdict[:200]}", code="log.damaged")
    return version


def _quick_check(connection: sqlite3.Connection, check_s_max: float) -> str:
    timer = threading.Timer(check_s_max, connection.interrupt)
    timer.daemon = True
    timer.start()
    try:
        return str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise
        return "ok"
    finally:
        timer.cancel()


@dataclass(frozen=True, slots=True)
class Identity:
    """What a file was last opened as, or is being opened as."""

    machine: str
    file: str
    boot: str
    mode: str


def new_epoch_reason(last: Identity | None, now: Identity, *, clean: bool) -> str | None:
    """Why a new epoch must begin, or None.

    A process that was killed lost nothing that the kernel had; only when the machine went down as
    well, in balanced mode, may rows have gone whose seq would be given out again.
    """
    if last is None:
        return "new file"
    if last.machine != now.machine:
        return "other machine"
    if last.file != now.file:
        return "copied file"
    if last.mode == "balanced" and not clean and last.boot != now.boot:
        return "power cut"
    return None


def read_identity(connection: sqlite3.Connection) -> tuple[Identity | None, bool]:
    """The identity at the last opening, and whether the log was closed after it."""
    rows = connection.execute("SELECT key, value FROM state WHERE key LIKE 'log.%'")
    found = dict(rows.fetchall())
    with contextlib.suppress(KeyError):
        last = Identity(*(found[f"log.{name}"] for name in ("machine", "file", "boot", "mode")))
        return last, found.get("log.clean") == "1"
    return None, False


def write_identity(connection: sqlite3.Connection, identity: Identity, *, clean: bool) -> None:
    """Remember the identity, in the caller's transaction."""
    values = {
        "log.machine": identity.machine,
        "log.file": identity.file,
        "log.boot": identity.boot,
        "log.mode": identity.mode,
        "log.clean": "1" if clean else "0",
    }
    connection.executemany(
        "INSERT INTO state (key, value) VALUES (?, ?)"
        " ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        list(values.items()),
    )
