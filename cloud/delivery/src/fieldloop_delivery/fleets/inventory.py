"""What was last read of a fleet, kept: read again when old, never shown as newer than it is.

While the backend is away the last inventory goes on serving, marked stale with its age and reason;
beyond `stale_s_max` it serves nobody. Owner thread only; time comes in as an argument.
"""

from __future__ import annotations

from dataclasses import replace

from fieldloop_contract.errors import RetryLater
from fieldloop_delivery.fleets.backend import FleetBackend, Inventory

NS = 1_000_000_000


class CachedInventory:
    """One fleet's inventory.

    Args:
        fresh_s: age at which it is read again.
        stale_s_max: age beyond which it is not used, whoever is away.
        retry_s: how long after a failed reading the next one is tried.
    """

    def __init__(
        self,
        backend: FleetBackend,
        *,
        fresh_s: float = 60.0,
        stale_s_max: float = 3_600.0,
        retry_s: float = 10.0,
    ) -> None:
        self._backend = backend
        self._fresh_ns = int(fresh_s * NS)
        self._stale_ns = int(stale_s_max * NS)
        self._retry_ns = int(retry_s * NS)
        self._kept: Inventory | None = None
        self._failed_ns = 0
        self._why = ""

    def forget(self) -> None:
        """Something was changed: read anew."""
        self._kept = None

    def get(self, now_ns: int) -> Inventory:
        """The inventory; `stale` says why it is not fresh.

        Raises:
            RetryLater: nothing was ever read, or it is too old to act on.
        """
        kept = self._kept
        if kept is not None and 0 <= now_ns - kept.taken_ns < self._fresh_ns:
            return kept
        if kept is None or not self._why or now_ns - self._failed_ns >= self._retry_ns:
            try:
                self._kept = self._backend.inventory(now_ns)
                self._why = ""
                return self._kept
            except RetryLater as error:
                self._failed_ns, self._why = now_ns, str(error)
        if kept is None:
            raise RetryLater(f"the fleet was not read yet: {self._why}", code="fleet.away")
        age_s = (now_ns - kept.taken_ns) / NS
        if now_ns - kept.taken_ns > self._stale_ns:
            raise RetryLater(
                f"what is known of the fleet is {age_s:.0f} s old: {self._why}", code="fleet.stale"
            )
        return replace(kept, stale=f"{age_s:.0f} s old: {self._why}")
