"""The file under a log: opened, checked, replaced when damaged, kept within its bounds.

Owns the writer's lock and connection, and what belongs to one file: rows, books, room, untold
drops. `guarded` runs a write so that a full disk is relieved and a damaged file is replaced before
it is run again. Owner thread only.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from fieldloop_buffer import opening, quarantine, schema
from fieldloop_buffer.connection import FAILURES, open_writer, sync_folder, translate
from fieldloop_buffer.drops import DropNotes
from fieldloop_buffer.identity import file_fingerprint, machine_fingerprint
from fieldloop_buffer.ledger import Account
from fieldloop_buffer.retention import (
    ROW_OVERHEAD_BYTES,
    Bounds,
    LogClock,
    bytes_to_free,
    enough,
    in_turn,
)
from fieldloop_buffer.room import Room
from fieldloop_buffer.rowstore import RowStore
from fieldloop_buffer.settings import LogSettings
from fieldloop_contract.errors import FieldloopError, Isolate, OutOfSpace
from fieldloop_contract.messages import Policy
from fieldloop_runtime.clock import boot_id
from fieldloop_runtime.journal import Journal, Throttle

COMPLAINTS_MAX = 3
DECIMATED = "decimated"
_FULL_CHECK_S = 60.0
_LOOK_BYTES = 32 * 1024
T = TypeVar("T")
Tell = Callable[[str, dict[str, Any]], None]


class LogFile:
    """One file, open for writing.

    Args:
        policies: what goes at the bound, by stream; others have `settings.policy`.
        tell: takes the type and data of an event that the log has to hold.
        own: stream of such events, which tell of drops and are the last to be dropped.

    Attributes:
        account: the books of the current epoch.
        full: at the bound with nothing left to delete: `drop_newest` streams are refused.
        generation: grows with each other file and each other epoch.
    """

    db: sqlite3.Connection
    store: RowStore
    room: Room
    notes: DropNotes
    clock: LogClock
    account: Account

    def __init__(
        self,
        settings: LogSettings,
        policies: Mapping[str, Policy],
        journal: Journal,
        tell: Tell,
        own: str,
        boot: str = "",
    ) -> None:
        self.full = False
        self.generation = 0
        self.quarantined = 0
        self.out_of_space = 0
        self.bounds = Bounds.of(settings.bytes_max, settings.reserve_bytes)
        self.path = settings.path
        self._settings = settings
        self._policies = dict(policies)
        self._journal = journal
        self._tell = tell
        self._own = own
        self.boot = boot or boot_id()
        self._noise = Throttle(60)
        self._complaints = 0
        self._synchronous = ""
        self._spare_bytes = 0
        self._thinned_to = 0
        self._lock = opening.lock_writer(settings.path)

    # ---- opening and replacing -----------------------------------------------------------------

    def attach(self) -> None:
        """Open the file, making, migrating or replacing it as needed.

        Raises:
            OutOfSpace, RetryLater: not now; the lock is released.
        """
        try:
            self._attach(None, self._settings.check_s_max)
        except FAILURES as error:
            self._lock.close()
            raise translate(error, self.path) from error
        except BaseException:
            self._lock.close()
            raise

    def _attach(self, damage: str | None, check_s_max: float) -> None:
        known = self.store.books.snapshot() if hasattr(self, "store") else {}
        quarantine.finish(self.path)
        version = 0
        if damage is None:
            try:
                version = opening.inspect(self.path, check_s_max)
            except Isolate as error:
                damage = str(error)
        salvage = None if damage is None else quarantine.replace(self.path, known)
        if salvage is None:
            schema.ensure(self.path, version)
            sync_folder(self.path)
        self.db = open_writer(self.path)
        self._synchronous, self._spare_bytes, self._thinned_to = "", 0, 0
        self.store = RowStore(self.db)
        self.room = Room(self.db, self.path, self.bounds)
        self.notes = DropNotes(self.db)
        self.clock = LogClock(self.store.newest_at_s())
        self.room.keep_reserve()
        self._begin(replaced=salvage is not None)
        self.generation += 1
        if salvage is not None:
            self._tell_quarantine(salvage, damage or "")

    def _begin(self, *, replaced: bool) -> None:
        """Begin or resume an epoch, and remember which file on which machine this is."""
        identity = opening.Identity(
            machine_fingerprint(), file_fingerprint(self.path), self.boot, self._settings.mode
        )
        last, clean = opening.read_identity(self.db)
        reason = opening.new_epoch_reason(last, identity, clean=clean)
        account = self.store.books.newest()
        with self.transaction(full=True):
            opening.write_identity(self.db, identity, clean=False)
            if replaced or reason is not None or account is None:
                account = self._open_epoch("damaged file" if replaced else reason or "new file")
        self.account = account
        quarantine.write_sidecar(self.path, self.store.books)

    def _open_epoch(self, reason: str) -> Account:
        books = self.store.books
        for old in books.accounts.values():
            old.durable_seq = old.next_seq - 1
            books.save(old)
        books.forget_closed()
        account = books.open(uuid.uuid4().hex, time.time_ns())
        self._journal.info("log.epoch", epoch=account.epoch, reason=reason)
        return account

    def next_epoch(self, reason: str) -> None:
        """Begin a new epoch in this file."""
        with self.transaction(full=True):
            account = self._open_epoch(reason)
        self.account = account
        self.generation += 1
        quarantine.write_sidecar(self.path, self.store.books)

    def _tell_quarantine(self, salvage: quarantine.Salvage, damage: str) -> None:
        self.quarantined += 1
        self._journal.error("log.quarantined", file=salvage.file, lost=salvage.lost, reason=damage)
        self._tell(
            "log.quarantined",
            {
                "file": salvage.file,
                "reason": damage[:300],
                "salvaged": salvage.salvaged,
                "lost": salvage.lost,
                "state_lost": salvage.state_lost,
                "epochs": salvage.epochs[-50:],
            },
        )

    def complaint(self) -> None:
        """A reader found the file malformed: check all of it, and replace it if that is so.

        After `COMPLAINTS_MAX` complaints that the check does not confirm, it is replaced anyway.
        """
        self._complaints += 1
        damage = None
        if self._complaints >= COMPLAINTS_MAX:
            damage, self._complaints = "readers found it malformed again and again", 0
        self._reattach(damage)

    def _reattach(self, damage: str | None) -> None:
        self.db.close()
        try:
            self._attach(damage, _FULL_CHECK_S)
        except FAILURES as error:
            raise translate(error, self.path) from error

    def close(self) -> None:
        """Mark the log as closed, give its write-ahead log back, and let go of the file."""
        try:
            with self.transaction(full=True):
                self.db.execute("UPDATE state SET value = '1' WHERE key = 'log.clean'")
            self.room.checkpoint(truncate=True)
        finally:
            self.release()

    def release(self) -> None:
        """Let go of the file as it is."""
        self.db.close()
        self._lock.close()

    # ---- writing ---------------------------------------------------------------------------------

    @contextmanager
    def transaction(self, *, full: bool, rows_bytes: int = 0) -> Iterator[None]:
        """All or nothing, on disk and in memory; `full` syncs it.

        Args:
            rows_bytes: bytes of rows that will be inserted.

        Raises:
            OutOfSpace, Isolate, RetryLater: SQLite's errors, translated.
        """
        store, notes = self.store.snapshot(), self.notes.snapshot()
        try:
            synchronous = "FULL" if full else "NORMAL"
            if synchronous != self._synchronous:
                self.db.execute(f"PRAGMA synchronous={synchronous}")
                self._synchronous = synchronous
            self.db.execute("BEGIN IMMEDIATE")
            yield
            self.db.execute("COMMIT")
            self.room.wrote(rows_bytes)
        except BaseException as error:
            with contextlib.suppress(*FAILURES):  # SQLite may have rolled back by itself
                self.db.execute("ROLLBACK")
            self.store.restore(store)
            self.notes.restore(notes)
            if hasattr(self, "account"):
                self.account = self.store.books.accounts[self.account.no]
            if isinstance(error, FAILURES):
                raise translate(error, self.path) from error
            raise

    def guarded(self, act: Callable[[], T], bytes_needed: int) -> T:
        """Run a write; on a full disk make room and run it again, on damage replace the file.

        Raises:
            OutOfSpace: there is no room even so.
        """
        try:
            return act()
        except Isolate as error:
            self._reattach(str(error))
            return act()
        except OutOfSpace as error:
            try:
                if error.code == "space.pinned":
                    raise
                self._relieve(bytes_needed)
                return act()
            except FieldloopError:
                self.out_of_space += 1
                if self._noise.allow():
                    self._journal.error("log.out_of_space", code=error.code, error=str(error))
                raise error from None

    def _relieve(self, bytes_needed: int) -> None:
        """Make room on a full disk: the reserve goes, then the oldest rows."""
        self.room.free_reserve()
        self.room.checkpoint()
        with self.transaction(full=False):
            self.make_room(max(bytes_needed, self.bounds.reserve_bytes // 4), "space")

    def policy(self, stream: str) -> Policy:
        """What goes at the bound."""
        return self._policies.get(stream, self._settings.policy)

    def delete(self, keys: Iterable[int], cause: str) -> None:
        """Delete rows and note those that were pending as dropped. In a transaction."""
        self.notes.add(cause, self.store.delete(keys, cause), self.store.books)

    def keep_bound(self, written_bytes: int) -> None:
        """Make room for the bound in bytes, if what was written may have reached it.

        Sizes are read only when twice of what was written since has used up what was free then: no
        row takes more than that, but for the small ones that `_LOOK_BYTES` stands for. In a
        transaction.
        """
        self._spare_bytes -= 2 * written_bytes + _LOOK_BYTES
        if self._spare_bytes <= 0:
            usage = self.room.usage()
            self.make_room(bytes_to_free(usage, self.bounds), "size")
            self._spare_bytes = self.bounds.data_bytes_max - usage.data_bytes

    def make_room(self, target_bytes: int, cause: str) -> None:
        """Delete until `target_bytes` are free, in the order of `retention`. In a transaction."""
        target = min(target_bytes, 2 * self.bounds.buffer_bytes_max)
        streams = self.store.streams()
        spared = [s for s in streams if self.policy(s) == "drop_newest"]
        thinned = [s for s in streams if self.policy(s) == "decimate"]
        not_oldest = [*spared, *thinned]
        thin: set[int] = set()

        def raw() -> list[tuple[int, int]]:
            oldest = self.store.oldest_pending(bulk_only=True, spared=not_oldest)
            if not thinned:
                return oldest
            rows = self._thinnable(thinned)
            thin.update(key for key, _ in rows)
            return in_turn(oldest, rows)

        choices: tuple[Callable[[], list[tuple[int, int]]], ...] = (
            self.store.oldest_settled,
            raw,
            lambda: self.store.oldest_pending(bulk_only=False, spared=[*spared, self._own]),
            lambda: self.store.oldest_pending(bulk_only=False, spared=spared),
        )
        freed = 0
        for choose in choices:
            while freed < target and (rows := choose()):
                keys = enough(rows, target - freed)
                freed += sum(n + ROW_OVERHEAD_BYTES for _, n in rows[: len(keys)])
                if thinning := sorted(thin.intersection(keys)):
                    self._thinned_to = thinning[-1]
                    self.delete(thinning, DECIMATED)
                self.delete((key for key in keys if key not in thin), cause)
                thin.clear()
        self.full = freed < target

    def _thinnable(self, streams: list[str]) -> list[tuple[int, int]]:
        """Rows by which `decimate` streams are thinned: sweep after sweep over all that waits.

        So that all of a stream's span stays, evenly, at a half, a quarter, ... of its rows.
        """
        rows = self.store.thinnable(self._thinned_to, streams)
        if not rows and self._thinned_to:
            self._thinned_to = 0
            rows = self.store.thinnable(0, streams)
        return rows
