"""What will happen to each device, drawn from the seed before anything runs. Pure; any thread.

A device's plan follows from the seed, its number and the settings alone, so that it is the same
whatever the other devices, the processes and the machine do. Times are seconds from the start.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from random import Random

from fieldloop_simulator.settings import NetworkSettings, SimulatorSettings


@dataclass(frozen=True, slots=True)
class Network:
    """One line: round trip and its spread in s, share of segments lost, bytes/s, cuts."""

    rtt_s: float = 0.0
    spread_s: float = 0.0
    loss: float = 0.0
    bytes_s: float = 0.0
    cuts_per_hour: float = 0.0
    cut_s: float = 0.0


PROFILES: dict[str, Network] = {
    "good": Network(cut_s=10.0),
    "wifi": Network(0.008, 0.010, 0.002, 2_000_000, 1.0, 10.0),
    "lte": Network(0.070, 0.040, 0.01, 500_000, 6.0, 30.0),
    "bad": Network(0.600, 0.400, 0.10, 16_000, 20.0, 45.0),
}
"""Orders of magnitude for a garage's WiFi, a moving car, and the edge of a cell; not measured."""


@dataclass(frozen=True, slots=True)
class Span:
    """From `begin_s` until `end_s`."""

    begin_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class ClockFault:
    """The clock is `offset_s` off from `begin_s` until `end_s`; `unset` says that it knows."""

    begin_s: float
    end_s: float
    offset_s: float
    unset: bool


@dataclass(frozen=True, slots=True)
class DevicePlan:
    """All that is drawn for one device."""

    index: int
    device: str
    seed: int
    join_s: float
    phase: float
    cuts: tuple[Span, ...]
    power: tuple[Span, ...]
    clock: ClockFault | None
    drift_s: float | None
    network: Network


def network_of(settings: NetworkSettings) -> Network:
    """The profile with what is set beside it."""
    base = PROFILES[settings.profile]
    rtt_s = base.rtt_s if settings.rtt_ms < 0 else settings.rtt_ms / 1000
    return Network(
        rtt_s=rtt_s,
        spread_s=base.spread_s if settings.rtt_ms < 0 else rtt_s / 2,
        loss=base.loss if settings.loss < 0 else min(settings.loss, 0.9),
        bytes_s=base.bytes_s if settings.bytes_s < 0 else settings.bytes_s,
        cuts_per_hour=(
            base.cuts_per_hour if settings.cuts_per_hour < 0 else settings.cuts_per_hour
        ),
        cut_s=base.cut_s if settings.cut_s < 0 else settings.cut_s,
    )


def device_plan(settings: SimulatorSettings, index: int) -> DevicePlan:
    """The plan of one device."""

    # Each part has a generator of its own, so that one setting does not change all the others.
    def draw(what: str) -> Random:
        return Random(f"{settings.seed}/{index}/{what}")

    network, end_s = network_of(settings.network), settings.seconds
    faults = settings.faults
    clock, clock_draw = None, draw("clock")
    if clock_draw.random() < faults.clock_share:
        clock = _clock_fault(clock_draw, end_s)
    drift_draw = draw("drift")
    drifts = drift_draw.random() < settings.drift.share
    return DevicePlan(
        index=index,
        device=f"{settings.prefix}-{index:05d}",
        seed=draw("seed").getrandbits(32),
        join_s=draw("join").random() * settings.join_s,
        phase=draw("phase").random(),
        cuts=_spans(draw("network"), network.cuts_per_hour, network.cut_s, end_s),
        power=_spans(draw("power"), faults.power_cuts_per_hour, faults.off_s, end_s),
        clock=clock,
        drift_s=drift_draw.expovariate(1 / max(settings.drift.after_s, 1e-3)) if drifts else None,
        network=network,
    )


def _spans(random: Random, per_hour: float, mean_s: float, end_s: float) -> tuple[Span, ...]:
    """A Poisson process of spans, none over another, all begun before `end_s`."""
    spans: list[Span] = []
    at_s = 0.0
    while per_hour > 0 and mean_s > 0:
        at_s += random.expovariate(per_hour / 3600)
        if at_s >= end_s:
            break
        length_s = max(0.5, random.expovariate(1 / mean_s))
        spans.append(Span(at_s, min(at_s + length_s, end_s)))
        at_s += length_s
    return tuple(spans)


def _clock_fault(random: Random, end_s: float) -> ClockFault:
    kind = random.choice(("unset", "behind", "ahead"))
    if kind == "unset":
        return ClockFault(0.0, random.uniform(0.1, 0.6) * end_s, -1_790_000_000.0, True)
    sign = -1 if kind == "behind" else 1
    begin_s = random.uniform(0, 0.5) * end_s
    return ClockFault(
        begin_s, begin_s + random.uniform(0.1, 0.4) * end_s, sign * random.uniform(60, 7_200), False
    )


def digest(plans: Iterable[DevicePlan]) -> str:
    """Names a whole plan: two runs with the same one had the same things happen to them."""
    return hashlib.sha256("\n".join(map(repr, plans)).encode()).hexdigest()[:16]
