"""Backup and restore, between back ends too; a copy before a migration; access that is refused."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.config import Config
from sqlalchemy import select

from fieldloop_contract.batch import SequencedFrame
from fieldloop_contract.errors import FixConfiguration, Isolate
from fieldloop_contract.messages import Event
from fieldloop_store.backup import check, restore, take
from fieldloop_store.engine import Store
from fieldloop_store.ingest import Intake, store_intake
from fieldloop_store.letters import Letter
from fieldloop_store.migrate import revision, scripts
from fieldloop_store.rows import event_row, frame_row
from fieldloop_store.schema import metadata
from support.postgres import shared_postgres
from support.telemetry import LOG, event, frame


def fill(store: Store) -> None:
    rows = [frame_row(LOG, SequencedFrame(s, frame(s)), 5) for s in range(1, 451)]
    happened = event_row(LOG, 451, Event.model_validate(event(451)), event(451), 5)
    letters = [Letter(LOG, "frames", 452, "row.bad", "because", b"\x00\xff", 5)]
    intake = Intake(rows={"frames": rows, "events": [happened]}, letters=letters, received_ns=5)
    store_intake(store, intake)


def everything(store: Store) -> dict[str, list[tuple[object, ...]]]:
    with store.read() as connection:
        return {
            table.name: [
                tuple(row)
                for row in connection.execute(select(table).order_by(*table.primary_key.columns))
            ]
            for table in metadata.sorted_tables
        }


@pytest.mark.parametrize("back_end", ["sqlite", "postgresql"])
def test_what_is_restored_is_what_was_there_on_either_back_end(
    store: Store, store_url: str, tmp_path: Path, back_end: str
) -> None:
    fill(store)
    keys = tmp_path / "keys"
    (keys / "root").mkdir(parents=True)
    (keys / "root" / "1.pem").write_bytes(b"secret")
    backup = take(store_url, tmp_path / "backup", keys=keys, now_ns=7)
    assert (backup.rows["frames"], backup.rows["events"]) == (450, 1)
    assert (tmp_path / "backup" / "keys" / "root" / "1.pem").stat().st_mode & 0o77 == 0

    target = f"sqlite:///{tmp_path / 'new.sqlite'}"
    if back_end == "postgresql":
        target = shared_postgres().new_database()
    restore(tmp_path / "backup", target, keys=tmp_path / "new-keys")
    opened = Store.open(target)
    assert everything(opened) == everything(store)
    # A new dead letter gets an id of its own.
    letter = Letter(LOG, "frames", 453, "row.bad", "because", b"x", 6)
    store_intake(opened, Intake(letters=[letter], received_ns=6))
    opened.close()
    assert (tmp_path / "new-keys" / "root" / "1.pem").read_bytes() == b"secret"
    with pytest.raises(FixConfiguration, match=r"exists|not empty"):
        restore(tmp_path / "backup", target, keys=None)


def test_a_backup_that_is_damaged_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.sqlite'}"
    Store.open(url).close()
    take(url, tmp_path / "backup", keys=None, now_ns=7)
    check(tmp_path / "backup")
    with pytest.raises(FixConfiguration, match="exists"):
        take(url, tmp_path / "backup", keys=None, now_ns=7)
    with (tmp_path / "backup" / "store.sqlite").open("r+b") as file:
        file.seek(5_000)
        file.write(b"\xff\xff\xff")
    with pytest.raises(Isolate, match="damaged"):
        restore(tmp_path / "backup", f"sqlite:///{tmp_path / 'new.sqlite'}", keys=None)
    assert not (tmp_path / "new.sqlite").exists()


def test_the_commands_back_up_and_restore(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "fieldloop_store", *arguments],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    url = f"sqlite:///{tmp_path / 'store.sqlite'}"
    opened = Store.open(url)
    fill(opened)
    assert run("backup", "--store", url, str(tmp_path / "b")).returncode == 0
    new = f"sqlite:///{tmp_path / 'new.sqlite'}"
    done = run("restore", "--store", new, str(tmp_path / "b"))
    assert done.returncode == 0, done.stderr
    assert '"frames": 450' in done.stdout
    again = run("restore", "--store", new, str(tmp_path / "b"))
    assert again.returncode == 78
    assert "Traceback" not in again.stderr
    opened.close()


def at_first_release(url: str) -> Store:
    """A store as the first release left it."""
    store = Store.open(url)
    with store.begin() as connection:
        metadata.drop_all(connection)
        connection.exec_driver_sql("DROP TABLE alembic_version")
        _upgrade_to_first(connection)
    return store


def _upgrade_to_first(connection: object) -> None:
    from alembic.runtime.environment import EnvironmentContext  # noqa: PLC0415

    directory = scripts()

    def pending(current: object, _context: object) -> list[object]:
        return list(directory._upgrade_revs("0001", current))  # type: ignore[arg-type]

    with EnvironmentContext(Config(), directory, fn=pending) as environment:  # type: ignore[arg-type]
        environment.configure(connection=connection, target_metadata=metadata)  # type: ignore[arg-type]
        environment.run_migrations()


def test_a_copy_is_taken_before_a_migration(store_url: str, tmp_path: Path) -> None:
    old = at_first_release(store_url)
    assert revision(old) == "0001"
    with old.begin() as connection:
        connection.exec_driver_sql("INSERT INTO devices VALUES ('demo', 'subject-1', 5)")
    old.close()
    Store.open(store_url).close()
    if store_url.startswith("sqlite"):
        with sqlite3.connect(tmp_path / "store.sqlite.before-0001") as db:
            assert db.execute("SELECT * FROM devices").fetchall() == [("demo", "subject-1", 5)]
            assert db.execute("SELECT version_num FROM alembic_version").fetchone() == ("0001",)
        return
    opened = Store.open(store_url)
    with opened.read() as connection:
        rows = connection.exec_driver_sql("SELECT * FROM fieldloop_before_0001.devices").all()
        assert [tuple(row) for row in rows] == [("demo", "subject-1", 5)]
    opened.close()


def test_a_store_that_refuses_its_user_is_a_fault_of_configuration() -> None:
    url = shared_postgres().new_database()
    for wrong in (url.replace("fieldloop@", "nobody@"), url + "-not-there"):
        with pytest.raises(FixConfiguration, match="refuses"):
            Store.open(wrong)
