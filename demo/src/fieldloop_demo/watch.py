"""What the demo sees of the loop: read-only, from the store, as any dashboard would."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fieldloop_contract.manifest import Manifest
from fieldloop_contract.messages import Reported, SlotState, from_object
from fieldloop_demo.fleet import FLEET, MODEL, SLOT, Device
from fieldloop_demo.measure import Scored, expected_windows, score
from fieldloop_store.engine import Store
from fieldloop_store.queries import EventCursor, device_services, events_since, results_between
from fieldloop_store.registry import ModelRow, list_models, load_bundle
from fieldloop_store.runs import RunRow, list_runs

PAGE = 500


@dataclass(frozen=True, slots=True)
class Played:
    """A recording that a device has replayed: its span in the device's time."""

    device: str
    file: str
    t0_ns: int
    t1_ns: int
    samples: int


class Watch:
    """Reads the store; keeps what it has seen of the events. One thread."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.played: dict[tuple[str, str], Played] = {}
        self.events: dict[str, int] = {}
        self._cursor: EventCursor | None = None
        self._manifests: dict[str, Manifest] = {}

    def read_events(self) -> None:
        """Read the events that have come since the last call."""
        while True:
            page = events_since(self.store, FLEET, self._cursor, limit=PAGE)
            for event in page:
                self._cursor = event.cursor
                self.events[event.type] = self.events.get(event.type, 0) + 1
                if event.type == "replay.finished":
                    data = event.data
                    key = (event.log.device, str(data["file"]))
                    self.played[key] = Played(
                        *key, int(data["t0_ns"]), int(data["t1_ns"]), int(data["samples"])
                    )
            if len(page) < PAGE:
                return

    def count_played(self, files: Iterable[tuple[str, str]]) -> int:
        """How many of the (device, file) pairs have been replayed and stored."""
        return sum(pair in self.played for pair in files)

    def reported(self) -> dict[tuple[str, str], Reported]:
        """The last `reported` document of each (device, service)."""
        found: dict[tuple[str, str], Reported] = {}
        for row in device_services(self.store, FLEET):
            if row.reported is not None:
                found[row.device, row.service] = from_object(Reported, row.reported)
        return found

    def slots(self) -> dict[str, SlotState]:
        """The slot of each device's inference service."""
        return {
            device: slot
            for (device, service), reported in self.reported().items()
            if service == "inference"
            for slot in reported.slots
            if slot.slot == SLOT
        }

    def active(self, version: int, devices: Iterable[Device]) -> list[str]:
        """Which of the devices run this version, past its probation."""
        slots = self.slots()
        return [d.id for d in devices if _runs(slots.get(d.id), version)]

    def newest_run(self) -> RunRow | None:
        """The newest training run."""
        runs = list_runs(self.store, FLEET, model=MODEL, limit=1)
        return runs[0] if runs else None

    def models(self) -> list[ModelRow]:
        """All versions, ascending."""
        return list_models(self.store, FLEET, name=MODEL)

    def manifest(self, row: ModelRow) -> Manifest:
        """The manifest of a version."""
        if row.digest not in self._manifests:
            self._manifests[row.digest] = load_bundle(self.store, row.digest)[0]
        return self._manifests[row.digest]

    def score(self, device: Device, file: str, recording: str) -> Scored:
        """Score one replayed recording by what the device's active model said of it."""
        played = self.played[device.id, file]
        rows = results_between(
            self.store,
            FLEET,
            device=device.id,
            slot=SLOT,
            role="active",
            t0_ns=played.t0_ns,
            t1_ns=played.t1_ns,
        )
        labels = [(row.label, row.version) for row in rows if row.t1_ns <= played.t1_ns + 1]
        return score(recording, device.id, device.files[file], labels)

    def expected(self, device: Device, file: str, row: ModelRow) -> int:
        """How many windows of a replayed recording the model should have scored."""
        spec = self.manifest(row).inputs[0]
        samples = self.played[device.id, file].samples
        return expected_windows(samples, spec.window_samples, spec.hop_samples)


def _runs(slot: SlotState | None, version: int) -> bool:
    return (
        slot is not None
        and slot.state.upper() == "ACTIVE"
        and slot.active is not None
        and slot.active.version == version
    )
