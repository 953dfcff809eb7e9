"""Backup and restore of everything the cloud cannot make again: store, registry, keys.

A backup is a folder: `store.sqlite` (all tables, models and their files included, whichever back
end they came from), `keys/` where a folder of keys was given, and `backup.json` with the digest of
each file. It is one consistent view, taken while services write; it is complete or not there at
all. It holds private keys if it was given them: the folder is readable by its owner only.

Since the copy is always SQLite, a store moves from SQLite to PostgreSQL, and back, by a backup and
a restore. What devices sent after the backup was taken is asked of them again by telemetry, which
finds it lacking in the books.

Restoring fills an empty store and never overwrites one. Nothing else may run on the store during a
restore; a backup disturbs nobody. Any thread.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from sqlalchemy import Connection, Table, func, insert, select, tuple_
from sqlalchemy.engine import make_url

from fieldloop_contract.errors import FixConfiguration, Isolate
from fieldloop_store.engine import Store
from fieldloop_store.schema import metadata

FORMAT = 1
_STORE, _KEYS, _DESCRIPTION = "store.sqlite", "keys", "backup.json"
_PAGE_ROWS = 200
_COPY_BLOCK = 1 << 20
_KEY_FILES_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Backup:
    """What a backup says of itself; `files` maps relative paths to their sha256."""

    format: int
    taken_ns: int
    revision: str
    rows: dict[str, int]
    files: dict[str, str]


def take(url: str, target: Path, *, keys: Path | None, now_ns: int) -> Backup:
    """Back the store at `url` up into the new folder `target`.

    Args:
        keys: delivery's folder of keys, copied whole.

    Raises:
        FixConfiguration: `target` exists, there is no store, or a folder cannot be written.
        RetryLater: the database is away.
    """
    if target.exists():
        raise FixConfiguration(f"{target} exists", hint="a backup is a new folder")
    store = Store.open(url, create=False)
    try:
        with _new_folder(target) as folder:
            if store.engine.dialect.name == "sqlite":
                copy_sqlite(Path(str(store.engine.url.database)), folder / _STORE)
            else:
                _copy_tables(store, Store.open(f"sqlite:///{folder / _STORE}"), close=True)
            if keys is not None:
                _copy_keys(keys, folder / _KEYS)
            standing, rows = _contents(folder / _STORE)
            backup = Backup(FORMAT, now_ns, standing, rows, _digests(folder))
            text = json.dumps(asdict(backup), indent=2, sort_keys=True)
            _write(folder / _DESCRIPTION, text.encode() + b"\n")
    except OSError as error:
        raise FixConfiguration(f"backup to {target}: {error}") from error
    finally:
        store.close()
    return backup


def restore(source: Path, url: str, *, keys: Path | None) -> Backup:
    """Fill an empty store, and an empty folder of keys, from a backup.

    Raises:
        FixConfiguration: the store or the folder of keys is not empty, or cannot be written.
        Isolate: the backup is damaged or incomplete.
        RetryLater: the database is away.
    """
    backup = check(source)
    if keys is not None:
        if not (source / _KEYS).is_dir():
            raise FixConfiguration(f"{source} holds no keys", hint="leave --keys out")
        if keys.exists() and any(keys.iterdir()):
            raise FixConfiguration(f"{keys} is not empty", hint="a restore overwrites nothing")
    try:
        with tempfile.TemporaryDirectory(prefix="fieldloop-restore-") as work:
            _fill(source / _STORE, url, Path(work))
        if keys is not None:
            _copy_keys(source / _KEYS, keys)
    except OSError as error:
        raise FixConfiguration(f"restore of {source}: {error}") from error
    return backup


def check(source: Path) -> Backup:
    """Read a backup's description and compare every file with its digest.

    Raises:
        Isolate: it is damaged or incomplete.
    """
    try:
        document = json.loads((source / _DESCRIPTION).read_bytes())
        backup = Backup(**document)
        if backup.format != FORMAT:
            raise Isolate(f"{source}: backup format {backup.format}", code="backup.format")
        found = _digests(source)
    except (OSError, ValueError, TypeError) as error:
        raise Isolate(f"{source} is no backup: {error}", code="backup.damaged") from error
    wrong = sorted(
        name for name in backup.files | found if backup.files.get(name) != found.get(name)
    )
    if wrong:
        raise Isolate(f"{source} is damaged: {', '.join(wrong[:5])}", code="backup.damaged")
    return backup


def copy_sqlite(source: Path, target: Path) -> None:
    """One consistent copy of a database in use, by SQLite's own backup; replaces `target`.

    Raises:
        FixConfiguration: it cannot be written.
    """
    part = target.with_name(target.name + ".part")
    part.unlink(missing_ok=True)
    try:
        with (
            closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as reader,
            closing(sqlite3.connect(part)) as writer,
        ):
            # All pages in one step: a writer meanwhile can neither be blocked nor restart the copy.
            reader.backup(writer, pages=-1)
            writer.execute("PRAGMA journal_mode=DELETE")
    except sqlite3.Error as error:
        part.unlink(missing_ok=True)
        raise FixConfiguration(f"copy of {source} to {target}: {error}") from error
    part.chmod(0o600)
    _sync(part)
    part.replace(target)
    _sync(target.parent)


def _fill(copy: Path, url: str, work: Path) -> None:
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        path = Path(str(parsed.database))
        if path.exists():
            raise FixConfiguration(f"{path} exists", hint="a restore overwrites nothing")
        # As other services' files, under the umask of whoever runs them.
        shutil.copyfile(copy, path.with_name(path.name + ".part"))
        _sync(path.with_name(path.name + ".part"))
        path.with_name(path.name + ".part").replace(path)
        _sync(path.parent)
        Store.open(url).close()
        return
    # A backup of an earlier release is brought up to this one on a copy.
    shutil.copyfile(copy, work / _STORE)
    source = Store.open(f"sqlite:///{work / _STORE}")
    target = Store.open(url)
    try:
        with target.read() as connection:
            for table in metadata.sorted_tables:
                if connection.execute(select(func.count()).select_from(table)).scalar_one():
                    raise FixConfiguration(
                        f"{table.name} is not empty", hint="a restore overwrites nothing"
                    )
        _copy_tables(source, target, close=False)
    finally:
        source.close()
        target.close()


def _copy_tables(source: Store, target: Store, *, close: bool) -> None:
    """All rows of all tables, one consistent view into one transaction, in pages by primary key."""
    try:
        with source.read() as reader, target.begin() as writer:
            for table in metadata.sorted_tables:
                _copy_table(reader, writer, table)
    finally:
        if close:
            target.close()


def _copy_table(reader: Connection, writer: Connection, table: Table) -> None:
    key = list(table.primary_key.columns)
    at = [list(table.columns).index(column) for column in key]
    after: tuple[object, ...] | None = None
    while True:
        query = select(table).order_by(*key).limit(_PAGE_ROWS)
        if after is not None:
            query = query.where(tuple_(*key) > tuple_(*after))
        rows = reader.execute(query).all()
        if rows:
            writer.execute(insert(table), [dict(row._mapping) for row in rows])
            after = tuple(rows[-1][i] for i in at)
        if len(rows) < _PAGE_ROWS:
            break
    counted = "id" in table.c and table.c.id.type.python_type is int
    if after is not None and counted and writer.dialect.name == "postgresql":
        writer.exec_driver_sql(
            f"SELECT setval(pg_get_serial_sequence('{table.name}', 'id'),"
            f" (SELECT max(id) FROM {table.name}))"
        )


def _contents(path: Path) -> tuple[str, dict[str, int]]:
    """Migration and rows by table of a copy; leaves it one plain file."""
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode=DELETE")
        (standing,) = db.execute("SELECT version_num FROM alembic_version").fetchone()
        names = {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type='table'")}
        rows = {
            table.name: int(db.execute(f"SELECT count(*) FROM {table.name}").fetchone()[0])
            for table in metadata.sorted_tables
            if table.name in names
        }
    path.chmod(0o600)
    return str(standing), rows


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """A folder that appears under its name only when it is complete and on disk."""
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(mode=0o700, parents=True)
    try:
        yield part
        for path in sorted(part.rglob("*")):
            _sync(path)
        _sync(part)
        part.rename(target)
        _sync(target.parent)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _copy_keys(source: Path, target: Path) -> None:
    if not source.is_dir():
        raise FixConfiguration(f"{source} is no folder of keys")
    paths = sorted(path for path in source.rglob("*"))
    if len(paths) > _KEY_FILES_MAX:
        raise FixConfiguration(f"{source} holds {len(paths)} files", hint="is it the right folder?")
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in paths:
        copy = target / path.relative_to(source)
        if path.is_dir():
            copy.mkdir(mode=0o700, exist_ok=True)
        elif path.is_file():
            shutil.copyfile(path, copy)
            copy.chmod(0o600)
            _sync(copy)


def _digests(folder: Path) -> dict[str, str]:
    digests = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != _DESCRIPTION and not name.endswith(("-wal", "-shm")):
            state = hashlib.sha256()
            with path.open("rb") as file:
                while block := file.read(_COPY_BLOCK):
                    state.update(block)
            digests[name] = state.hexdigest()
    return digests


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    path.chmod(0o600)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
