"""The folder of one run: what a killed run leaves, so that the next attempt goes on from it.

Each file is written whole or not at all (written aside, synced, renamed), and is known by the
digest written with it, so that a damaged one is as good as none. Owns the folder; one process at a
time, which the run's lease sees to. One thread.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

FILE_BYTES_MAX = 1 << 30
_DIGEST_BYTES = 32


class Workplace:
    """Files of a run by name."""

    def __init__(self, root: Path, run: str) -> None:
        self.folder = root / run
        self.folder.mkdir(parents=True, exist_ok=True)

    def save(self, name: str, data: bytes) -> None:
        """Replace a file; whole or not at all, also through a power cut."""
        unfinished = self.folder / f"{name}.tmp"
        with unfinished.open("wb") as file:
            file.write(hashlib.sha256(data).digest())
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(self.folder / name)
        sync_folder(self.folder)

    def load(self, name: str) -> bytes | None:
        """A file's content; None where it is not there, or is not what was written."""
        path = self.folder / name
        try:
            if path.stat().st_size > FILE_BYTES_MAX:
                return None
            whole = path.read_bytes()
        except OSError:
            return None
        digest, data = whole[:_DIGEST_BYTES], whole[_DIGEST_BYTES:]
        return data if hashlib.sha256(data).digest() == digest else None

    def save_object(self, name: str, document: Any) -> None:
        """As `save`, of JSON."""
        self.save(name, json.dumps(document).encode())

    def load_object(self, name: str) -> Any:
        """As `load`, of JSON; None where it is not there."""
        data = self.load(name)
        return None if data is None else json.loads(data)

    def remove(self) -> None:
        """Remove the folder: the run has ended in the store."""
        shutil.rmtree(self.folder, ignore_errors=True)


class TrainingState:
    """Where a recipe leaves the state of its training (`fieldloop_models.recipe.Checkpoints`)."""

    def __init__(self, place: Workplace) -> None:
        self._place = place

    def load(self) -> bytes | None:
        """The state that was saved last, or None."""
        return self._place.load("training.state")

    def save(self, state: bytes) -> None:
        """Replace the state; whole or not at all."""
        self._place.save("training.state", state)


def sync_folder(folder: Path) -> None:
    """Make names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
