"""The people of the plant: they vouch for the first days, arm, look at alarms, say what they saw.

They know what is wrong only when they go and look, a day after an alarm; what a model or a service
thinks is nothing to them but a reason to look. One thread.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fieldloop_demo.pumps.device import FLEET, SLOT, STREAM
from fieldloop_demo.pumps.plant import (
    COMMISSION_DAYS,
    DAY_S,
    LEARN_DAYS,
    SENSOR_AWAY_DAYS,
    Pump,
)
from fieldloop_store import alarms, commissionings, labels, lifecycle
from fieldloop_store.engine import Store
from fieldloop_store.machines import assign_stream, put_machine

WHO = "ann"
LOOK_DAYS = 1.0
BUDGET_PER_WEEK = 0.25
RUNNING_HOURS = 15.0 * (COMMISSION_DAYS - 2)
"""They stand still for up to 7 hours a night; two days are for whoever arms them."""


@dataclass(slots=True)
class People:
    """What they have done so far."""

    store: Store
    pumps: list[Pump]
    start_ns: int
    done: set[str] = field(default_factory=set)

    def _ns(self, day: float) -> int:
        return self.start_ns + round(day * DAY_S * 1e9)

    def declare(self) -> None:
        """Say which device measures which machine."""
        for pump in self.pumps:
            put_machine(
                self.store, FLEET, pump.name, site="hall",
                nameplate={"cohort": "pumps", "shaft_hz": round(pump.machine.shaft_hz, 1)},
                now_ns=self.start_ns,
            )  # fmt: skip
            assign_stream(
                self.store, FLEET, pump.device, STREAM, pump.name, from_ns=0, actor=WHO,
                now_ns=self.start_ns,
            )  # fmt: skip

    def vouch(self, now_ns: int) -> None:
        """Confirm that all pumps were healthy in the first days: somebody was there."""
        rows = [
            {"device": p.device, "stream": STREAM, "t0_ns": self.start_ns,
             "t1_ns": self._ns(LEARN_DAYS), "label": "healthy", "annotator": WHO}
            for p in self.pumps
        ]  # fmt: skip
        labels.add_labels(self.store, FLEET, rows, source="console", epoch="a" * 32, now_ns=now_ns)

    def commission(self, pump: Pump, now_ns: int) -> None:
        """Begin to commission a pump. The pumps are meant to differ from each other."""
        commissionings.begin(
            self.store, FLEET, machine=pump.name, device=pump.device, slot=SLOT,
            plan=commissionings.checked_plan(RUNNING_HOURS, BUDGET_PER_WEEK, True),
            actor=WHO, now_ns=now_ns,
        )  # fmt: skip

    def arm(self, day: float) -> list[str]:
        """Arm what is ready, of pumps that are healthy to look at; the names."""
        armed = []
        for row in self._under_way():
            pump = next(p for p in self.pumps if p.name == row.machine)
            if row.state == "ready" and not (pump.story == "fault" and pump.befallen(day)):
                commissionings.arm(self.store, FLEET, row.id, actor=WHO, now_ns=self._ns(day))
                armed.append(row.machine)
        return armed

    def look(self, day: float) -> list[tuple[str, str]]:
        """Go to the alarms that have stood for a day, or come and gone; pumps and verdicts."""
        said: list[tuple[str, str]] = []
        for row in alarms.list_alarms(self.store, FLEET, open_only=True):
            age_days = (self._ns(day) - row.life.raised_ns) / 1e9 / DAY_S
            if row.life.verdict is not None or age_days < LOOK_DAYS:
                continue
            pump = next(p for p in self.pumps if p.name == row.machine)
            verdict = self._verdict(pump, (row.life.raised_ns - self.start_ns) / 1e9 / DAY_S)
            event = lifecycle.Judged(self._ns(day), WHO, verdict)
            alarms.act(self.store, FLEET, row.id, event, now_ns=self._ns(day))
            said.append((pump.name, verdict))
        return said

    def _verdict(self, pump: Pump, raised_day: float) -> lifecycle.Verdict:
        if pump.story == "fault" and pump.befallen(raised_day):
            return "fault"
        if pump.sensor_lost(raised_day):
            return "sensor"
        return "false-alarm"  # another load is no fault either

    def change(self, day: float) -> list[str]:
        """A replaced sensor, and a load that is there to stay, ask for a new commissioning.

        The sensor is replaced when it is, and whoever does it says so. Of another load nobody tells
        them: they begin again when the service calls the record stale.
        """
        changed = []
        stale = {
            r.machine for r in commissionings.latest_armed(self.store, FLEET) if r.stale_because
        } - {r.machine for r in self._under_way()}
        for pump in self.pumps:
            replaced = pump.story == "sensor" and day >= pump.at_day + SENSOR_AWAY_DAYS
            if replaced and pump.name not in self.done:
                self.done.add(pump.name)
                commissionings.go_stale(
                    self.store, FLEET, pump.device, SLOT, because="the sensor was replaced",
                    actor=WHO, now_ns=self._ns(day),
                )  # fmt: skip
            elif pump.name not in stale or pump.sensor_lost(day):
                continue
            self.commission(pump, self._ns(day))
            changed.append(pump.name)
        return changed

    def _under_way(self) -> list[commissionings.CommissioningRow]:
        return commissionings.list_commissionings(self.store, FLEET, under_way=True)
