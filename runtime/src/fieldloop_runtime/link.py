"""The link budget of a month: one for all traffic of a device, shared by its services.

Each service counts what its connections send and receive, keeps the count in a file of its own in a
folder that all of them share, and reads the others' there. Counts are stored ahead in steps, so
that a power cut makes them up to a step too great, never too small.

Policy at the bound. Raw data and downloads stop at nine tenths of the budget, results, events and
labels at `ROWS_SHARE` of it; what waits stays pending in the log, under the log's own bounds.
Status goes on, at most as often as fits a tenth of the budget, and every `STATUS_S_MAX` at worst.
Months are of UTC, by a clock that is in step; one that goes back, or is not in step, gives no new
budget. Any thread may call.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Annotated

from pydantic import Field

from fieldloop_contract.frames import Clock
from fieldloop_runtime.clock import Now
from fieldloop_runtime.settings import Settings

RAW_SHARE, ROWS_SHARE, STATUS_SHARE = 0.9, 0.98, 0.1
STATUS_S_MAX = 3600.0
MONTH_S = 30 * 86_400
UNLIMITED = 1 << 62
_STEP_BYTES, _STEPS = 64 * 1024, 1_000
_OTHERS_S = 10.0
_PACKET_BYTES, _SEGMENT_BYTES, _HEADER_BYTES = 120, 1_400, 80


class LinkSettings(Settings):
    """What the link to the cloud may carry."""

    bytes_per_month: Annotated[int, Field(ge=0)] = Field(
        default=0, description="bytes that a month may cost, all services together; 0: no limit"
    )
    dir: str = Field(
        default="", description="folder of the counts, the same for all services; empty: the log's"
    )


class Use(Enum):
    """What the link is used for, by the share of the budget at which it stops."""

    RAW = RAW_SHARE
    ROWS = ROWS_SHARE


def wire_bytes(size: int) -> int:
    """About what a message of `size` bytes of topic and payload costs at QoS 1.

    Two packets with their TCP/IP headers (52 bytes each) and MQTT's own, and for each further full
    segment its headers and a share of an acknowledgement. TLS adds about as little again.

    >>> wire_bytes(100), wire_bytes(100_000)
    (220, 105800)
    """
    return size + _PACKET_BYTES + size // _SEGMENT_BYTES * _HEADER_BYTES


def month_of(now: Now) -> str | None:
    """The UTC month of a clock that is in step, as `2031-07`; else None."""
    if now.clock is not Clock.SYNCHRONISED:
        return None
    moment = time.gmtime(now.utc_ns // 10**9)
    return f"{moment.tm_year:04d}-{moment.tm_mon:02d}"


class LinkMeter:
    """The count of one service, and what is left for all.

    Args:
        dir: the shared folder.
        clock: tells the month.
    """

    def __init__(
        self, settings: LinkSettings, dir: str, service: str, clock: Callable[[], Now]
    ) -> None:
        self.bytes_per_month = settings.bytes_per_month
        self._folder = Path(settings.dir or dir)
        self._path = self._folder / f"link-{service}.json"
        self._clock = clock
        self._step = max(_STEP_BYTES, settings.bytes_per_month // _STEPS)
        self._lock = threading.Lock()
        self._others_s = float("-inf")
        self._others = 0
        self._month, self._spent = _read(self._path)
        self._stored = self._spent

    def spend(self, size: int) -> None:
        """Count `size` bytes that crossed the link."""
        with self._lock:
            self._turn()
            self._spent += size
            if self._spent > self._stored:
                self._stored = self._spent + self._step
                self._store()

    @property
    def spent(self) -> int:
        """Bytes of this month, all services together."""
        with self._lock:
            self._turn()
            now_s = time.monotonic()
            if now_s - self._others_s >= _OTHERS_S:
                self._others_s = now_s
                self._others = self._read_others()
            return self._spent + self._others

    def room(self, use: Use) -> int:
        """Bytes that are left of the month for a use."""
        if not self.bytes_per_month:
            return UNLIMITED
        return max(int(self.bytes_per_month * use.value) - self.spent, 0)

    def status_interval_s(self, size: int, least_s: float) -> float:
        """How far apart documents of `size` bytes have to be, to fit their share of the budget."""
        if not self.bytes_per_month:
            return least_s
        fits_s = wire_bytes(size) * MONTH_S / (self.bytes_per_month * STATUS_SHARE)
        return min(max(least_s, fits_s), STATUS_S_MAX)

    def counters(self) -> dict[str, int]:
        """For the report: the budget, what is spent, and what is held back (1) or not (0)."""
        # In steps: a report that changed by being sent would be sent for ever.
        found = {"link.spent_bytes": self.spent // self._step * self._step}
        if self.bytes_per_month:
            found["link.budget_bytes"] = self.bytes_per_month
            found |= {f"link.{use.name.lower()}_held": int(not self.room(use)) for use in Use}
        return found

    def _turn(self) -> None:
        month = month_of(self._clock())
        if month is not None and month > self._month:
            self._month, self._spent, self._stored = month, 0, 0
            self._others_s = float("-inf")

    def _store(self) -> None:
        temporary = self._path.with_suffix(".tmp")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with temporary.open("w", encoding="ascii") as file:
                json.dump({"month": self._month, "bytes": self._stored}, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        except OSError:
            self._stored = 0  # a full disk: the next bytes try again

    def _read_others(self) -> int:
        found = 0
        for path in self._folder.glob("link-*.json"):
            if path != self._path:
                month, spent = _read(path)
                found += spent if month == self._month else 0
        return found


def _read(path: Path) -> tuple[str, int]:
    try:
        document = json.loads(path.read_text(encoding="ascii"))
        return str(document["month"]), max(int(document["bytes"]), 0)
    except (OSError, ValueError, KeyError, TypeError):
        return "", 0
