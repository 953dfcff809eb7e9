"""The mirror: a bounded copy, in memory, of the retained TUF metadata of the fleet.

It believes nothing: names have a pattern, sizes and counts have bounds, and what it holds goes to
the verifying child as files. Not kept on disk, since the broker sends it again on every connection.
"""

from __future__ import annotations

from pathlib import Path

from fieldloop_contract.errors import MalformedMessage
from fieldloop_contract.topics import check_meta_file

FILE_BYTES_MAX = 512 * 1024
TIMESTAMP = "timestamp.json"


class Mirror:
    """Metadata files by name. When full, the file received longest ago goes, timestamp excepted."""

    def __init__(self, bytes_max: int, files_max: int) -> None:
        self.refused = 0
        self._bytes_max = bytes_max
        self._files_max = files_max
        self._files: dict[str, bytes] = {}
        self._bytes = 0
        self._changed = False

    def put(self, name: str, payload: bytes) -> bool:
        """Take one retained message; an empty one removes the file. True if anything changed."""
        try:
            check_meta_file(name)
        except MalformedMessage:
            self.refused += 1
            return False
        if len(payload) > FILE_BYTES_MAX:
            self.refused += 1
            return False
        if self._files.get(name, b"") == payload:
            if name in self._files:  # received again: young again
                self._files[name] = self._files.pop(name)
            return False
        self._remove(name)
        if payload:
            self._files[name] = payload
            self._bytes += len(payload)
            self._shrink()
        self._changed = True
        return True

    def take_changed(self) -> bool:
        """Whether anything changed since the last call."""
        changed, self._changed = self._changed, False
        return changed

    def write(self, folder: Path) -> None:
        """Write all files into an existing, empty folder."""
        for name, payload in self._files.items():
            (folder / name).write_bytes(payload)

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def __len__(self) -> int:
        return len(self._files)

    @property
    def bytes_held(self) -> int:
        """Bytes of all files."""
        return self._bytes

    def _remove(self, name: str) -> None:
        self._bytes -= len(self._files.pop(name, b""))

    def _shrink(self) -> None:
        while len(self._files) > self._files_max or self._bytes > self._bytes_max:
            oldest = next(name for name in self._files if name != TIMESTAMP)
            self._remove(oldest)
