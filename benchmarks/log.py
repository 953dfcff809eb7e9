"""The log against what SQLite itself can do: durable rows a second, and what acknowledging costs.

Yardsticks, interleaved with ours round by round: plain `sqlite3.executemany` with the same payload,
batch and synchronous setting, and sqlite-utils' own insert. Rows are frames of 50 samples of
6 channels (1,200 bytes).
"""

from __future__ import annotations

import os
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlite_utils

from fieldloop_buffer import Entry, Kind, Log, LogSettings, pack_frame
from fieldloop_contract.frames import Clock, Frame

ROUNDS = 5
PRAGMAS = {"durable": "FULL", "balanced": "NORMAL"}


def frame_entry() -> Entry:
    """A frame of 50 samples of 6 channels."""
    samples = os.urandom(1200).replace(b"\x7f", b"\x3f").replace(b"\xff", b"\x3f")
    frame = Frame("imu", 10**18, 10**9, "0" * 32, Clock.SYNCHRONISED, 50.0, 6, samples)
    return Entry(Kind.FRAME, "imu", frame.t0_ns, pack_frame(frame))


def open_log(path: Path, mode: Any) -> Log:
    """A log that is never full."""
    settings = LogSettings(path=str(path), mode=mode, bytes_max=1 << 36)
    return Log.open(settings, fleet="acme", device="bench", service="ingestion")


def _ours(path: Path, mode: Any, batch: int, batches: int, entry: Entry) -> float:
    log = open_log(path, mode)
    begun = time.perf_counter()
    for _ in range(batches):
        for _ in range(batch):
            log.append(entry)
        log.commit(force=mode == "durable")
    log.commit(force=True)
    seconds = time.perf_counter() - begun
    log.close()
    return batch * batches / seconds


def _plain(path: Path, mode: str, batch: int, batches: int, entry: Entry) -> float:
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute(f"PRAGMA synchronous={PRAGMAS[mode]}")
    db.execute(
        "CREATE TABLE rows (id INTEGER PRIMARY KEY, kind INT, stream INT, t_ns INT, payload BLOB)"
    )
    begun = time.perf_counter()
    seq = 0
    for _ in range(batches):
        rows = [(seq + i, 1, 1, entry.t_ns, entry.payload) for i in range(1, batch + 1)]
        seq += batch
        db.execute("BEGIN")
        db.executemany("INSERT INTO rows VALUES (?, ?, ?, ?, ?)", rows)
        db.execute("COMMIT")
    seconds = time.perf_counter() - begun
    db.close()
    return batch * batches / seconds


def _sqlite_utils(path: Path, mode: str, batch: int, batches: int, entry: Entry) -> float:
    db = sqlite_utils.Database(path)
    db.conn.execute("PRAGMA journal_mode=WAL")
    db.conn.execute(f"PRAGMA synchronous={PRAGMAS[mode]}")
    begun = time.perf_counter()
    seq = 0
    for _ in range(batches):
        rows = [
            {"id": seq + i, "kind": 1, "stream": 1, "t_ns": entry.t_ns, "payload": entry.payload}
            for i in range(1, batch + 1)
        ]
        seq += batch
        db["rows"].insert_all(rows, pk="id", batch_size=batch)
    seconds = time.perf_counter() - begun
    db.close()
    return batch * batches / seconds


def _round(run: Callable[..., float], *arguments: Any) -> float:
    with tempfile.TemporaryDirectory() as folder:
        return run(Path(folder) / "log.sqlite", *arguments)


def measure(*, quick: bool = False) -> list[dict[str, Any]]:
    """Rows a second by mode and batch: medians of interleaved rounds, and ratios."""
    entry = frame_entry()
    table: list[dict[str, Any]] = []
    for mode in ("durable", "balanced"):
        for batch, batches in ((1, 400), (100, 100), (1000, 20)):
            count = max(2, batches // 10) if quick else batches
            ours, plain, utils = [], [], []
            for _ in range(2 if quick else ROUNDS):
                plain.append(_round(_plain, mode, batch, count, entry))
                ours.append(_round(_ours, mode, batch, count, entry))
                utils.append(_round(_sqlite_utils, mode, batch, count, entry))
            medians = [statistics.median(values) for values in (ours, plain, utils)]
            table.append(
                {
                    "what": f"{mode}, batches of {batch}",
                    "rows/s": medians[0],
                    "executemany": medians[1],
                    "ratio": medians[0] / medians[1],
                    "sqlite-utils": medians[2],
                    "ratio to it": medians[0] / medians[2],
                }
            )
    return table
