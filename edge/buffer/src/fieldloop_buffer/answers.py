"""What the cloud says about rows, and the uplink about those it cannot send, put into the log.

Each answer is a transaction of its own, unsynced: what a power cut takes of it makes rows be sent
once more. Owner thread only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fieldloop_buffer import quarantine
from fieldloop_buffer.accounting import keys_of, store_rows, touches, unstore_rows, wanted_again
from fieldloop_buffer.deadletters import DeadLetter
from fieldloop_buffer.entry import SEQ_MAX, row_id
from fieldloop_buffer.ledger import Account
from fieldloop_buffer.logfile import LogFile
from fieldloop_buffer.orders import Damaged, Unreadable
from fieldloop_buffer.ranges import Range
from fieldloop_buffer.room import COMMIT_OVERHEAD_BYTES
from fieldloop_contract.errors import OutOfSpace

UNREADABLE = "unreadable"


class Answers:
    """Answers for one log.

    Args:
        service: the log's service, as dead letters name it.
        dead_letter: takes one.
    """

    def __init__(
        self, file: LogFile, service: str, dead_letter: Callable[[DeadLetter], None]
    ) -> None:
        self._file = file
        self._service = service
        self._dead_letter = dead_letter

    def acknowledge(self, epoch: str, ranges: Sequence[Range]) -> int:
        """See `Log.acknowledge`."""

        def act(account: Account) -> int:
            keys = keys_of(account, ranges, account.durable_seq)
            if not touches(self._file.store, keys):
                return 0
            with self._file.transaction(full=False):
                return store_rows(self._file.store, account, keys)

        return self._answer(epoch, act)

    def want(self, epoch: str, ranges: Sequence[Range]) -> int:
        """See `Log.want`."""

        def act(account: Account) -> int:
            keys = wanted_again(self._file.store, keys_of(account, ranges, account.durable_seq))
            if not keys:
                return 0
            with self._file.transaction(full=False):
                return unstore_rows(self._file.store, account, keys)

        return self._answer(epoch, act)

    def _answer(self, epoch: str, act: Callable[[Account], int]) -> int:
        """Write what the cloud said, unsynced: a power cut makes the rows be sent once more."""

        def write() -> int:
            # Looked up here: what a failed transaction leaves behind is read again.
            account = self._file.store.books.by_epoch(epoch)
            if account is None or not self._file.room.admit(COMMIT_OVERHEAD_BYTES):
                return 0
            return act(account)

        try:
            return self._file.guarded(write, 0)
        except OutOfSpace:
            return 0

    def damaged(self, order: Damaged) -> None:
        """Rows with a wrong checksum are dropped; a malformed file is checked and replaced."""
        if not order.seqs:
            self._file.complaint()
            return
        self._discard(order.epoch, order.seqs, quarantine.CAUSE)

    def _discard(self, epoch: str, seqs: Sequence[int], cause: str) -> None:
        def write() -> int:
            account = self._file.store.books.by_epoch(epoch)
            if account is None:
                return 0
            keys = [row_id(account.no, seq) for seq in seqs if 1 <= seq <= SEQ_MAX]
            with self._file.transaction(full=False):
                self._file.delete(keys, cause)
            return len(keys)

        self._file.guarded(write, 0)

    def unreadable(self, order: Unreadable) -> None:
        """Rows that the cloud will never take are dropped, and kept as dead letters."""
        account = self._file.store.books.by_epoch(order.epoch)
        if account is None:
            return
        for seq in order.seqs:
            found = self._file.store.content(row_id(account.no, seq))
            if found is not None:
                stream, t_ns, payload = found
                reason = f"the cloud answers other rows and never {order.epoch}/{seq}"
                code = f"uplink.{UNREADABLE}"
                self._dead_letter(DeadLetter(t_ns, self._service, stream, code, reason, payload))
        self._discard(order.epoch, order.seqs, UNREADABLE)
