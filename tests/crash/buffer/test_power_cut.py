"""A power cut takes what was not synced, in whole or in part: the promised rows are there.

What reaches the disk is modelled as SQLite's WAL mode needs it: the file and the write-ahead log as
they were at the last sync are safe; of what was appended to the write-ahead log after it, any
length may be there, its last sectors possibly garbled.
"""

from __future__ import annotations

import json
import os
import random
import sqlite3
from pathlib import Path

import pytest
import sqlite_utils  # noqa: F401 - logs are then made in this process, which is quicker

from fieldloop_buffer import Entry, Kind, Log, LogSettings
from fieldloop_buffer.outbox import Outbox

SECTOR = 512


def open_log(path: Path, mode: str) -> Log:
    settings = LogSettings.model_validate(
        {"path": str(path), "mode": mode, "commit_interval_ms": 10_000, "bytes_max": 8 << 20}
    )
    return Log.open(settings, fleet="demo", device="pump-1", service="ingestion")


def held(path: Path) -> dict[tuple[str, int], bytes]:
    outbox = Outbox(str(path))
    view = outbox.view()
    assert view is not None
    rows = outbox.waiting(0, view.durable, 1_000_000, 1 << 40)
    letters = outbox.fetch([(row.key, row.key) for row in rows])
    outbox.file.close()
    assert all(letter.sound for letter in letters)
    return {(view.epochs[x.epoch_no], x.seq): x.payload for x in letters}


@pytest.mark.parametrize("mode", ["durable", "balanced"])
@pytest.mark.parametrize("seed", range(6))
def test_promised_rows_survive_and_no_seq_comes_again(
    tmp_path: Path, mode: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    path, wal = tmp_path / "log.db", tmp_path / "log.db-wal"
    seen: dict[tuple[str, int], bytes] = {}
    for boots in range(1, 4):
        monkeypatch.setattr("fieldloop_buffer.logfile.boot_id", lambda n=boots: f"{n:032x}")
        log = open_log(path, mode)
        promised: dict[tuple[str, int], bytes] = {}
        waiting: dict[tuple[str, int], bytes] = {}
        synced = (path.read_bytes(), wal.read_bytes())
        now_s = 0.0
        for number in range(rng.randrange(3, 25)):
            for _ in range(rng.randrange(1, 20)):
                body = {"boot": boots, "n": number, "x": "y" * rng.randrange(0, 3_000)}
                payload = json.dumps(body).encode()
                key = (log.epoch, log.append(Entry(Kind.RESULT, "imu", number, payload)))
                assert key not in seen, "a seq was given out again after it was shown"
                waiting[key] = payload
            now_s += rng.choice([0.5, 3.0])
            before = log.durable_seq
            log.commit(now_s)
            if log.durable_seq != before or path.read_bytes() != synced[0]:
                synced = (path.read_bytes(), wal.read_bytes())
            for key in [k for k in waiting if k[1] <= log.durable_seq]:
                promised[key] = waiting.pop(key)
            if rng.random() < 0.2:
                seen |= held(path)
        now = wal.read_bytes()
        log._file.release()
        lie_down(path, now, synced, rng)
        connection = sqlite3.connect(path)
        assert connection.execute("PRAGMA quick_check").fetchone()[0] == "ok"
        connection.close()
        log = open_log(path, mode)
        found = held(path)
        missing = [key for key in promised if found.get(key) != promised[key]]
        assert missing == []
        assert all(found[key] == payload for key, payload in seen.items() if key in found)
        assert all(ledger.balanced for ledger in log.ledgers())
        assert log.quarantined == 0
        log._file.release()


def lie_down(path: Path, now: bytes, synced: tuple[bytes, bytes], rng: random.Random) -> None:
    """Leave on disk what a power cut may leave; `now` is the write-ahead log as it stood."""
    wal = path.parent / "log.db-wal"
    keep = len(synced[1])
    tail = now[keep : keep + rng.randrange(0, max(len(now) - keep, 0) + 1)]
    if tail and rng.random() < 0.5:
        cut = max(len(tail) - SECTOR * rng.randrange(1, 4), 0)
        tail = tail[:cut] + os.urandom(len(tail) - cut)
    if now[:keep] == synced[1]:
        wal.write_bytes(synced[1] + tail)
    else:
        wal.write_bytes(synced[1])  # it was begun anew: what was synced is what there is
    path.write_bytes(synced[0])
    (path.parent / "log.db-shm").unlink(missing_ok=True)
