"""A container release can be pinned back: the previous one goes on with the log of this one.

The other way round are the frozen logs of tests/integration/buffer.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from compatibility.test_previous_release import environ
from fieldloop_buffer import Entry, Kind, Log, LogSettings, schema
from fieldloop_buffer.orders import Unreadable

ROWS, OLD_ROWS = 1_500, 20


def open_log(path: Path) -> Log:
    return Log.open(
        LogSettings(path=str(path), bytes_max=4 << 20),
        fleet="demo",
        device="pump-1",
        service="ingestion",
        policies={"thin": "decimate", "new": "drop_newest"},
    )


def write(path: Path) -> Log:
    """A log with all that this release does to a file: thinned, dropped, refused, acknowledged."""
    log = open_log(path)
    for n in range(1, ROWS + 1):
        log.append(Entry(Kind.FRAME, "thin", n, b"x" * 2_000))
        log.append(Entry(Kind.RESULT, "new", n, json.dumps({"n": n}).encode(), n % 10 == 0))
        if n % 50 == 0:
            log.commit(force=True)
    log.set_state("position", "41")
    log.commit(force=True)
    log.acknowledge(log.epoch, [(ROWS, ROWS + 200)])
    log.apply([Unreadable(log.epoch, (2 * ROWS - 2,))])
    log.commit(force=True)
    return log


def run_old(release: Path, path: Path) -> dict[str, Any]:
    script = Path(__file__).with_name("old_log_reader.py")
    done = subprocess.run(
        [sys.executable, str(script), str(path), str(OLD_ROWS)],
        env=environ(release, 1), capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert found["code"].startswith(str(release))
    return found


@pytest.mark.parametrize("newer", [False, True], ids=["as it is", "with a schema yet to come"])
def test_the_previous_release_goes_on_with_this_releases_log(
    release: Path,
    tmp_path: Path,
    newer: bool,
) -> None:
    path = tmp_path / "log.db"
    log = write(path)
    (before,) = log.ledgers()
    assert {"decimated", "unreadable"} <= before.dropped.keys()
    log.close()
    if newer:  # what a later migration may do: only add
        db = sqlite3.connect(path)
        db.execute("ALTER TABLE rows ADD COLUMN note TEXT")
        db.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY)")
        db.execute(f"PRAGMA user_version={schema.VERSION + 1}")
        db.commit()
        db.close()

    found = run_old(release, path)
    (ledger,) = found["ledgers"]
    assert ledger == before.model_dump()
    assert len(found["pending"]) == before.pending
    assert found["state"] == "41"
    assert found["first_seq"] == before.produced + 1, "the epoch goes on, and no seq comes twice"

    log = open_log(path)
    (after,) = log.ledgers()
    assert after.balanced
    assert after.produced == before.produced + OLD_ROWS
    assert after.stored == before.stored + len(
        [seq for seq in found["pending"] if seq <= found["first_seq"]]
    ) + 1  # fmt: skip
    log.close()
