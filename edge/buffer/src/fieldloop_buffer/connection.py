"""SQLite connections of a log, and its errors in the terms of the contract.

The writer alone checkpoints: SQLite before 3.51.3 can lose a reset of the write-ahead log when
several connections do. Readers are opened read-only, which keeps them from it. No thread shares
one.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from urllib.parse import quote

from fieldloop_contract.errors import FieldloopError, Isolate, OutOfSpace, RetryLater

PAGE_CACHE_KIB = 1_024
_BUSY_MS = 5_000
_FULL = sqlite3.SQLITE_FULL
_FULL_IN_DISGUISE = (sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_SHMMAP)
"""The index of the write-ahead log cannot grow on a full disk."""
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


FAILURES = (sqlite3.Error, UnicodeDecodeError)
"""What a call may raise: the message about a damaged file may itself be damaged text."""


def _primary(error: BaseException) -> int:
    return int(getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF


def is_full(error: BaseException) -> bool:
    """Whether there was no room: on the disk, or within `max_page_count`."""
    code = int(getattr(error, "sqlite_errorcode", 0) or 0)
    return _primary(error) == _FULL or code in _FULL_IN_DISGUISE


def is_damaged(error: BaseException) -> bool:
    """Whether SQLite found the file malformed."""
    return isinstance(error, UnicodeDecodeError) or _primary(error) in _DAMAGED


def translate(error: Exception, path: str) -> FieldloopError:
    """The error in the contract's tree."""
    if is_full(error):
        return OutOfSpace(f"no room for {path}: {error}")
    if is_damaged(error):
        return Isolate(f"{path} is damaged: {error}", code="log.damaged")
    return RetryLater(f"{path}: {error}", code="log.io")


def open_writer(path: str) -> sqlite3.Connection:
    """The one connection that writes; transactions are begun and ended by hand.

    Raises:
        sqlite3.Error: as SQLite says.
    """
    connection = sqlite3.connect(path, isolation_level=None, timeout=_BUSY_MS / 1000)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA wal_autocheckpoint=0")
    connection.execute(f"PRAGMA cache_size=-{PAGE_CACHE_KIB}")
    connection.execute("PRAGMA temp_store=MEMORY")
    connection.text_factory = decode_text
    return connection


def decode_text(data: bytes) -> str:
    """Text that was damaged is still text: what it means is checked, not how it is written."""
    return data.decode("utf-8", "replace")


def open_reader(path: str) -> sqlite3.Connection:
    """A read-only connection.

    Raises:
        sqlite3.OperationalError: there is no such file, or it cannot be opened.
    """
    uri = f"file:{quote(os.path.abspath(path))}?mode=ro"
    connection = sqlite3.connect(
        uri, uri=True, isolation_level=None, timeout=_BUSY_MS / 1000, check_same_thread=False
    )
    connection.execute(f"PRAGMA cache_size=-{PAGE_CACHE_KIB // 2}")
    connection.execute("PRAGMA query_only=1")
    connection.text_factory = decode_text
    return connection


def file_key(path: str) -> tuple[int, int] | None:
    """Device and inode of the file, or None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def size_of(path: str) -> int:
    """Bytes of a file; 0 where there is none."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def sync_folder(path: str) -> None:
    """Make renames in the folder of `path` durable."""
    handle = os.open(Path(path).absolute().parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
