"""The physics of a rotating machine, sampled: shaft, imbalance, misalignment, bearing, noise.

Pure, and repeatable: block number `k` of a machine is a function of its description, its seed and
the state after block `k - 1`. A block costs some microseconds a sample, without numpy.

The model, in the stream's unit (an acceleration), for the three directions of one bearing seat:

- Shaft. `f(t) = f0 * speed(t) * (1 + drift * sin(2 pi t / drift_period))`, phase by integration.
- Imbalance: a force that rotates with the shaft, `m e w^2`, so amplitude goes with the square of
  speed; vertical lags horizontal by 90 degrees. (ISO 21940-11; Randall, "Vibration-based Condition
  Monitoring", 2011, 2.2.)
- Misalignment: 2X and 3X of the shaft, strong in the axial direction, in proportion to load.
- Bearing faults: impulses at BPFO, BPFI, 2 BSF or FTF. The way between two impulses varies at
  random (slip, 1 to 2 %), which makes them pseudo-cyclostationary: Randall & Antoni, "Rolling
  element bearing diagnostics: a tutorial", Mechanical Systems and Signal Processing 25 (2011), 485.
- Each impulse rings a resonance of the structure: `A exp(-zeta w t) sin(w_d t)`. McFadden & Smith,
  "Model for the vibration produced by a single point defect in a rolling element bearing", Journal
  of Sound and Vibration 96 (1984), 69.
- Load zone (the same source, after Stribeck): `q(theta) = (1 - (1 - cos theta) / (2 eps))^1.5`
  within the zone, 0 outside. An inner-race defect passes through it once a turn of the shaft, a
  ball's once a turn of the cage; an outer-race defect stands in its middle.

Choices of this model, without a source: an impulse's size goes with severity, load and speed.
"""

from __future__ import annotations

import cmath
import math
from array import array
from dataclasses import dataclass, replace
from random import Random
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Direction = Literal["horizontal", "vertical", "axial"]
DIRECTIONS: tuple[Direction, ...] = ("horizontal", "vertical", "axial")
Fault = Literal["outer", "inner", "ball", "cage"]
SPEED_EVERY = 32
"""Samples for which the shaft's speed is held: it changes over seconds."""
PHASES_MAX = 64
IMPULSES_PER_SAMPLE_MAX = 0.5
_LOAD_ZONE_POWER = 1.5
_IMBALANCE_GAIN = {"horizontal": 1.0, "vertical": 0.8, "axial": 0.1}
_IMBALANCE_LAG = {"horizontal": 0.0, "vertical": math.pi / 2, "axial": 0.3}
_TWICE_GAIN = {"horizontal": 0.5, "vertical": 0.6, "axial": 1.0}
_THRICE_GAIN = {"horizontal": 0.15, "vertical": 0.2, "axial": 0.35}
_RING_GAIN = {"horizontal": 0.7, "vertical": 1.0, "axial": 0.4}
_STILL_SPEED = 1e-3

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Level = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Bearing(_Strict):
    """Geometry of a rolling-element bearing; the default is a 6205 (9 balls)."""

    elements: Annotated[int, Field(ge=3, le=100)] = Field(
        default=9, description="number of rolling elements, n"
    )
    element_mm: Positive = Field(default=7.94, description="diameter of an element, d")
    pitch_mm: Positive = Field(default=39.04, description="pitch diameter, D")
    contact_deg: Annotated[float, Field(ge=0, lt=90)] = Field(
        default=0.0, description="contact angle, a"
    )

    @model_validator(mode="after")
    def _fits(self) -> Bearing:
        if self.element_mm >= self.pitch_mm:
            raise ValueError("an element is smaller than the pitch diameter")
        return self

    @property
    def _ratio(self) -> float:
        return float(self.element_mm / self.pitch_mm * math.cos(math.radians(self.contact_deg)))

    @property
    def cage_orders(self) -> float:
        """FTF = fr / 2 (1 - d/D cos a), in orders of the shaft's frequency fr."""
        return (1 - self._ratio) / 2

    @property
    def outer_orders(self) -> float:
        """BPFO = n/2 fr (1 - d/D cos a)."""
        return self.elements * self.cage_orders

    @property
    def inner_orders(self) -> float:
        """BPFI = n/2 fr (1 + d/D cos a)."""
        return self.elements / 2 * (1 + self._ratio)

    @property
    def ball_orders(self) -> float:
        """BSF = D/(2d) fr (1 - (d/D cos a)^2). A defect strikes both races: 2 BSF."""
        return self.pitch_mm / (2 * self.element_mm) * (1 - self._ratio**2)

    def impulse_orders(self, fault: Fault) -> float:
        """Mean number of impulses in a turn of the shaft."""
        return {
            "outer": self.outer_orders,
            "inner": self.inner_orders,
            "ball": 2 * self.ball_orders,
            "cage": self.cage_orders,
        }[fault]


class Severity(_Strict):
    """How bad a defect is over the machine's time."""

    kind: Literal["none", "constant", "growth"] = "none"
    level: Level = Field(default=1.0, description="at and after the onset, before it grows")
    onset_s: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] = Field(
        default=0.0, description="machine time at which it begins"
    )
    doubling_s: Positive = Field(default=3_600.0, description="time in which it doubles (growth)")
    level_max: Level = Field(default=20.0, description="where growth ends")

    def at(self, time_s: float) -> float:
        """The level at a machine time."""
        if self.kind == "none" or time_s < self.onset_s:
            return 0.0
        if self.kind == "constant":
            return self.level
        doublings = min((time_s - self.onset_s) / self.doubling_s, 1_000.0)
        return min(self.level * math.exp2(doublings), self.level_max)


class Defect(_Strict):
    """A defect of the bearing."""

    fault: Fault
    amplitude: Level = Field(default=1.0, description="peak of a ring at severity 1, full load")
    severity: Severity = Severity(kind="constant")


class Duty(_Strict):
    """A part of the schedule: `speed` and `load` are shares of the nominal ones; speed 0 stands."""

    for_s: Positive
    speed: Annotated[float, Field(ge=0, le=2)] = 1.0
    load: Annotated[float, Field(ge=0, le=2)] = 1.0


class Machine(_Strict):
    """A rotating machine and the sensor on it."""

    shaft_hz: Positive = Field(default=24.5, description="nominal speed of the shaft, f0")
    drift: Share = Field(default=0.005, description="slow drift of the speed, as a share")
    drift_period_s: Positive = Field(default=600.0, description="period of the drift")
    imbalance: Level = Field(default=0.05, description="amplitude at 1X at nominal speed")
    misalignment: Level = Field(default=0.02, description="amplitude at 2X at full load")
    bearing: Bearing = Bearing()
    defects: list[Defect] = Field(default_factory=list, max_length=8)
    slip: Annotated[float, Field(ge=0, le=0.2)] = Field(
        default=0.015, description="standard deviation of the way between impulses, as a share"
    )
    load_zone: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.4, description="load distribution factor, eps"
    )
    resonance_hz: Positive = Field(default=1_100.0, description="resonance that impulses ring")
    damping: Annotated[float, Field(gt=0, lt=1)] = Field(default=0.05, description="its zeta")
    noise: Level = Field(default=0.02, description="standard deviation of the noise")
    schedule: list[Duty] = Field(
        default_factory=list, max_length=PHASES_MAX, description="repeated; empty runs for ever"
    )
    ramp_s: Positive = Field(default=5.0, description="time constant of run-up and coast-down")

    def check_rate(self, rate_hz: float) -> str | None:
        """What is wrong with sampling this machine at a rate, or None."""
        if self.resonance_hz >= rate_hz / 2 and self.defects:
            return f"the resonance of {self.resonance_hz:g} Hz is not below half of {rate_hz:g} Hz"
        fastest = max((duty.speed for duty in self.schedule), default=1.0)
        top_hz = self.shaft_hz * fastest * (1 + self.drift)
        orders = [self.bearing.impulse_orders(defect.fault) for defect in self.defects]
        if top_hz * max([3.0, *orders]) > IMPULSES_PER_SAMPLE_MAX * rate_hz:
            return f"a shaft of {top_hz:g} Hz is too fast for {rate_hz:g} Hz"
        return None


@dataclass(frozen=True, slots=True)
class MachineState:
    """Where a machine stands after `sample` samples.

    Attributes:
        turns: of the shaft, since the beginning.
        speed: share of the nominal speed, of the run-up and coast-down.
        next_turns: for each defect, where its next impulse is.
        ring: the resonance as real and imaginary part of a decaying phasor.
    """

    sample: int = 0
    turns: float = 0.0
    speed: float = 0.0
    next_turns: tuple[float, ...] = ()
    ring: tuple[float, float] = (0.0, 0.0)


def duty_at(schedule: list[Duty], time_s: float) -> Duty | None:
    """The part of a repeated schedule that holds at a machine time; None for an empty one."""
    if not schedule:
        return None
    rest_s = time_s % sum(duty.for_s for duty in schedule)
    for duty in schedule:
        if rest_s < duty.for_s:
            return duty
        rest_s -= duty.for_s
    return schedule[-1]


def load_zone(angle: float, eps: float) -> float:
    """Stribeck's load at an angle in rad from the middle of the zone, as a share of the largest."""
    inside = 1 - (1 - math.cos(angle)) / (2 * eps)
    return float(inside**_LOAD_ZONE_POWER) if inside > 0 else 0.0


class Simulation:
    """Makes the samples of a machine.

    Args:
        columns: direction of each channel.
    """

    def __init__(
        self, machine: Machine, *, rate_hz: float, columns: tuple[Direction, ...], seed: int
    ) -> None:
        self._machine = machine
        self._rate_hz = rate_hz
        self._columns = columns
        self._seed = seed
        omega = 2 * math.pi * machine.resonance_hz
        self._pole = complex(-machine.damping * omega, omega * math.sqrt(1 - machine.damping**2))
        self._decay = cmath.exp(self._pole / rate_hz)
        self._orders = [machine.bearing.impulse_orders(defect.fault) for defect in machine.defects]

    def begin(self) -> MachineState:
        """The machine at time 0, running as its schedule begins, each defect at a random angle."""
        random = Random(f"{self._seed}/begin")
        duty = duty_at(self._machine.schedule, 0.0)
        return MachineState(
            turns=random.random(),
            speed=1.0 if duty is None else duty.speed,
            next_turns=tuple(1.0 + random.random() / orders for orders in self._orders),
        )

    def block(self, state: MachineState, n: int) -> tuple[MachineState, array[float]]:
        """The next `n` samples.

        Returns:
            The state after them, and float32[n * columns], row by row.
        """
        random = Random(f"{self._seed}/{state.sample}")
        gauss = random.gauss
        noise = self._machine.noise
        gains = [self._gains(column) for column in self._columns]
        out = array("f", bytes(4 * n * len(gains)))
        at = 0
        sin, cos, tau = math.sin, math.cos, 2 * math.pi
        for first in range(0, n, SPEED_EVERY):
            count = min(SPEED_EVERY, n - first)
            state, turns, rings, once, twice = self._stretch(state, count, random)
            for turn, ring in zip(turns, rings, strict=True):
                angle = tau * turn
                s, c = sin(angle), cos(angle)
                s2 = 2 * s * c
                s3 = s * (3 - 4 * s * s)
                for a_s, a_c, b, d, r in gains:
                    shaft = once * (a_s * s + a_c * c) + twice * (b * s2 + d * s3)
                    out[at] = shaft + r * ring + noise * gauss(0.0, 1.0)
                    at += 1
        return state, out

    def _gains(self, column: Direction) -> tuple[float, float, float, float, float]:
        machine, lag = self._machine, _IMBALANCE_LAG[column]
        once = machine.imbalance * _IMBALANCE_GAIN[column]
        return (
            once * math.cos(lag),
            -once * math.sin(lag),
            machine.misalignment * _TWICE_GAIN[column],
            machine.misalignment * _THRICE_GAIN[column],
            _RING_GAIN[column],
        )

    def _stretch(
        self, state: MachineState, count: int, random: Random
    ) -> tuple[MachineState, list[float], list[float], float, float]:
        """Some samples at one speed: state after, turns and ring of each, gains of 1X and 2X."""
        machine, rate_hz = self._machine, self._rate_hz
        time_s = state.sample / rate_hz
        duty = duty_at(machine.schedule, time_s)
        wanted, load = (1.0, 1.0) if duty is None else (duty.speed, duty.load)
        share = 1 - math.exp(-count / (rate_hz * machine.ramp_s))
        speed = state.speed + (wanted - state.speed) * share
        drift = 1 + machine.drift * math.sin(2 * math.pi * time_s / machine.drift_period_s)
        step = machine.shaft_hz * speed * drift / rate_hz
        turns = [state.turns + step * i for i in range(1, count + 1)]
        next_turns, kicks = self._kicks(state, turns[-1], step, load, random)
        ring = complex(*state.ring)
        rings = []
        for i in range(count):
            ring = ring * self._decay + kicks.get(i, 0.0)
            rings.append(ring.imag)
        if abs(ring) < 1e-12:
            ring = 0j
        after = replace(
            state,
            sample=state.sample + count,
            turns=turns[-1],
            speed=speed,
            next_turns=next_turns,
            ring=(ring.real, ring.imag),
        )
        moving = 1.0 if speed > _STILL_SPEED else 0.0
        return after, turns, rings, speed * speed, load * moving

    def _kicks(
        self, state: MachineState, until: float, step: float, load: float, random: Random
    ) -> tuple[tuple[float, ...], dict[int, complex]]:
        """Impulses up to a turn: where the next are, and what each sample gets of the phasor.

        An impulse between two samples arrives as the phasor it has become by the second.
        """
        machine = self._machine
        time_s = state.sample / self._rate_hz
        kicks: dict[int, complex] = {}
        after: list[float] = []
        for defect, orders, due in zip(
            machine.defects, self._orders, state.next_turns, strict=True
        ):
            level = defect.amplitude * defect.severity.at(time_s) * load * state.speed
            turn = due
            while turn <= until and step > 0:
                i = max(math.ceil((turn - state.turns) / step) - 1, 0)
                late_s = (state.turns + (i + 1) * step - turn) / step / self._rate_hz
                size = level * self._modulation(defect.fault, turn)
                kicks[i] = kicks.get(i, 0j) + size * cmath.exp(self._pole * max(late_s, 0.0))
                turn += max(1 + machine.slip * random.gauss(0.0, 1.0), 0.1) / orders
            after.append(turn)
        return tuple(after), kicks

    def _modulation(self, fault: Fault, turn: float) -> float:
        """The load on the defect when it strikes, as a share of the largest."""
        if fault == "outer":
            return 1.0
        around = turn if fault == "inner" else turn * self._machine.bearing.cage_orders
        return load_zone(2 * math.pi * around, self._machine.load_zone)
