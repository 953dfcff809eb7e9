"""Eleven weeks of six pumps, half a day at a time. One thread; `play` does it all."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fieldloop_contract.messages import ModelRef
from fieldloop_demo.pumps.device import FLEET, SLOT, PumpDevice
from fieldloop_demo.pumps.judging import Detection, detect
from fieldloop_demo.pumps.learning import MODEL, Learning
from fieldloop_demo.pumps.person import People
from fieldloop_demo.pumps.plant import (
    ARMED_DAY,
    DAY_S,
    DAYS,
    EVERY_S,
    LEARN_DAYS,
    Measuring,
    Pump,
    plant,
)
from fieldloop_machines.attendant import Attendant
from fieldloop_machines.watching import watch
from fieldloop_runtime.journal import Journal
from fieldloop_store import alarms, commissionings, registry
from fieldloop_store.engine import Store
from fieldloop_store.ledger import Books, books
from fieldloop_store.queries import EventCursor, events_since

START_NS = 20_718 * 86_400 * 10**9
"""Some midnight (UTC)."""
STEP_DAYS = 0.5
CANARY_DAYS = 3.0
"""A new version runs on one pump for so long before all get it."""


@dataclass(frozen=True, slots=True)
class Raised:
    """An alarm that a device raised, and what the cloud said it looked like."""

    pump: Pump
    day: float
    looks: str
    version: int


@dataclass(frozen=True, slots=True)
class Changed:
    """A pump whose record the service called stale, and what it called the change."""

    pump: Pump
    day: float
    kind: str


@dataclass(slots=True)
class Outcome:
    """What came out."""

    pumps: list[Pump]
    raised: list[Raised] = field(default_factory=list)
    changes: list[Changed] = field(default_factory=list)
    armed_days: dict[str, float] = field(default_factory=dict)
    runs: list[tuple[float, str]] = field(default_factory=list)
    published: dict[int, float] = field(default_factory=dict)
    detections: list[Detection] = field(default_factory=list)
    books: list[Books] = field(default_factory=list)
    verdicts: list[tuple[float, str, str]] = field(default_factory=list)
    windows: int = 0


Tell = Callable[[float, str], None]
"""Virtual day, and what happened; "" where nothing did."""


class Scenario:
    """Plays it. One thread; `close` ends all that was started."""

    def __init__(self, folder: Path, seed: int, tell: Tell) -> None:
        logging.getLogger().setLevel(logging.ERROR)
        self.outcome = Outcome(plant(seed))
        self.store = Store.open(f"sqlite:///{folder / 'store.sqlite'}")
        self._tell = tell
        self._pumps = self.outcome.pumps
        self._people = People(self.store, self._pumps, START_NS)
        self._people.declare()
        self._devices = {
            p.name: PumpDevice(folder / p.name, p.device, START_NS) for p in self._pumps
        }
        self._sensors = {p.name: Measuring(p) for p in self._pumps}
        self._learning = Learning(self.store, folder, seed)
        self._attendant = Attendant(
            self.store, FLEET, channels=(), broker="none", journal=Journal("machines")
        )
        self._faulty = next(p for p in self._pumps if p.story == "fault")
        self._canary = next(p for p in self._pumps if p.story == "healthy")
        self._kept: list[NDArray[np.float32]] = []
        self._kept_days: list[float] = []
        self._newest: ModelRef | None = None
        self._settled: ModelRef | None = None
        self._given: dict[str, ModelRef | None] = {}
        self._newest_day = 0.0
        self._commissioning = False
        self._cursor: EventCursor | None = None

    def play(self) -> Outcome:
        """All days; FieldloopError where the training process fails."""
        day = 0.0
        while day < DAYS:
            self._measure(day)
            day += STEP_DAYS
            self._cloud(day)
            self._tell(day, "")
        self._judge()
        self.outcome.books = [b for b in books(self.store, fleet=FLEET) if b.report is not None]
        return self.outcome

    def close(self) -> None:
        """End everything."""
        self._learning.close()
        for device in self._devices.values():
            device.close()
        self.store.close()

    def _ns(self, day: float) -> int:
        return START_NS + round(day * DAY_S * 1e9)

    def _measure(self, day: float) -> None:
        """Half a day of each pump, scored by its device, and on to the cloud."""
        count = round(STEP_DAYS * DAY_S / EVERY_S)
        for pump in self._pumps:
            device, sensor = self._devices[pump.name], self._sensors[pump.name]
            for i in range(count):
                at = day + i * EVERY_S / DAY_S
                samples = sensor.window(at)
                device.measure(samples, self._ns(at))
                if pump is self._faulty:
                    self._kept.append(samples)
                    self._kept_days.append(at)
            now_ns = self._ns(day + STEP_DAYS)
            device.work(now_ns)
            device.ferry(self.store, now_ns)
            self.outcome.windows += count

    def _cloud(self, day: float) -> None:
        """What the services and the people do after this half day."""
        now_ns = self._ns(day)
        self._attendant.look(now_ns + 1)  # what came in at this very moment, too
        self._attendant.assess(now_ns)
        self._hear(day)
        changed = watch(
            self.store, FLEET, Journal("machines"), now_ns=now_ns, span_ns=round(DAY_S * 1e9)
        )
        for one in changed:
            pump = next(p for p in self._pumps if p.name == one.machine)
            self.outcome.changes.append(Changed(pump, day, one.named.kind))
            self._tell(day, f"{pump.name} is stale: {one.named.words}")
        for name, verdict in self._people.look(day):
            self.outcome.verdicts.append((day, name, verdict))
            self._tell(day, f"somebody looked at {name}: {verdict}")
        for name in self._people.change(day):
            self._tell(day, f"{name} is commissioned anew")
        for name in self._people.arm(day):
            self.outcome.armed_days.setdefault(name, day)
            self._tell(day, f"{name} is armed")
        self._train(day, now_ns)
        self._deliver(day, now_ns)

    def _train(self, day: float, now_ns: int) -> None:
        reason = self._learning.due(now_ns)
        if day == LEARN_DAYS:
            self._people.vouch(now_ns)
            reason = "the first days are vouched for"
        if not reason:
            return
        state = self._learning.train(reason, now_ns)
        self.outcome.runs.append((day, state))
        self._tell(day, f"trained ({reason}): {state}")
        approved = registry.list_models(self.store, FLEET, name=MODEL, state="approved")
        if approved and approved[-1].version not in self.outcome.published:
            row = approved[-1]
            self.outcome.published[row.version] = day
            manifest, files = registry.load_bundle(self.store, row.digest)
            for device in self._devices.values():
                device.shelf.put(manifest, files)
            self._newest, self._newest_day = manifest.ref(), day

    def _deliver(self, day: float, now_ns: int) -> None:
        """Order: one pump first, then all, each with the record that was armed last.

        A pump that is being commissioned keeps its model: with another one it would begin again.
        """
        if self._newest is None:
            return
        if self._settled is None or day - self._newest_day >= CANARY_DAYS:
            self._settled = self._newest
        if not self._commissioning and self._serve_all():
            self._commissioning = True
            for pump in self._pumps:
                self._people.commission(pump, now_ns)
            self._tell(day, "commissioning begins")
        armed = {(r.device, r.slot): r for r in commissionings.latest_armed(self.store, FLEET)}
        busy = {
            row.machine
            for row in commissionings.list_commissionings(self.store, FLEET, under_way=True)
        }
        for pump in self._pumps:
            record = armed.get((pump.device, SLOT))
            if pump.name not in busy or pump.name not in self._given:
                self._given[pump.name] = self._newest if pump is self._canary else self._settled
            self._devices[pump.name].order(
                self._given[pump.name],
                record.record.encode().decode() if record else None,
                (record.stale_because or None) if record else None,
            )

    def _serve_all(self) -> bool:
        slots = [d.service.reported().slots for d in self._devices.values()]
        return all(s and s[0].active is not None for s in slots)

    def _hear(self, day: float) -> None:
        """New alarms, with what the cloud called them."""
        events = events_since(self.store, FLEET, self._cursor, types=["alarm.raised"], limit=500)
        for event in events:
            self._cursor = event.cursor
            pump = next(p for p in self._pumps if p.device == event.log.device)
            rows = alarms.list_alarms(self.store, FLEET, device=pump.device, limit=1)
            looks = rows[0].document.get("looks") or {} if rows else {}
            raised = Raised(
                pump, (int(event.data["t_ns"]) - START_NS) / 1e9 / DAY_S,
                str(looks.get("kind", "unknown")), int(event.data["model"]["version"]),
            )  # fmt: skip
            self.outcome.raised.append(raised)
            self._tell(day, f"ALARM on {pump.name}: {looks.get('words', 'nothing is known')}")

    def _judge(self) -> None:
        """The day on which each published version would have seen the fault."""
        pump = self._faulty
        records = commissionings.latest_armed(self.store, FLEET)
        record = next((r.record for r in records if r.device == pump.device), None)
        if record is None:
            return
        span = ((record.t0_ns - START_NS) / 1e9 / DAY_S, (record.t1_ns - START_NS) / 1e9 / DAY_S)
        for version in self.outcome.published:
            row = registry.find_model(self.store, FLEET, MODEL, version)
            assert row is not None
            manifest, files = registry.load_bundle(self.store, row.digest)
            self.outcome.detections.append(
                detect(
                    manifest,
                    files,
                    self._kept,
                    np.array(self._kept_days),
                    armed=record,
                    commissioned=span,
                    onset_day=pump.at_day,
                )
            )
        assert ARMED_DAY < DAYS
