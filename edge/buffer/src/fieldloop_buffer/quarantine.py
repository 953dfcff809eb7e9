"""A damaged log file: set aside, its readable pending rows carried into a new one.

Steps, each of which may be interrupted and is then taken again: the new file is made beside the old
one (`PATH.new`) and marked ready; the old write-ahead log, then the old file are renamed to
`PATH.corrupt-<time>`; the new file takes the name. Rows are carried by key, over holes, each
checked by its checksum, and stay under their own epoch; what was pending and cannot be read is
counted as dropped, with cause `corrupt`. The newest `KEPT` damaged files are kept for inspection.

`PATH.epochs` repeats the epochs by number, so that rows can be told apart even where that table is
among what was lost. Owner thread only, with no other connection of this process open.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fieldloop_buffer import schema
from fieldloop_buffer.connection import FAILURES, open_reader, open_writer, sync_folder
from fieldloop_buffer.entry import KIND_OF, SEQ_BITS, split_id
from fieldloop_buffer.ledger import Account, Books
from fieldloop_buffer.payload import checksum
from fieldloop_buffer.rowstore import RowStore, RowTuple
from fieldloop_contract.ids import EPOCH_PATTERN

KEPT = 1
READY_KEY = "log.ready"
CAUSE = "corrupt"
_FIRST_PAGE = "-page1"
_PARTS = ("-wal", "-shm", _FIRST_PAGE)
_PAGE_BYTES, _PAGE_COUNT_OFFSET = 4096, 28
"""Page count, then first page and length of the free list: https://www.sqlite.org/fileformat2.html"""
_STEP_ROWS = 200
_HOLE_MAX = 1 << 20
_FAILURES_MAX = 20_000


@dataclass(slots=True)
class Salvage:
    """What became of a damaged file."""

    file: str
    salvaged: int = 0
    lost: int = 0
    state_lost: bool = False
    epochs: list[str] = field(default_factory=list)


def write_sidecar(path: str, books: Books) -> None:
    """Write `PATH.epochs`, durably."""
    names = {str(no): account.epoch for no, account in books.accounts.items()}
    temporary = path + ".epochs.tmp"
    with open(temporary, "w", encoding="ascii") as file:
        json.dump(names, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path + ".epochs")
    sync_folder(path)


def _read_sidecar(path: str) -> dict[int, str]:
    try:
        with open(path + ".epochs", encoding="ascii") as file:
            return {int(no): str(epoch) for no, epoch in json.load(file).items()}
    except (OSError, ValueError, AttributeError):
        return {}


def finish(path: str) -> None:
    """Finish a replacement that was interrupted, or clear away one that was not ready."""
    new = path + ".new"
    if not os.path.exists(new):
        return
    ready = False
    with contextlib.suppress(*FAILURES):
        connection = sqlite3.connect(new)
        try:
            ready = (
                connection.execute("SELECT 1 FROM state WHERE key = ?", (READY_KEY,)).fetchone()
                is not None
            )
        finally:
            connection.close()
    if ready:
        _swap(path, _free_name(path))
    else:
        _remove(new)


def replace(path: str, known: dict[int, Account]) -> Salvage:
    """Replace the damaged file at `path`.

    Args:
        known: the books, where the caller had them in memory; otherwise they are read.

    Raises:
        sqlite3.Error, FieldloopError: the new file cannot be made.
    """
    new = path + ".new"
    _remove(new)
    for old in _kept(path)[: -KEPT + 1 or None]:
        _remove(str(old))
    schema.ensure(new, 0)
    name = _free_name(path)
    if not _schema_readable(path):
        _graft_first_page(path, new, name)
    report = Salvage(file=os.path.basename(name))
    connection = open_writer(new)
    try:
        connection.execute("PRAGMA synchronous=NORMAL")
        _carry(path, connection, known, report)
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("INSERT INTO state (key, value) VALUES (?, '1')", (READY_KEY,))
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        connection.close()
    _swap(path, name)
    return report


def _schema_readable(path: str) -> bool:
    try:
        old = open_reader(path)
    except FAILURES:
        return False
    try:
        old.execute("SELECT id FROM rows WHERE id = 0").fetchone()
    except FAILURES:
        return False
    finally:
        old.close()
    return True


def _graft_first_page(path: str, new: str, name: str) -> None:
    """Give a file whose first page is damaged that of a new one, and keep what was there.

    The first page holds the header and the schema, and is written more often than any other. All
    logs are made by the same migrations, so their tables begin at the same pages. Without it no row
    could be reached.
    """
    pages = os.path.getsize(path) // _PAGE_BYTES
    if pages < 2:
        return
    with open(new, "rb") as file:
        page = bytearray(file.read(_PAGE_BYTES))
    struct.pack_into(">III", page, _PAGE_COUNT_OFFSET, pages, 0, 0)
    with open(path, "r+b") as file:
        with open(name + _FIRST_PAGE, "wb") as kept:
            kept.write(file.read(_PAGE_BYTES))
        file.seek(0)
        file.write(page)


def _kept(path: str) -> list[Path]:
    folder, stem = Path(path).absolute().parent, Path(path).name
    found = folder.glob(f"{stem}.corrupt-*")
    return sorted(p for p in found if not p.name.endswith(_PARTS))


def _free_name(path: str) -> str:
    numbers = [int(p.name.rpartition("-")[2]) for p in _kept(path)]
    return f"{path}.corrupt-{max(numbers, default=0) + 1:06d}"


def _remove(path: str) -> None:
    for end in ("", *_PARTS):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path + end)


def _swap(path: str, name: str) -> None:
    # The old write-ahead log goes first: it must never stand beside the new file.
    for end in ("-wal", ""):
        with contextlib.suppress(FileNotFoundError):
            os.rename(path + end, name + end)
    for end in ("-shm", "-wal"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path + end)
    sync_folder(path)
    os.rename(path + ".new", path)
    for end in ("-shm", "-wal"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path + ".new" + end)
    sync_folder(path)


def _carry(path: str, new: sqlite3.Connection, known: dict[int, Account], report: Salvage) -> None:
    """Carry epochs, state and pending rows over; what cannot be read is counted."""
    try:
        old = open_reader(path)
    except FAILURES:
        old = None
    accounts = known or _read_accounts(old, _read_sidecar(path))
    for account in accounts.values():
        new.execute(
            "INSERT INTO epochs (no, epoch, next_seq, durable_seq, stored, pending, withheld,"
            " created_ns) VALUES (?, ?, 1, 0, 0, 0, 0, 0)",
            (account.no, account.epoch),
        )
    store = RowStore(new)
    report.state_lost = not _carry_state(old, new)
    if old is not None:
        streams = _read_streams(old)
        with contextlib.suppress(sqlite3.OperationalError):  # the disk is full: the rest is lost
            for rows in _readable(old, accounts):
                report.salvaged += _insert(store, new, rows, streams)
        old.close()
    for account in accounts.values():
        report.lost += _close_account(store, account)
        report.epochs.append(account.epoch)


def _read_accounts(old: sqlite3.Connection | None, names: dict[int, str]) -> dict[int, Account]:
    """The books as far as they can be read; `stored` is -1 where only the epoch is known."""
    found: dict[int, Account] = {}
    if old is not None:
        with contextlib.suppress(*FAILURES):
            found = {no: a for no, a in Books(old).accounts.items() if _plausible(a)}
    return {no: Account(no, epoch, stored=-1) for no, epoch in names.items()} | found


def _plausible(account: Account) -> bool:
    numbers = (account.next_seq - 1, account.stored, account.pending, account.withheld)
    return (
        re.fullmatch(EPOCH_PATTERN, account.epoch) is not None
        and min(numbers) >= 0
        and account.totals().balanced
    )


def _carry_state(old: sqlite3.Connection | None, new: sqlite3.Connection) -> bool:
    if old is None:
        return False
    try:
        rows = old.execute("SELECT key, value FROM state WHERE key <> ?", (READY_KEY,)).fetchall()
        rejects = old.execute("SELECT code, n FROM rejects").fetchall()
    except FAILURES:
        return False
    new.executemany("INSERT INTO state (key, value) VALUES (?, ?)", rows)
    new.executemany("INSERT INTO rejects (code, n) VALUES (?, ?)", rejects)
    return True


def _read_streams(old: sqlite3.Connection) -> dict[int, str]:
    try:
        return dict(old.execute("SELECT no, stream FROM streams").fetchall())
    except FAILURES:
        return {}


def _readable(
    old: sqlite3.Connection, accounts: dict[int, Account]
) -> Iterator[list[tuple[RowTuple, bool]]]:
    """Rows that can be read and whose checksum is right, with whether they are pending."""
    at, end = 0, (max(accounts, default=0) + 1) << SEQ_BITS
    hole = failures = 0
    limit = _STEP_ROWS
    while at < end and failures < _FAILURES_MAX:
        try:
            rows = old.execute(
                "SELECT id, kind, stream, t_ns, at_s, withheld, crc, payload FROM rows"
                " WHERE id > ? ORDER BY id LIMIT ?",
                (at, limit),
            ).fetchall()
        except FAILURES:
            failures += 1
            if limit > 1:
                limit = 1
                continue
            hole = min(hole * 2 or 1, _HOLE_MAX)
            at += hole
            continue
        if not rows:
            return
        # In a damaged tree rows may come twice or out of order; the key is under the checksum.
        good = {row[0]: row for row in rows if row[0] > at and _sound(row, accounts)}
        if not good:
            hole = min(hole * 2 or 1, _HOLE_MAX)
            at, failures = at + hole, failures + 1
            continue
        hole, limit, at = 0, _STEP_ROWS, max(good)
        yield [(good[key], _was_pending(old, good[key])) for key in sorted(good)]


def _sound(row: RowTuple, accounts: dict[int, Account]) -> bool:
    key, kind, _, t_ns, _, withheld, crc, payload = row
    return (
        kind in KIND_OF
        and split_id(key)[0] in accounts
        and isinstance(payload, bytes)
        and checksum(key, kind, t_ns, bool(withheld), payload) == crc
    )


def _was_pending(old: sqlite3.Connection, row: RowTuple) -> bool:
    if row[5]:
        return False
    try:
        found = old.execute(
            "SELECT last FROM pending WHERE first <= ? ORDER BY first DESC LIMIT 1", (row[0],)
        ).fetchone()
    except FAILURES:
        return True  # better sent twice than not at all: the cloud ignores what it has
    return found is not None and found[0] >= row[0]


def _insert(
    store: RowStore,
    new: sqlite3.Connection,
    rows: list[tuple[RowTuple, bool]],
    streams: dict[int, str],
) -> int:
    new.execute("BEGIN IMMEDIATE")
    try:
        carried: list[RowTuple] = []
        for row, pending in rows:
            account = store.books.accounts[split_id(row[0])[0]]
            account.next_seq = max(account.next_seq, split_id(row[0])[1] + 1)
            if row[5]:
                account.withheld += 1
            elif not pending:
                account.stored += 1
            else:
                name = streams.get(row[2], f"stream-{row[2]}")
                carried.append((*row[:2], store.stream_no(name), *row[3:]))
        store.insert(carried)
        for no in {split_id(row[0])[0] for row, _ in rows}:
            store.books.save(store.books.accounts[no])
        new.execute("COMMIT")
    except BaseException:
        new.execute("ROLLBACK")
        raise
    return len(carried)


def _close_account(store: RowStore, old: Account) -> int:
    """Balance one epoch after salvage; returns the rows lost."""
    carried = store.books.accounts[old.no]
    if old.stored >= 0:
        carried.next_seq = old.next_seq
        carried.stored, carried.withheld = old.stored, old.withheld
        carried.dropped, carried.drops_changed = dict(old.dropped), True
        lost = old.pending - carried.pending
    else:
        lost = carried.next_seq - 1 - carried.pending - carried.stored - carried.withheld
    carried.durable_seq = carried.next_seq - 1
    carried.drop(CAUSE, max(lost, 0))
    if lost < 0:  # rows whose acknowledgement could not be read count as pending again
        carried.stored += lost
    store.books.save(carried)
    return max(lost, 0)
