"""Logs as earlier releases left them, backlog and all, opened by today's code, twice."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import sqlite_utils  # noqa: F401 - migrations then run in this process, which is quicker

from fieldloop_buffer import Entry, Kind, Log, LogSettings, schema
from fieldloop_buffer.outbox import Outbox

FROZEN = sorted(Path(__file__).parent.glob("frozen/log-v*.tar.gz"))
ROWS, ACKNOWLEDGED, WITHHELD = 40, 15, 5


@pytest.fixture(params=FROZEN, ids=lambda path: path.name.split(".")[0])
def frozen(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    with tarfile.open(request.param) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "log.db"


def open_log(path: Path) -> Log:
    return Log.open(LogSettings(path=str(path)), fleet="demo", device="pump-1", service="ingestion")


def backlog(path: Path) -> dict[tuple[str, int], Any]:
    outbox = Outbox(str(path))
    view = outbox.view()
    assert view is not None
    waiting = outbox.waiting(0, view.durable, 1_000, 1 << 30)
    letters = outbox.fetch([(row.key, row.key) for row in waiting])
    outbox.file.close()
    assert all(letter.sound for letter in letters)
    return {(view.epochs[x.epoch_no], x.seq): json.loads(x.payload) for x in letters}


def version(path: Path) -> int:
    db = sqlite3.connect(path)
    found = int(db.execute("PRAGMA user_version").fetchone()[0])
    db.close()
    return found


def test_there_is_a_frozen_log_of_each_version() -> None:
    assert [path.name for path in FROZEN] == [
        f"log-v{n}.tar.gz" for n in range(1, schema.VERSION + 1)
    ]


def test_the_backlog_of_an_old_file_is_sent_and_its_books_go_on(frozen: Path) -> None:
    epoch = (frozen.parent / "epoch").read_text(encoding="ascii")
    for opening in range(2):
        log = open_log(frozen)
        assert version(frozen) == schema.VERSION
        old, new = log.ledgers()
        assert old.epoch == epoch != new.epoch, "this machine is another one"
        assert (old.produced, old.stored) == (ROWS, ACKNOWLEDGED)
        assert (old.withheld, old.dropped) == (WITHHELD, {})
        assert old.balanced
        assert new.balanced
        assert new.produced == opening
        assert log.state("position") == "7"
        assert log.rejects() == {"range": 1}
        waiting = backlog(frozen)
        expected = [11, *range(17, ROWS - WITHHELD + 1)]
        assert [seq for e, seq in sorted(waiting) if e == epoch] == expected
        assert all(waiting[epoch, seq]["n"] == seq for seq in expected)
        log.append(Entry(Kind.RESULT, "stream-1", 1, b'{"n": 1}'))
        log.close()
    log = open_log(frozen)
    assert log.acknowledge(epoch, [(1, ROWS)]) == len(expected)
    assert log.want(epoch, [(1, 3)]) == 3, "rows that were acknowledged then can be asked for now"
    assert all(ledger.balanced for ledger in log.ledgers())
    log.close()


def test_a_further_migration_runs_once_and_loses_nothing(
    frozen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[int] = []

    def further(db: Any) -> None:
        ran.append(1)
        db.conn.execute("ALTER TABLE rows ADD COLUMN note TEXT")
        db.conn.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY) STRICT")

    before = frozen.with_name("before.db")
    shutil.copy(frozen, before)
    shutil.copy(f"{frozen}-wal", f"{before}-wal")
    kept = backlog(before)
    monkeypatch.setattr(schema, "_MIGRATIONS", (*schema._MIGRATIONS, further))
    monkeypatch.setattr(schema, "VERSION", schema.VERSION + 1)
    for _ in range(2):
        log = open_log(frozen)
        log.close()
    assert ran == [1]
    assert version(frozen) == schema.VERSION
    assert backlog(frozen) == kept


def test_two_processes_that_make_a_log_at_once_make_one(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fieldloop_buffer.migrate", str(tmp_path / "log.db")]
    children = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(4)]
    for child in children:
        _, error = child.communicate(timeout=120)
        assert child.returncode == 0, error
    assert version(tmp_path / "log.db") == schema.VERSION
    open_log(tmp_path / "log.db").close()


def test_a_migration_that_fails_leaves_the_file_as_it_was(
    frozen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def further(db: Any) -> None:
        db.conn.execute("ALTER TABLE rows ADD COLUMN note TEXT")
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(schema, "_MIGRATIONS", (*schema._MIGRATIONS, further))
    monkeypatch.setattr(schema, "VERSION", schema.VERSION + 1)
    with pytest.raises(Exception, match="disk I/O error"):
        open_log(frozen)
    monkeypatch.undo()
    assert version(frozen) == schema.VERSION
    open_log(frozen).close()
    assert len(backlog(frozen)) == ROWS - ACKNOWLEDGED - WITHHELD
