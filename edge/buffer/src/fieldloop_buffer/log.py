"""The log: one writer, one thread, one SQLite file in WAL mode.

Promises. What `commit` returned as durable survives a power cut. A seq is given out once within an
epoch. Whatever was produced is stored in the cloud, pending, withheld or dropped by cause, counted
in the same transactions as the rows. Every drop becomes an event in this log. The file, its
write-ahead log and its reserve stay within `bytes_max`.

What `append` took waits in memory, bounded, until `commit` puts it on disk together with the state
that was set around it; where the disk is full it goes on waiting there, and nothing is half taken.
Rows beyond the durable watermark are invisible to readers and uplink. Nothing is written when idle.

Does not talk to the network, start threads or read sensors.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fieldloop_buffer.answers import Answers
from fieldloop_buffer.deadletters import DeadLetter, DeadLetters, reject_counts
from fieldloop_buffer.entry import (
    CODE_OF,
    PAYLOAD_BYTES_MAX,
    SEQ_BITS,
    SEQ_MAX,
    Entry,
    row_id,
    split_id,
)
from fieldloop_buffer.events import event_entry
from fieldloop_buffer.logfile import LogFile
from fieldloop_buffer.orders import Order, Unreadable
from fieldloop_buffer.payload import checksum
from fieldloop_buffer.ranges import Range, runs
from fieldloop_buffer.retention import ROW_OVERHEAD_BYTES, bytes_to_free
from fieldloop_buffer.room import COMMIT_OVERHEAD_BYTES
from fieldloop_buffer.rowstore import Dropped, RowStore, RowTuple
from fieldloop_buffer.settings import LogSettings
from fieldloop_contract.errors import LimitExceeded, OutOfSpace
from fieldloop_contract.ids import check_id
from fieldloop_contract.messages import Ack, LedgerTotals, Policy, Want
from fieldloop_runtime.journal import Journal

BUFFER_ROWS_MAX = 4_096
WRITE_ROWS = 256
STATE_BYTES_MAX = 64 * 1024
STATE_KEYS_MAX = 1_000
_WRITES_PER_INTERVAL = 4
_ROW_BYTES, _ROW_BYTES_SHARE = 1_000, 0.05


class Log:
    """One log file, open for writing. Made by `open`; owner thread only."""

    def __init__(
        self,
        settings: LogSettings,
        source: str,
        policies: Mapping[str, Policy],
        journal: Journal,
        boot: str = "",
    ) -> None:
        self.settings = settings
        self._source = source
        self._service = source.rpartition("/")[2]
        self._journal = journal
        self._buffer: list[RowTuple] = []
        self._refused: list[tuple[int, str]] = []
        self._buffer_bytes = 0
        self._states: dict[str, str] = {}
        self._letters = DeadLetters()
        self._unsynced = False
        self._written_s = self._synced_s = float("-inf")
        self._next_seq = 1
        self._epoch_no = 0
        self._at_s = 0
        self._row_bytes = float(_ROW_BYTES)
        self._store: RowStore | None = None
        self._stream_nos: dict[str, int] = {}
        self._generation = 0
        self._file = LogFile(settings, policies, journal, self._tell, self._service, boot)
        self._buffer_bytes_max = self._file.bounds.buffer_bytes_max
        self._answers = Answers(self._file, self._service, self.dead_letter)

    @classmethod
    def open(
        cls,
        settings: LogSettings,
        *,
        fleet: str,
        device: str,
        service: str,
        journal: Journal | None = None,
        policies: Mapping[str, Policy] | None = None,
        boot: str = "",
    ) -> Log:
        """Open the log, making, migrating or replacing its file as needed.

        Args:
            policies: what goes at the bound, by stream; others have `settings.policy`.
            boot: id of this boot, 32 hex digits; "" for the machine's own.

        Raises:
            FixConfiguration: another process writes it, or the folder cannot be written.
            OutOfSpace, RetryLater: not now.
        """
        for value, what in ((fleet, "fleet"), (device, "device"), (service, "service")):
            check_id(value, what)
        source = f"{fleet}/{device}/{service}"
        log = cls(settings, source, policies or {}, journal or Journal("log"), boot)
        log._file.attach()
        log._rebind()
        log._row_bytes = log._file.store.mean_bytes() or _ROW_BYTES
        return log

    # ---- writing -------------------------------------------------------------------------------

    @property
    def epoch(self) -> str:
        """The current epoch, 32 hex digits."""
        return self._file.account.epoch

    @property
    def boot(self) -> str:
        """Id of the boot in which the log was opened, 32 hex digits."""
        return self._file.boot

    @property
    def durable_seq(self) -> int:
        """The durable watermark: what readers and uplink may see, and a power cut cannot take."""
        return self._file.account.durable_seq

    @property
    def quarantined(self) -> int:
        """How often a damaged file was replaced since the log was opened."""
        return self._file.quarantined

    @property
    def out_of_space(self) -> int:
        """How often a write found no room since the log was opened."""
        return self._file.out_of_space

    @property
    def path(self) -> str:
        """The log's file."""
        return self._file.path

    def append(self, entry: Entry) -> int:
        """Take an entry; it is on disk after `commit`.

        At the bound, an entry of a `drop_newest` stream is counted as dropped, and told.

        Returns:
            Its seq within the current epoch.

        Raises:
            LimitExceeded: larger than a row may be, or of one stream too many. Nothing was taken.
            OutOfSpace: memory is full and the disk takes no more. Nothing was taken.
        """
        size = len(entry.payload)
        if size > PAYLOAD_BYTES_MAX:
            raise LimitExceeded(f"a row of {size} bytes", code="log.payload")
        if entry.stream not in self._stream_nos:
            self._admit_stream(entry.stream)
        too_many = len(self._buffer) + len(self._refused) >= BUFFER_ROWS_MAX
        if too_many or self._buffer_bytes + size > self._buffer_bytes_max:
            self.commit(force=True)
        if self._next_seq > SEQ_MAX:
            self.commit(force=True)
            self._file.next_epoch("seq exhausted")
        return self._take(entry)

    def _admit_stream(self, stream: str) -> int:
        check_id(stream, "stream")
        no = self._stream_nos[stream] = self._file.store.stream_no(stream)
        return no

    def _take(self, entry: Entry) -> int:
        if self._file.generation != self._generation:
            self._rebind()
        seq = self._next_seq
        self._next_seq = seq + 1
        key = self._epoch_no << SEQ_BITS | seq
        if self._file.full and self._file.policy(entry.stream) == "drop_newest":
            self._refused.append((key, entry.stream))
            self._buffer_bytes += ROW_OVERHEAD_BYTES
        else:
            self._buffer.append(self._tuple(key, entry))
            self._buffer_bytes += ROW_OVERHEAD_BYTES + len(entry.payload)
        return seq

    def _rebind(self) -> None:
        """Follow the file into another epoch, or to another file, which numbers streams anew."""
        file, old = self._file, self._store
        if file.store is not old:
            names = old.names() if old is not None else {}
            self._buffer = [
                (*row[:2], file.store.stream_no(names[row[2]]), *row[3:]) for row in self._buffer
            ]
            self._store, self._stream_nos = file.store, {}
        self._generation = file.generation
        self._at_s = int(file.clock.now_s)
        if file.account.no != self._epoch_no:
            self._epoch_no, self._next_seq = file.account.no, file.account.next_seq

    def _tell(self, type_: str, data: dict[str, Any]) -> None:
        """Take an event about the log itself; it waits for the next commit like any other."""
        self._take(event_entry(self._source, type_, data, time.time_ns(), self._service))

    def commit(self, now_s: float | None = None, *, force: bool = False) -> int:
        """Put on disk what is due; call it in every turn of the owner's loop.

        In `durable` mode each call commits and syncs what waits. In `balanced` mode rows are
        written within a quarter of `commit_interval_ms` and synced once in it.

        Args:
            now_s: monotonic time in s; read here if None.
            force: write and sync now, whatever is due.

        Returns:
            The durable watermark of the current epoch.

        Raises:
            OutOfSpace: no room on the disk, or a reader pins the write-ahead log. What was appended
                waits in memory, and the next call tries again.
        """
        now = time.monotonic() if now_s is None else now_s
        write, sync = self._due(now, force)
        if not write and not sync:
            return self.durable_seq
        self._file.guarded(lambda: self._flush(full=sync), self._buffer_bytes)
        self._written_s = now
        if sync:
            self._synced_s = now
        return self.durable_seq

    def _due(self, now_s: float, force: bool) -> tuple[bool, bool]:
        """Whether to write, and whether to sync."""
        waits = bool(
            self._buffer or self._refused or self._states or self._letters or self._file.notes
        )
        if force or self.settings.mode == "durable":
            return waits, waits or self._unsynced
        interval_s = self.settings.commit_interval_ms / 1000
        write = waits and (
            len(self._buffer) >= WRITE_ROWS
            or now_s - self._written_s >= interval_s / _WRITES_PER_INTERVAL
        )
        sync = (waits or self._unsynced) and now_s - self._synced_s >= interval_s
        return write or (sync and waits), sync

    def _flush(self, *, full: bool) -> None:
        """One transaction: rows, state, dead letters, the books, and what the bound asks for."""
        file, store = self._file, self._file.store
        if not file.room.admit(self._buffer_bytes * 3 // 2 + COMMIT_OVERHEAD_BYTES):
            raise OutOfSpace(
                f"a reader pins the write-ahead log of {file.path} at its bound",
                code="space.pinned",
                hint="input is refused until the reader ends its transaction",
            )
        if file.generation != self._generation:
            self._rebind()
        first_seq = self._next_seq
        both: tuple[Sequence[tuple[Any, ...]], ...] = (self._buffer, self._refused)
        # Keys ascend, so that the first one shows whether any belongs to an older epoch.
        touched = {self._epoch_no}
        if any(rows[0][0] >> SEQ_BITS != self._epoch_no for rows in both if rows):
            touched |= {row[0] >> SEQ_BITS for rows in both for row in rows}
        # Readers take all of an older epoch as durable, so what still belongs to one is synced.
        full = full or len(touched) > 1
        with file.transaction(full=full, rows_bytes=self._buffer_bytes):
            store.insert(self._buffer)
            if self._refused:
                self._refuse()
            self._write_state()
            if self._letters:
                self._letters.write(file.db)
            file.keep_bound(self._buffer_bytes)
            told = self._tell_drops(first_seq)
            for no in touched:
                account = store.books.accounts[no]
                if full:
                    account.durable_seq = account.next_seq - 1
                store.books.save(account)
        self._next_seq = first_seq + told
        if self._buffer:
            mean = self._buffer_bytes / len(self._buffer)
            self._row_bytes += (mean - self._row_bytes) * _ROW_BYTES_SHARE
        self._buffer.clear()
        self._refused.clear()
        self._buffer_bytes = 0
        self._states.clear()
        self._letters.written()
        self._unsynced = not full

    def _tuple(self, key: int, entry: Entry) -> RowTuple:
        kind, t_ns, payload = CODE_OF[entry.kind], entry.t_ns, entry.payload
        withheld = 1 if entry.withheld else 0
        stream_no = self._stream_nos.get(entry.stream) or self._admit_stream(entry.stream)
        crc = checksum(key, kind, t_ns, entry.withheld, payload)
        return (key, kind, stream_no, t_ns, self._at_s, withheld, crc, payload)

    def _refuse(self) -> None:
        """Count entries that were refused at the bound: produced, and dropped."""
        for key, _ in self._refused:
            no, seq = split_id(key)
            account = self._file.store.books.accounts[no]
            account.next_seq = max(account.next_seq, seq + 1)
            account.drop("newest", 1)
        streams = Counter(stream for _, stream in self._refused)
        dropped = Dropped(streams, runs(key for key, _ in self._refused))
        self._file.notes.add("newest", dropped, self._file.store.books)

    def _write_state(self) -> None:
        if not self._states:
            return
        self._file.db.executemany(
            "INSERT INTO state (key, value) VALUES (?, ?)"
            " ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            list(self._states.items()),
        )

    def _tell_drops(self, seq: int) -> int:
        """Write an event for each cause of untold drops, from `seq` on; returns how many."""
        if not self._file.notes:
            return 0
        now_ns = time.time_ns()
        rows: list[RowTuple] = []
        for data in self._file.notes.take():
            self._journal.warning("log.dropped", cause=data["cause"], rows=data["rows"])
            entry = event_entry(self._source, "log.dropped", data, now_ns, self._service)
            rows.append(self._tuple(row_id(self._epoch_no, seq + len(rows)), entry))
        self._file.store.insert(rows)
        return len(rows)

    # ---- the cloud's answers ---------------------------------------------------------------------

    def acknowledge(self, epoch: str, ranges: Sequence[Range]) -> int:
        """Count rows as stored in the cloud. Repeated, late or foreign ranges change nothing.

        An acknowledgement that cannot be written (disk full) is forgotten: the rows are sent again.

        Returns:
            How many rows were not counted before.
        """
        return self._answers.acknowledge(epoch, ranges)

    def want(self, epoch: str, ranges: Sequence[Range]) -> int:
        """Put rows that are still held back to pending, as after a restore of the cloud's store.

        Returns:
            How many rows will be sent again; at most `accounting.WANT_ROWS_MAX` in one call.
        """
        return self._answers.want(epoch, ranges)

    def apply(self, orders: Iterable[Order]) -> None:
        """Do what the uplink handed over."""
        for order in orders:
            if isinstance(order, Ack):
                self.acknowledge(order.epoch, order.ranges)
            elif isinstance(order, Want):
                self.want(order.epoch, order.ranges)
            elif isinstance(order, Unreadable):
                self._answers.unreadable(order)
            else:
                self._answers.damaged(order)

    # ---- state, books, care ----------------------------------------------------------------------

    def state(self, key: str) -> str | None:
        """A value that `set_state` was given, committed or not yet."""
        if key in self._states:
            return self._states[key]
        row = self._file.db.execute("SELECT value FROM state WHERE key = ?", (key,)).fetchone()
        return str(row[0]) if row else None

    def set_state(self, key: str, value: str) -> None:
        """Remember a value; it is committed together with the rows around it.

        Raises:
            LimitExceeded: the value is larger than 64 KiB, or there are too many keys.
        """
        if len(key) + len(value) > STATE_BYTES_MAX or key.startswith("log."):
            raise LimitExceeded(f"state {key!r:.60} of {len(value)} characters", code="log.state")
        if self.state(key) is None:
            (held,) = self._file.db.execute("SELECT count(*) FROM state").fetchone()
            if held + len(self._states) >= STATE_KEYS_MAX:
                raise LimitExceeded(f"more than {STATE_KEYS_MAX} values of state", code="log.state")
        self._states[key] = value

    def dead_letter(self, letter: DeadLetter) -> None:
        """Count a refused reading and keep it in the bounded table of such; written by `commit`."""
        self._letters.add(letter)

    def rejects(self) -> dict[str, int]:
        """Refused readings so far, by code, as committed."""
        return reject_counts(self._file.db)

    def ledgers(self) -> list[LedgerTotals]:
        """The committed books, oldest epoch first."""
        accounts = self._file.store.books.accounts
        return [accounts[no].totals() for no in sorted(accounts)]

    @property
    def row_bytes(self) -> float:
        """About what a row takes on the disk: of those that were appended last."""
        return self._row_bytes

    def capacity_bytes(self) -> int:
        """What rows may take in all: by the log's bound, or by the disk where that has less."""
        return self._file.room.capacity_bytes()

    def bytes_on_disk(self) -> int:
        """File, write-ahead log and reserve."""
        return self._file.room.bytes_on_disk()

    def maintain(self, now_ns: int) -> None:
        """Keep the bounds; call it about once a second with any one clock, in ns.

        Deletes what is too old (by hours in use, whatever the clock does), makes room, restores the
        reserve. Writes nothing where nothing is due.
        """
        file = self._file
        now_s = file.clock.feed(now_ns)
        self._at_s = int(now_s)
        expired = file.store.older_than(int(now_s - self.settings.age_max_s))
        over = bytes_to_free(file.room.usage(), file.bounds)
        if (expired or over) and file.room.admit(COMMIT_OVERHEAD_BYTES):
            file.guarded(lambda: self._retire(expired, over), 0)
        file.room.keep_reserve()

    def _retire(self, expired: list[int], over: int) -> None:
        with self._file.transaction(full=False):
            if expired:
                self._file.delete(expired, "age")
            if over:
                self._file.make_room(over, "size")

    def abandon(self) -> None:
        """Let go of the file as a killed process does: what was not committed is gone."""
        self._file.release()

    def close(self) -> None:
        """Commit what waits, mark the log as closed and release it.

        Raises:
            OutOfSpace: what waited could not be committed; the log is closed all the same.
        """
        try:
            self.commit(force=True)
        except BaseException:
            self._file.release()
            raise
        self._file.close()
