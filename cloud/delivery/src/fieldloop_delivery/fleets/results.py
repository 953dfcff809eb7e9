"""Which model each device runs, written back as tags, so that a person sees it where he looks.

One tag for each slot, `fieldloop.model.SLOT`: name, version and phase as the device reports them.
Only what differs from the inventory is written, a bounded number in each look.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from fieldloop_contract.errors import Isolate, RejectedInput
from fieldloop_delivery.fleets.backend import FleetBackend
from fieldloop_delivery.fleets.inventory import CachedInventory
from fieldloop_store.engine import Store
from fieldloop_store.queries import device_services

WRITES_PER_LOOK: Final = 20
SLOTS_MAX: Final = 16
PREFIX: Final = "fieldloop.model."


def model_tags(reports: Iterable[Mapping[str, Any] | None]) -> dict[str, str]:
    """Tags of what services of one device report. Pure.

    >>> model_tags([{"slots": [{"slot": "main", "state": "ACTIVE",
    ...                         "active": {"name": "activity", "version": 3}}]}])
    {'fieldloop.model.main': 'activity 3 ACTIVE'}
    """
    found: dict[str, str] = {}
    for report in reports:
        for slot in (report or {}).get("slots", [])[:SLOTS_MAX]:
            active = slot.get("active") or {}
            runs = f"{active.get('name')} {active.get('version')}" if active else "none"
            found[f"{PREFIX}{slot['slot']}"] = f"{runs} {slot.get('state', '')}".strip()[:200]
    return found


class ModelTags:
    """Keeps the tags of one fleet. Owner thread only."""

    def __init__(
        self, store: Store, fleet: str, backend: FleetBackend, inventory: CachedInventory
    ) -> None:
        self._store = store
        self._fleet = fleet
        self._backend = backend
        self._inventory = inventory

    def look(self, now_ns: int) -> bool:
        """Write what differs; whether more is left. Raises RetryLater."""
        inventory = self._inventory.get(now_ns)
        if inventory.stale:
            return False
        reports: dict[str, list[Mapping[str, Any] | None]] = {}
        for row in device_services(self._store, self._fleet):
            reports.setdefault(row.device, []).append(row.reported)
        left = WRITES_PER_LOOK
        for name, said in reports.items():
            device = inventory.devices.get(name)
            wanted = model_tags(said).items() if device is not None else ()
            changed = {k: v for k, v in wanted if device is None or device.tags.get(k) != v}
            if not changed:
                continue
            if left <= 0:
                return True
            left -= len(changed)
            try:
                self._backend.tag(name, dict(changed))
            except (Isolate, RejectedInput):
                continue  # it left the fleet since
            finally:
                self._inventory.forget()
        return False
