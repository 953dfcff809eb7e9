"""Room: sizes on disk, the reserve, checkpoints. Owner thread only, outside transactions."""

from __future__ import annotations

import contextlib
import os
import sqlite3

from fieldloop_buffer.connection import is_full, size_of
from fieldloop_buffer.retention import Bounds, Usage, Wal, wal_verdict

_RESERVE_STEP = 1 << 16
_TRUNCATE_BUSY_MS = 100
COMMIT_OVERHEAD_BYTES = 64 * 1024
"""Most that a commit writes beside its rows."""
_COMMIT_PAGES = 5
"""Pages that a commit writes beside its rows: books, pending set, state, pages that are split."""


class Room:
    """The bytes of one log file."""

    def __init__(self, connection: sqlite3.Connection, path: str, bounds: Bounds) -> None:
        self.bounds = bounds
        self.checkpoints = 0
        self._db = connection
        self._path = path
        self._reserve = path + ".reserve"
        self._page_bytes = int(connection.execute("PRAGMA page_size").fetchone()[0])
        self._since_bytes = size_of(path + "-wal")
        limit = (bounds.data_bytes_max + bounds.buffer_bytes_max) // self._page_bytes
        connection.execute(f"PRAGMA max_page_count={limit}")
        connection.execute(f"PRAGMA journal_size_limit={bounds.checkpoint_bytes}")

    def usage(self) -> Usage:
        """Sizes now, within a transaction or not."""
        pages = int(self._db.execute("PRAGMA page_count").fetchone()[0])
        free = int(self._db.execute("PRAGMA freelist_count").fetchone()[0])
        return Usage(self._page_bytes, pages, free, size_of(self._path + "-wal"))

    def bytes_on_disk(self) -> int:
        """File, write-ahead log and reserve."""
        return sum(size_of(self._path + end) for end in ("", "-wal", ".reserve"))

    def capacity_bytes(self) -> int:
        """What rows may take in all: by the bound, or by the disk where that has less left."""
        stat = os.statvfs(os.path.dirname(os.path.abspath(self._path)))
        usage = self.usage()
        return min(self.bounds.data_bytes_max, usage.data_bytes + stat.f_bavail * stat.f_frsize)

    def admit(self, coming_bytes: int) -> bool:
        """Whether a commit of about `coming_bytes` may go ahead; checkpoints where that helps.

        False only where a reader pins the write-ahead log at its bound.
        """
        wal = size_of(self._path + "-wal")
        verdict = wal_verdict(wal, self._since_bytes, coming_bytes, self.bounds)
        if verdict is Wal.FINE:
            return True
        self.checkpoint(truncate=verdict is Wal.PINNED)
        if verdict is Wal.CHECKPOINT:
            return True
        wal = size_of(self._path + "-wal")
        return wal_verdict(wal, 0, coming_bytes, self.bounds) is not Wal.PINNED

    def wrote(self, rows_bytes: int) -> None:
        """Note a commit with rows of so many bytes."""
        self._since_bytes += rows_bytes * 5 // 4 + _COMMIT_PAGES * self._page_bytes

    def checkpoint(self, *, truncate: bool = False) -> bool:
        """Copy the write-ahead log into the file; True if all of it was.

        A passive one never waits. `truncate` waits a moment for readers and gives the bytes back.
        """
        self.checkpoints += 1
        self._since_bytes = 0  # where a reader is in the way, the file grows, and shows it
        try:
            if not truncate:
                row = self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                return bool(row[0] == 0 and row[1] == row[2])
            self._db.execute(f"PRAGMA busy_timeout={_TRUNCATE_BUSY_MS}")
            row = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            return bool(row[0] == 0)
        except sqlite3.OperationalError as error:
            if not is_full(error):
                raise
            return False
        finally:
            if truncate:
                self._db.execute("PRAGMA busy_timeout=5000")

    def free_reserve(self) -> bool:
        """Give the reserve to the file system; True if there was one."""
        with contextlib.suppress(OSError):
            os.unlink(self._reserve)
            return True
        return False

    def keep_reserve(self) -> None:
        """Make the reserve where it is missing and the disk has room for it twice."""
        wanted = self.bounds.reserve_bytes
        if size_of(self._reserve) >= wanted:
            return
        folder = os.path.dirname(os.path.abspath(self._path))
        stat = os.statvfs(folder)
        if stat.f_bavail * stat.f_frsize < 2 * wanted:
            return
        try:
            with open(self._reserve, "wb") as file:
                os.posix_fallocate(file.fileno(), 0, wanted)
        except OSError:
            self.free_reserve()
