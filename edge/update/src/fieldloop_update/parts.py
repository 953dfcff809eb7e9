"""A file on its way: chunks written in place, and a durable map of those that are there.

The map has one byte for each chunk. A chunk counts only after its bytes were synced, and the map is
synced after each, so that a cut wastes at most one chunk. On opening, what the map claims is
checked against the digests, because only they decide.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from fieldloop_contract.errors import Isolate
from fieldloop_contract.manifest import FileRef, sha256

_BLOCK = 1 << 20


class Part:
    """One file of a download. Never longer than its declared length. One thread."""

    def __init__(self, path: Path, ref: FileRef) -> None:
        self.path = path
        self.ref = ref
        self.discarded = 0
        # A whole file without a map was finished, and its bundle was not: its content will tell.
        finished = path.exists() and not _map_path(path).exists()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        self._map = os.open(_map_path(path), os.O_RDWR | os.O_CREAT, 0o644)
        os.ftruncate(self._file, ref.length)
        os.ftruncate(self._map, len(ref.chunks))
        claimed = os.pread(self._map, len(ref.chunks), 0)
        self._have = bytearray(b"\x01" * len(ref.chunks) if finished else claimed)
        self._where: dict[str, list[int]] = {}
        for index, digest in enumerate(ref.chunks):
            self._where.setdefault(digest, []).append(index)
        self._recheck()

    def _recheck(self) -> None:
        for index, digest in enumerate(self.ref.chunks):
            if self._have[index] and sha256(self._read(index)) != digest:
                self._have[index] = 0
                self.discarded += 1

    def _read(self, index: int) -> bytes:
        return os.pread(self._file, self.length_of(index), index * self.ref.chunk_bytes)

    def length_of(self, index: int) -> int:
        """Bytes of one chunk: all are `chunk_bytes` long but the last."""
        return min(self.ref.chunk_bytes, self.ref.length - index * self.ref.chunk_bytes)

    @property
    def chunks_had(self) -> int:
        """Chunks that are there."""
        return sum(self._have)

    @property
    def bytes_missing(self) -> int:
        """Bytes of the chunks that are not there."""
        return sum(self.length_of(i) for i, have in enumerate(self._have) if not have)

    def length_of_digest(self, digest: str) -> int:
        """Bytes of a chunk of this file; 0 for a stranger's."""
        return max((self.length_of(i) for i in self._where.get(digest, ())), default=0)

    def missing_run(self, bytes_max: int) -> tuple[int, list[str]]:
        """Offset and digests of the first chunks in a row that are not there; empty if none."""
        first = next((i for i, have in enumerate(self._have) if not have), len(self._have))
        run: list[str] = []
        size = 0
        for index in range(first, len(self._have)):
            size += self.length_of(index)
            if self._have[index] or (run and size > bytes_max):
                break
            run.append(self.ref.chunks[index])
        return first * self.ref.chunk_bytes, run

    @property
    def complete(self) -> bool:
        """Whether every chunk is there."""
        return all(self._have)

    def missing(self) -> Iterator[str]:
        """Digests of the chunks that are not there, in file order."""
        for digest, indexes in self._where.items():
            if not all(self._have[i] for i in indexes):
                yield digest

    def wants(self, digest: str) -> bool:
        """Whether this chunk is part of the file and not there yet."""
        return not all(self._have[i] for i in self._where.get(digest, ()))

    def put(self, digest: str, payload: bytes) -> bool:
        """Write a chunk whose digest the caller has checked. False if it does not belong here."""
        indexes = self._where.get(digest, [])
        if any(len(payload) != self.length_of(i) for i in indexes):
            return False
        fresh = [i for i in indexes if not self._have[i]]
        for index in fresh:
            os.pwrite(self._file, payload, index * self.ref.chunk_bytes)
        if fresh:
            os.fdatasync(self._file)
            for index in fresh:
                os.pwrite(self._map, b"\x01", index)
                self._have[index] = 1
            os.fdatasync(self._map)
        return bool(fresh)

    def check(self) -> None:
        """Check the whole file against its digest.

        Raises:
            Isolate: every chunk is right and the whole is not: the signed description is wrong.
        """
        whole = hashlib.sha256()
        for at in range(0, self.ref.length, _BLOCK):
            whole.update(os.pread(self._file, _BLOCK, at))
        if whole.hexdigest() != self.ref.sha256:
            raise Isolate(f"{self.path.name} is not the file that was signed", code="bundle.digest")

    def close(self, *, finished: bool = False) -> None:
        """Close the file; `finished` removes the map."""
        if finished:
            os.fsync(self._file)
            _map_path(self.path).unlink(missing_ok=True)
        os.close(self._file)
        os.close(self._map)


def remove_part(path: Path) -> None:
    """Delete a file and its map."""
    path.unlink(missing_ok=True)
    _map_path(path).unlink(missing_ok=True)


def _map_path(path: Path) -> Path:
    return path.with_name(path.name + ".map")
