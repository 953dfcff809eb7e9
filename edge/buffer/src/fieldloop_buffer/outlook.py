"""How long the backlog takes, and when rows would be lost: from the books, by rates. Pure.

Rates are means that forget with `FORGET_S`. What is settled is deleted without loss, so dropping
starts when rows that wait for the cloud fill the log, or the disk under it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from fieldloop_contract.messages import Backlog, LedgerTotals

FORGET_S = 60.0
_DIGITS = 2


class Outlook:
    """Fed with the books of one log, about once a second."""

    def __init__(self) -> None:
        self._last: tuple[float, int, int] | None = None
        self._in_s = self._out_s = 0.0
        self._weight = 0.0

    def look(
        self, now_s: float, ledgers: Sequence[LedgerTotals], row_bytes: float, capacity_bytes: int
    ) -> Backlog:
        """The backlog as it is now.

        Args:
            now_s: monotonic.
            row_bytes: about what a row takes on the disk.
            capacity_bytes: what rows may take in all.
        """
        came = sum(ledger.produced - ledger.withheld for ledger in ledgers)
        went = sum(ledger.stored for ledger in ledgers)
        pending = sum(ledger.pending for ledger in ledgers)
        self._feed(now_s, came, went)
        gain_s = (self._in_s - self._out_s) / self._weight if self._weight else 0.0
        room = max(capacity_bytes / row_bytes - pending, 0.0)
        return Backlog(
            rows=pending,
            bytes=round(pending * row_bytes),
            drain_h=_hours(pending, -gain_s) if pending else 0.0,
            drops_in_h=_hours(room, gain_s) if pending else None,
        )

    def _feed(self, now_s: float, came: int, went: int) -> None:
        if self._last is not None and now_s > self._last[0]:
            step_s = now_s - self._last[0]
            keep = math.exp(-step_s / FORGET_S)
            self._in_s = self._in_s * keep + max(came - self._last[1], 0) / step_s * (1 - keep)
            self._out_s = self._out_s * keep + max(went - self._last[2], 0) / step_s * (1 - keep)
            self._weight = self._weight * keep + 1 - keep
        self._last = (now_s, came, went)


def _hours(rows: float, rate_s: float) -> float | None:
    """Hours in two digits, so that a report does not change all the time; None for never."""
    if rate_s <= 1e-6:
        return None
    hours = rows / rate_s / 3600
    if hours <= 0:
        return 0.0
    return round(hours, _DIGITS - 1 - math.floor(math.log10(hours)))
