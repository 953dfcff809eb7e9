"""What to ask a device for again when the store lacks rows that it counts as stored.

That happens after a restore from backup, or when a database was lost. Decided here, pure: time
comes in, ranges to ask for go out. Bounded in rows for each request, in requests for each log and
time, and in logs at once, so that a restored store is not overrun by its whole fleet; a log that
makes no progress is asked more and more seldom, for its device may have deleted the rows at its
own bounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fieldloop_contract.messages import RANGES_MAX
from fieldloop_store.rows import LogKey

LOGS_AT_ONCE = 20
LOGS_MAX = 100_000
_BACKOFF_MAX_S = 3_600.0
Range = tuple[int, int]


@dataclass(slots=True)
class _Case:
    """One log that lacks rows."""

    lacking: int
    next_seq: int = 1
    asked_s: float = float("-inf")
    wait_s: float = 0.0


class Recovery:
    """Asks in turn, from the lowest seq up, and begins again while rows are lacking.

    Args:
        rows_max: most rows asked for in one message.
        interval_s: least time between two messages to one log.
    """

    def __init__(self, rows_max: int, interval_s: float) -> None:
        self._rows_max = rows_max
        self._interval_s = interval_s
        self._cases: dict[LogKey, _Case] = {}
        self.asked_rows = 0

    def __len__(self) -> int:
        return len(self._cases)

    def look(self, log: LogKey, lacking: int, now_s: float) -> int | None:
        """Take note of what a log lacks; returns the seq to ask from, None for not now."""
        case = self._cases.get(log)
        if lacking <= 0:
            self._cases.pop(log, None)
            return None
        if case is None:
            busy = sum(now_s - c.asked_s < 2 * self._interval_s for c in self._cases.values())
            if busy >= LOGS_AT_ONCE or len(self._cases) >= LOGS_MAX:
                return None
            case = self._cases[log] = _Case(lacking, wait_s=self._interval_s)
        if now_s - case.asked_s < case.wait_s:
            return None
        if lacking < case.lacking:
            case.wait_s = self._interval_s
        case.lacking = lacking
        return case.next_seq

    def ask(self, log: LogKey, missing: Sequence[Range], now_s: float) -> list[Range]:
        """The ranges to ask for, of those missing from the seq that `look` returned on, ascending.

        The last of them decides where the next question begins.
        """
        case = self._cases[log]
        case.asked_s = now_s
        wanted, rows = _first_rows(missing[:RANGES_MAX], self._rows_max)
        if not wanted:
            # All has been asked for once: begin again, later each time nothing came of it.
            case.next_seq = 1
            case.wait_s = min(case.wait_s * 2, _BACKOFF_MAX_S)
            return []
        case.next_seq = wanted[-1][1] + 1
        self.asked_rows += rows
        return wanted


def _first_rows(ranges: Sequence[Range], rows_max: int) -> tuple[list[Range], int]:
    """The first `rows_max` rows of these ranges, and how many they are."""
    taken: list[Range] = []
    rows = 0
    for first, last in ranges:
        if rows >= rows_max:
            break
        last_taken = min(last, first + rows_max - rows - 1)
        taken.append((first, last_taken))
        rows += last_taken - first + 1
    return taken, rows
