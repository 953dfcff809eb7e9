"""A fleet in virtual time, for `simulation`: devices install, break, label, alarm, go silent.

Everything follows from the seed. Devices differ in accuracy and alarm rate, and in how a new
version suits them; their windows come in runs that are right or wrong together (one in ten is
independent), alarms in bursts, more by day than by night; machines stand still at night; some
devices are away, some lose telemetry, some never send any. Baselines are those of the week before.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

from fieldloop_delivery.evidence import Evidence, Tally, Target

OLD = Target("model", "sim", "1", "1" * 64)
NEW = Target("model", "sim", "2", "2" * 64)
HOUR = 3600.0
RUN = 10
"""Windows that are right or wrong together."""
BASELINE_HOURS = 7 * 24.0
NOTHING = Tally()


@dataclass(frozen=True, slots=True)
class Version:
    """What a new version does to devices.

    Attributes:
        breaks: share of devices on which it fails.
        accuracy: by how much accuracy changes.
        alarms: times the alarm rate.
        latency: times the latency.
        mutes: share of devices that send nothing any more once they have it.
        drift: by how much accuracy changes for everybody meanwhile, whatever they run.
    """

    breaks: float = 0.002
    accuracy: float = 0.0
    alarms: float = 1.0
    latency: float = 1.0
    mutes: float = 0.0
    drift: float = 0.0


@dataclass(frozen=True, slots=True)
class Fleet:
    """The fleet. Shares of devices; rates for each running window."""

    devices: int = 1_000
    windows_per_hour: float = 60.0
    labelled: float = 0.1
    accuracy: float = 0.9
    alarms: float = 0.004
    away: float = 0.05
    silent: float = 0.02
    lost: float = 0.05
    idle: float = 0.5
    """Share of machines that stand still between 22 and 6."""


@dataclass(slots=True)
class _Device:
    """A device that has been touched or is a control: what it has counted."""

    accuracy: float
    rate: float
    latency_us: float
    suits: float
    silent: bool
    rests: bool
    since_s: float
    old: Tally
    told_s: float | None = None
    ready_s: float = 0.0
    broken: bool = False
    back_s: float | None = None
    counted: Tally = NOTHING
    idle: int = 0


class World:
    """The fleet. One thread; every draw comes from one generator, in one order."""

    def __init__(self, fleet: Fleet, version: Version, seed: int) -> None:
        self.fleet, self.version = fleet, version
        self._rng = random.Random(seed)
        tags = [{"site": f"site-{i}"} for i in range(5)]
        plain = [Evidence(online=True, tags=t, holds=OLD, runs=OLD.key) for t in tags]
        weights = [50, 25, 15, 8, 2]
        sites = self._rng.choices(range(5), weights, k=fleet.devices)
        self._names = [f"d{i:07d}" for i in range(fleet.devices)]
        self.devices: dict[str, Evidence] = dict(
            zip(self._names, (plain[s] for s in sites), strict=True)
        )
        self._known: dict[str, _Device] = {}
        self._away: set[str] = set()
        for name in self._rng.sample(self._names, int(fleet.away * fleet.devices)):
            self._leave(name)

    # Away and back.

    def _leave(self, name: str) -> None:
        self._away.add(name)
        self.devices[name] = replace(self.devices[name], online=False, away_s=HOUR)

    def stir(self, hours: float) -> None:
        """Some of those away come back, after four hours on average, and others leave."""
        many = _poisson(self._rng, len(self._away) * hours / 4)
        for name in self._rng.sample(sorted(self._away), min(many, len(self._away))):
            self._away.discard(name)
            self.devices[name] = replace(self.devices[name], online=True, away_s=0.0)
            self._leave(self._names[self._rng.randrange(len(self._names))])

    # What the rollout does.

    def meet(self, name: str, now_s: float) -> _Device:
        """A device from now on counted, with the baseline of a week."""
        known = self._known.get(name)
        if known is None:
            rng, fleet = self._rng, self.fleet
            accuracy = min(0.99, max(0.5, rng.gauss(fleet.accuracy, 0.03)))
            rate = fleet.alarms * math.exp(rng.gauss(0, 0.5))
            latency_us = 9_000.0 * math.exp(rng.gauss(0, 0.3))
            silent = rng.random() < fleet.silent
            rests = rng.random() < fleet.idle
            hours = BASELINE_HOURS * ((2 / 3) if rests else 1.0)
            old = self._draw(hours * fleet.windows_per_hour, accuracy, rate, latency_us, NOTHING)
            known = self._known[name] = _Device(
                accuracy, rate, latency_us, rng.gauss(0, 0.01), silent, rests, now_s,
                NOTHING if silent else old,
            )  # fmt: skip
        return known

    def give(self, name: str, now_s: float) -> None:
        """It is told to run the new version."""
        device = self.meet(name, now_s)
        rng = self._rng
        device.told_s, device.ready_s = now_s, now_s + rng.expovariate(1 / 600)
        device.broken = rng.random() < self.version.breaks
        device.silent = device.silent or rng.random() < self.version.mutes
        device.counted, device.idle, device.since_s = NOTHING, 0, now_s
        self.devices[name] = replace(self.devices[name], holds=NEW)

    def take_back(self, name: str, now_s: float) -> None:
        """It is told to go back; it does when it is there."""
        self._known[name].back_s = now_s + self._rng.uniform(1, 30)
        self.devices[name] = replace(self.devices[name], holds=OLD)

    # Time.

    def live(self, name: str, until_s: float) -> None:
        """A touched device or a control goes on until `until_s`, and reports, or does not."""
        device, seen = self.meet(name, until_s), self.devices[name]
        if not seen.online or device.silent or self._rng.random() < self.fleet.lost:
            return
        if device.back_s is not None:
            if until_s >= device.back_s:
                self.devices[name] = replace(seen, runs=OLD.key, at_work="", installed=False)
            return
        runs_new = device.told_s is not None
        if runs_new and until_s < device.ready_s:
            self.devices[name] = replace(seen, at_work=NEW.key)
            return
        if runs_new and device.broken:
            self.devices[name] = replace(seen, failed="ROLLED_BACK: crash loop")
            return
        begin_s = max(device.since_s, device.ready_s if runs_new else 0.0)
        device.since_s = until_s
        windows = (until_s - begin_s) / HOUR * self.fleet.windows_per_hour
        hour = until_s / HOUR % 24
        if device.rests and (hour >= 22 or hour < 6):
            device.idle += int(windows)
        else:
            self._count(device, windows, runs_new, hour)
        # Built whole, since `replace` is the cost of a large fleet.
        self.devices[name] = Evidence(
            True, 0.0, "", seen.tags, seen.holds, NEW.key if runs_new else OLD.key, "",
            runs_new, "", device.idle, device.counted, device.old,
        )  # fmt: skip

    def _count(self, device: _Device, windows: float, runs_new: bool, hour: float) -> None:
        version = self.version
        latency_us = device.latency_us
        accuracy = device.accuracy + version.drift
        rate = device.rate * (1 + 0.3 * math.sin((hour - 8) / 24 * 2 * math.pi))
        if runs_new:
            accuracy += version.accuracy + device.suits
            rate *= version.alarms
            latency_us *= version.latency
        device.counted = self._draw(windows, accuracy, rate, latency_us, device.counted)

    def _draw(
        self, windows: float, accuracy: float, rate: float, latency_us: float, before: Tally
    ) -> Tally:
        """Counts of so many windows more: labels in runs, alarms in bursts."""
        rng = self._rng
        many = int(windows) + (rng.random() < windows % 1)
        runs = _binomial(rng, many // RUN + (rng.random() < many % RUN / RUN), self.fleet.labelled)
        right = _binomial(rng, runs, min(1.0, max(0.0, accuracy)))
        bursts = _poisson(rng, many * rate / 1.5)
        alarms = bursts + (_binomial(rng, bursts, 0.5) if bursts else 0)
        return Tally(
            before.windows + many,
            0,
            latency_us,
            before.labelled + RUN * runs,
            before.correct + RUN * right,
            before.alarms + alarms,
        )


def _poisson(rng: random.Random, mean: float) -> int:
    if mean <= 0:
        return 0
    if mean > 30:
        return max(0, round(rng.gauss(mean, math.sqrt(mean))))
    left, count, product = math.exp(-mean), 0, rng.random()
    while product > left:
        count += 1
        product *= rng.random()
    return count


def _binomial(rng: random.Random, n: int, p: float) -> int:
    if n <= 0 or p <= 0:
        return 0
    if p >= 1:
        return n
    if n * p * (1 - p) > 12:
        return min(n, max(0, round(rng.gauss(n * p, math.sqrt(n * p * (1 - p))))))
    if p > 0.5:
        return n - _binomial(rng, n, 1 - p)
    # Waiting times between successes (Devroye 1986, Non-Uniform Random Variate Generation, X.4).
    scale, count, at = math.log1p(-p), 0, 0.0
    while True:
        at += math.floor(math.log(1.0 - rng.random()) / scale) + 1
        if at > n:
            return count
        count += 1
