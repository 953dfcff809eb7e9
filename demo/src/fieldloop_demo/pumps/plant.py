"""Six pumps, different in speed, load and noise; what happens to three of them. Pure, by seed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fieldloop_ingestion.sources.machinery import (
    Defect,
    Direction,
    Duty,
    Machine,
    Severity,
    Simulation,
    duty_at,
)

RATE_HZ, WINDOW, EVERY_S = 3_200.0, 512, 1_800.0
CHANNELS: tuple[Direction, ...] = ("horizontal", "vertical")
DAY_S = 86_400.0
LEARN_DAYS, COMMISSION_DAYS, RUN_DAYS = 7, 13, 60
"""Days that the maintenance people vouch for, of commissioning, and of running."""
ARMED_DAY = LEARN_DAYS + COMMISSION_DAYS
DAYS = ARMED_DAY + RUN_DAYS
RAIL = 4.0
"""What the input reads once the sensor's cable is broken: its supply, in the stream's unit."""
SENSOR_AWAY_DAYS = 2.0
RUNNING_ABOVE = 0.04
"""RMS over which a pump runs; the noisiest one that stands still stays below half of it."""

Story = Literal["healthy", "fault", "load", "sensor"]


@dataclass(frozen=True, slots=True)
class Pump:
    """One pump and what befalls it.

    Attributes:
        at_day: when it does; of a healthy pump never.
        load: factor of the load afterwards, of the story `load`.
    """

    name: str
    machine: Machine
    seed: int
    story: Story
    at_day: float
    load: float = 1.0

    @property
    def device(self) -> str:
        """The device that measures it."""
        return f"dev-{self.name}"

    def befallen(self, day: float) -> bool:
        """Whether it has happened."""
        return self.story != "healthy" and day >= self.at_day

    def sensor_lost(self, day: float) -> bool:
        """Whether the sensor gives nothing; it is replaced after `SENSOR_AWAY_DAYS`."""
        return self.story == "sensor" and 0 <= day - self.at_day < SENSOR_AWAY_DAYS


def plant(seed: int) -> list[Pump]:
    """Six pumps. Who gets what is drawn, too."""
    random = Random(f"plant/{seed}")
    stories: list[Story] = ["fault", "load", "sensor", "healthy", "healthy", "healthy"]
    random.shuffle(stories)
    found = []
    for number, story in enumerate(stories, start=1):
        noise = random.uniform(0.008, 0.02)
        days = {"fault": 1.0, "load": random.uniform(12, 30), "sensor": random.uniform(8, 35)}
        at_day = ARMED_DAY + days.get(story, 0.0)
        defects = []
        if story == "fault":
            severity = Severity(
                kind="growth", level=0.5, onset_s=at_day * DAY_S,
                doubling_s=random.uniform(7, 10) * DAY_S, level_max=100.0,
            )  # fmt: skip
            kind: Literal["outer", "inner"] = random.choice(["outer", "inner"])
            defects = [Defect(fault=kind, amplitude=noise, severity=severity)]
        machine = Machine(
            shaft_hz=random.uniform(18, 48),
            imbalance=random.uniform(0.12, 0.3),
            misalignment=random.uniform(0.04, 0.1),
            noise=noise,
            resonance_hz=random.uniform(900, 1_300),
            defects=defects,
            schedule=_week(random),
        )
        found.append(
            Pump(f"pump-{number}", machine, seed * 100 + number, story, at_day,
                 random.uniform(1.7, 2.0) if story == "load" else 1.0)
        )  # fmt: skip
    return found


def _week(random: Random) -> list[Duty]:
    """Seven days of some loads and speeds, with a stop in most nights."""
    parts = []
    for _ in range(7):
        still_h = random.choice([0.0, 3.0, 5.0, 7.0])
        for _ in range(5):
            parts.append(
                Duty(for_s=(24 - still_h) / 5 * 3_600, speed=random.uniform(0.94, 1.04),
                     load=random.uniform(0.8, 1.15))
            )  # fmt: skip
        if still_h:
            parts.append(Duty(for_s=still_h * 3_600, speed=0.0, load=0.0))
    return parts


class Measuring:
    """The sensor on one pump. One thread."""

    def __init__(self, pump: Pump) -> None:
        self._pump = pump
        self._before = self._simulation(pump.machine)
        louder = [
            d.model_copy(update={"load": min(d.load * pump.load, 2.0)})
            for d in pump.machine.schedule
        ]
        self._after = self._simulation(pump.machine.model_copy(update={"schedule": louder}))
        self._state = self._before.begin()

    def _simulation(self, machine: Machine) -> Simulation:
        return Simulation(machine, rate_hz=RATE_HZ, columns=CHANNELS, seed=self._pump.seed)

    def window(self, day: float) -> NDArray[np.float32]:
        """What is measured at a time: float32[WINDOW, channels]."""
        pump = self._pump
        if pump.sensor_lost(day):
            return np.full((WINDOW, len(CHANNELS)), RAIL, np.float32)
        duty = duty_at(pump.machine.schedule, day * DAY_S)
        state = replace(
            self._state, sample=round(day * DAY_S * RATE_HZ), speed=duty.speed if duty else 1.0
        )
        changed = pump.story == "load" and pump.befallen(day)
        self._state, values = (self._after if changed else self._before).block(state, WINDOW)
        return np.frombuffer(values, np.float32).reshape(WINDOW, len(CHANNELS))
