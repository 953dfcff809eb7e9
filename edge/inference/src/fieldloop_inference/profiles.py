"""The profile that came in an order, put where ingestion looks for it.

Inference is who verifies orders on a device; ingestion is who knows streams and sources, and judges
a profile. A file stands between them, written as a whole, so that neither waits for the other.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from fieldloop_runtime.journal import Journal
from fieldloop_update.durable import make_folder, write_file

RETRY_S: Final = 30.0


class ProfileShelf:
    """One file. Owner thread only."""

    def __init__(self, path: str, journal: Journal) -> None:
        """`path`: of the file; empty: profiles in orders are ignored."""
        self._path = Path(path) if path else None
        self._journal = journal
        self._due: bytes | None = None
        self._at_s = float("-inf")

    def order(self, text: str | None) -> None:
        """Take what the newest order says; None changes nothing."""
        if text is not None:
            self._due, self._at_s = text.encode(), float("-inf")

    def step(self, now_s: float) -> None:
        """Write what is due; a disk that is full is tried again after `RETRY_S`."""
        if self._due is None or self._path is None or now_s < self._at_s:
            return
        try:
            if not self._path.is_file() or self._path.read_bytes() != self._due:
                make_folder(self._path.parent)
                write_file(self._path, self._due)
                self._journal.info("profile.received", bytes=len(self._due))
            self._due = None
        except OSError as error:
            self._at_s = now_s + RETRY_S
            self._journal.warning("profile.not_kept", error=str(error))
