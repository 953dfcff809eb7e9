"""The group of parcels that the next commit stores, and when that is due. Pure.

Bounded by rows and bytes: whoever fills it stops reading when it is `full`, so that while the
database is away the broker's messages pile up nowhere in here, and devices, unacknowledged, keep
their rows.
"""

from __future__ import annotations

from collections import defaultdict

from fieldloop_store.ingest import Intake
from fieldloop_store.rows import LogKey
from fieldloop_telemetry.door import Parcel


class Group:
    """Parcels waiting for one transaction, in the order of arrival.

    Args:
        rows_max, bytes_max: bounds; a letter and a presence message count as a row.
        age_s: longest wait of a parcel.
    """

    def __init__(self, rows_max: int, bytes_max: int, age_s: float) -> None:
        self._rows_max = rows_max
        self._bytes_max = bytes_max
        self._age_s = age_s
        self.clear()

    def clear(self) -> None:
        """Forget all: it is committed."""
        self.intake = Intake()
        self.seqs: dict[LogKey, list[int]] = defaultdict(list)
        self.rows = 0
        self.bytes = 0
        self._since_s: float | None = None

    def add(self, parcel: Parcel, now_s: float, received_ns: int) -> None:
        """Take in one parcel."""
        if parcel.log is None:
            return
        if parcel.rows:
            self.intake.rows[parcel.table].extend(parcel.rows)
        self.intake.letters.extend(parcel.letters)
        if parcel.presence is not None:
            self.intake.presence.append(parcel.presence)
        if parcel.seqs:
            self.seqs[parcel.log].extend(parcel.seqs)
        self.intake.received_ns = received_ns
        self.rows += len(parcel.rows) + len(parcel.letters) + (parcel.presence is not None)
        self.bytes += parcel.size
        if self._since_s is None:
            self._since_s = now_s

    @property
    def full(self) -> bool:
        """Whether nothing more should be added."""
        return self.rows >= self._rows_max or self.bytes >= self._bytes_max

    def wait_s(self, now_s: float) -> float | None:
        """Seconds until a commit is due; None where there is nothing to commit."""
        if self._since_s is None:
            return None
        return 0.0 if self.full else max(0.0, self._since_s + self._age_s - now_s)
