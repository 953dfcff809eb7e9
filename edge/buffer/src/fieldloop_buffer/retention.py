"""What has to go, and when input is refused: decisions only, over sizes that come in as numbers.

The bound in bytes is divided into three: data pages, write-ahead log, reserve. Rows are deleted
only when data pages reach their share: first those that the cloud does not wait for (acknowledged
or withheld), oldest first; then raw rows, in turn the oldest of `drop_oldest` streams and every
second one of `decimate` streams; then everything else of both, oldest first, with events that tell
of drops last of all. What remains belongs to `drop_newest` streams, whose new rows are refused
until an acknowledgement makes room. Deleting writes to the write-ahead log as well; so where a
reader pins that at its share, nothing is deleted, and input is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

T = TypeVar("T")
_MIB = 1 << 20
_WAL_SHARE, _WAL_BYTES_MIN, _WAL_BYTES_MAX = 4, _MIB, 32 * _MIB
_RESERVE_SHARE = 8
_CHECKPOINT_SHARE, _CHECKPOINT_BYTES_MAX = 4, 4 * _MIB
_SLACK_SHARE = 50
_SMALL_BYTES = 256 * 1024
ROW_OVERHEAD_BYTES = 32
"""Key, times, checksum and cell header of a row, roughly."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The shares of a log's bytes."""

    data_bytes_max: int
    wal_bytes_max: int
    reserve_bytes: int

    @classmethod
    def of(cls, bytes_max: int, reserve_bytes: int) -> Bounds:
        """Divide `bytes_max`, which is at least 4 MiB."""
        wal = min(max(bytes_max // _WAL_SHARE, _WAL_BYTES_MIN), _WAL_BYTES_MAX)
        reserve = min(reserve_bytes, bytes_max // _RESERVE_SHARE)
        return cls(bytes_max - wal - reserve, wal, reserve)

    @property
    def checkpoint_bytes(self) -> int:
        """Size of the write-ahead log at which it is copied into the file.

        On a full disk the copy, by which the file grows, has to fit what the reserve gives.
        """
        share = min(self.wal_bytes_max // _CHECKPOINT_SHARE, _CHECKPOINT_BYTES_MAX)
        return min(share, max(self.reserve_bytes // 2, _SMALL_BYTES))

    @property
    def buffer_bytes_max(self) -> int:
        """Most bytes of rows that wait in memory; their commit fits the write-ahead log."""
        share = min(self.wal_bytes_max // 4, 2 * _MIB)
        return min(share, max(self.reserve_bytes // 4, _SMALL_BYTES))


@dataclass(frozen=True, slots=True)
class Usage:
    """Sizes as found."""

    page_bytes: int
    pages: int
    free_pages: int
    wal_bytes: int

    @property
    def data_bytes(self) -> int:
        """Bytes of pages that hold something."""
        return (self.pages - self.free_pages) * self.page_bytes


def bytes_to_free(usage: Usage, bounds: Bounds) -> int:
    """0 below the bound; at it, what is over and some slack, so that deleting comes in batches."""
    over = usage.data_bytes - bounds.data_bytes_max
    return over + bounds.data_bytes_max // _SLACK_SHARE if over > 0 else 0


class Wal(Enum):
    """What to do about the write-ahead log before writing more."""

    FINE = "fine"
    CHECKPOINT = "checkpoint"
    PINNED = "pinned"


def wal_verdict(wal_bytes: int, since_bytes: int, coming_bytes: int, bounds: Bounds) -> Wal:
    """Whether `coming_bytes` more may be written to a write-ahead log.

    Args:
        wal_bytes: size of its file, which after a checkpoint is used again from its beginning.
        since_bytes: about what was written to it since the last checkpoint.
    """
    if wal_bytes + coming_bytes > bounds.wal_bytes_max:
        return Wal.PINNED
    grown = wal_bytes > bounds.checkpoint_bytes or since_bytes >= bounds.checkpoint_bytes
    return Wal.CHECKPOINT if grown else Wal.FINE


def enough(rows: Iterable[tuple[int, int]], target_bytes: int) -> list[int]:
    """The keys of `(key, payload bytes)` to delete, in their order, until `target_bytes` are free.

    >>> enough([(1, 100), (2, 100), (3, 100)], 200)
    [1, 2]
    """
    keys: list[int] = []
    freed = 0
    for key, payload_bytes in rows:
        if freed >= target_bytes:
            break
        keys.append(key)
        freed += payload_bytes + ROW_OVERHEAD_BYTES
    return keys


def every_second(rows: Iterable[tuple[int, int, int]]) -> list[tuple[int, int]]:
    """Of each stream's rows `(key, payload bytes, stream)` every second one, as (key, bytes).

    >>> every_second([(1, 10, 7), (2, 10, 8), (3, 10, 7), (4, 10, 7), (5, 10, 8)])
    [(3, 10), (5, 10)]
    """
    found: list[tuple[int, int]] = []
    odd: set[int] = set()
    for key, payload_bytes, stream in rows:
        if stream in odd:
            found.append((key, payload_bytes))
        odd ^= {stream}
    return found


def in_turn(a: Sequence[T], b: Sequence[T]) -> list[T]:
    """The elements of both, one of each while there are such.

    >>> in_turn([1, 3, 5], [2])
    [1, 2, 3, 5]
    """
    both = min(len(a), len(b))
    return [x for pair in zip(a, b, strict=False) for x in pair] + [*a[both:], *b[both:]]


class LogClock:
    """The age of rows: seconds that the log has been in use, whatever the wall clock says.

    A step of the clock that it is fed counts as at most `_STEP_S_MAX`, so that neither a jump of
    ten years nor a start in 1970 deletes anything; and hours without power do not count.
    """

    _STEP_S_MAX = 60.0

    def __init__(self, start_s: float) -> None:
        self.now_s = start_s
        self._last_ns: int | None = None

    def feed(self, now_ns: int) -> float:
        """Advance by a reading of any clock in ns; returns the log's time in s."""
        if self._last_ns is not None:
            step_s = (now_ns - self._last_ns) / 1e9
            self.now_s += min(max(step_s, 0.0), self._STEP_S_MAX)
        self._last_ns = now_ns
        return self.now_s
