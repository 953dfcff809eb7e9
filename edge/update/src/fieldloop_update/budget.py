"""The data budget of a day: a durable counter of bytes received for downloads.

Stored ahead in steps, so that not every chunk costs a write: after a power cut up to one step too
much is counted, never too little. Days are UTC; a clock that goes back gives no new budget. Owner
thread only.
"""

from __future__ import annotations

from collections.abc import Callable

from fieldloop_update.state import TrustState

STEP_BYTES = 64 * 1024
DAY_NS = 86_400 * 10**9
UNLIMITED = 1 << 62
_FACT = "budget"


class Budget:
    """Bytes that may still be received today.

    Args:
        bytes_per_day: 0 for no limit; what was received is counted all the same.
        utc_ns: the clock.
        link_room: bytes that the month's budget of the whole device leaves for downloads.
    """

    def __init__(
        self,
        state: TrustState,
        bytes_per_day: int,
        utc_ns: Callable[[], int],
        link_room: Callable[[], int] = lambda: UNLIMITED,
    ) -> None:
        self._state = state
        self._bytes_per_day = bytes_per_day
        self._utc_ns = utc_ns
        self._link_room = link_room
        day, stored = state.fact(_FACT) or (0, 0)
        self._day, self._spent, self._stored = int(day), int(stored), int(stored)

    @property
    def room(self) -> int:
        """Bytes left today, and within the month's budget."""
        self._turn()
        today = max(0, self._bytes_per_day - self._spent) if self._bytes_per_day else UNLIMITED
        return min(today, self._link_room())

    @property
    def spent(self) -> int:
        """Bytes counted today."""
        self._turn()
        return self._spent

    @property
    def renewed_in_s(self) -> float:
        """Seconds until the next UTC day."""
        return (DAY_NS - self._utc_ns() % DAY_NS) / 1e9

    def spend(self, size: int) -> None:
        """Count bytes that came."""
        self._turn()
        self._spent += size
        if self._bytes_per_day and self._spent > self._stored:
            self._stored = self._spent + STEP_BYTES
            self._state.commit({_FACT: [self._day, self._stored]}, {})

    def _turn(self) -> None:
        day = self._utc_ns() // DAY_NS
        if day > self._day:
            self._day, self._spent, self._stored = day, 0, 0
