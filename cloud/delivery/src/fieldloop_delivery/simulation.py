"""Rollouts on simulated fleets, by the engine that runs in production, in virtual time.

    python -m fieldloop_delivery simulate --devices 1000 --seeds 50

Says first what evidence the plan needs to see harm of the stated size, then rolls versions out and
reports how often each was halted, in which wave, on how many devices and after how long. Repeatable
from its seeds; nothing is read but the arguments, and a policy file where one is named.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from fieldloop_delivery import planning
from fieldloop_delivery.gatelimits import Gates
from fieldloop_delivery.policy import Plan, Wave
from fieldloop_delivery.rollout import (
    ENDED,
    Begin,
    Give,
    Look,
    Observation,
    Phase,
    Return,
    Rollout,
    step,
)
from fieldloop_delivery.simworld import HOUR, NEW, Fleet, Version, World

EARLY_S, LOOK_EARLY_S, LOOK_S, LOOK_MANY_S = 2 * HOUR, 600.0, HOUR, 3 * HOUR
"""Looks are ten minutes apart in the first two hours of a wave, then an hour; three with many."""
MANY = 20_000
DAYS_MAX = 30
PLAN = Plan(
    waves=[Wave(count=60), Wave(percent=30), Wave(all=True)],
    gates=Gates(
        windows_min=120, quorum=0.8, soak_s=48 * HOUR, wait_s_max=6 * 24 * HOUR,
        failed_share_max=0.05, labels_min=500, required=["accuracy", "alarms"],
    ),
    cohorts=["site"],
)  # fmt: skip
"""The plan of the reports: a first wave of sixty, two days of soak, one in twenty may fail."""
SCENARIOS = {
    "same": Version(),
    "better": Version(accuracy=0.02, alarms=0.8),
    "broken": Version(breaks=0.3),
    "subtle": Version(accuracy=-0.05, alarms=2.0),
    "inaccurate": Version(accuracy=-0.05),
    "noisy": Version(alarms=2.0),
    "slow": Version(latency=3.0),
    "mute": Version(mutes=1.0),
    "weather": Version(drift=-0.05),
}
GOOD = ("same", "better", "weather")


@dataclass(frozen=True, slots=True)
class Run:
    """How one rollout went. `trace` is a digest of every look's outcome."""

    scenario: str
    seed: int
    devices: int
    phase: str
    wave: int
    touched: int
    hours: float
    looks: int
    verdict: str
    labelled: int
    alarms: int
    trace: str
    seconds: float

    @property
    def gate(self) -> str:
        """The gate that halted it, or ""."""
        return self.verdict.removeprefix("halted: ").split(":")[0] if self.phase == "halted" else ""


def simulate(scenario: str, fleet: Fleet, seed: int, plan: Plan = PLAN) -> Run:
    """Roll a version out until it is completed or halted, and all are back, or 30 days passed."""
    world = World(fleet, SCENARIOS[scenario], seed)
    state = Rollout(id=f"{scenario}-{seed}", lane="main", target=NEW)
    state, _ = step(state, plan, Begin(), 0.0)
    trace = hashlib.sha256()
    begun, now_s, looks = time.process_time(), 0.0, 0
    while state.phase not in ENDED and now_s < DAYS_MAX * 24 * HOUR:
        state, effects = step(state, plan, Look(Observation(world.devices)), now_s)
        looks += 1
        trace.update(f"{now_s:.0f}{state.phase}{state.wave}{state.verdict}".encode())
        for effect in effects:
            if isinstance(effect, Give):
                world.give(effect.device, now_s)
            elif isinstance(effect, Return):
                world.take_back(effect.device, now_s)
        if state.phase in ENDED:
            break
        pause_s = _pause_s(state, now_s)
        now_s += pause_s
        world.stir(pause_s / HOUR)
        for name in (*state.members, *state.controls):
            world.live(name, now_s)
    shown = [world.devices[d] for d in state.members]
    return Run(
        scenario, seed, fleet.devices, state.phase.value, state.wave + 1, len(state.members),
        (state.ended_s or now_s) / HOUR, looks, state.verdict,
        sum(e.new.labelled for e in shown), sum(e.new.alarms for e in shown),
        trace.hexdigest()[:16], time.process_time() - begun,
    )  # fmt: skip


def _pause_s(state: Rollout, now_s: float) -> float:
    if now_s - (state.wave_since_s or 0.0) < EARLY_S and len(state.members) <= MANY:
        return LOOK_EARLY_S
    return LOOK_S if len(state.members) <= MANY else LOOK_MANY_S


def statement(plan: Plan, fleet: Fleet) -> list[str]:
    """What it takes to see harm, for the first waves: said before anything is simulated."""
    gates = plan.gates
    lines = []
    for number, wave in enumerate(plan.waves[:2]):
        size = wave.size(fleet.devices)
        accuracy = planning.accuracy_needed(gates, 0.05, size, fleet.accuracy)
        hours = accuracy.each / (fleet.windows_per_hour * fleet.labelled)
        exposure = gates.soak_s / HOUR / (7 * 24)
        alarms = planning.alarms_needed(gates, 2.0, size, 1.5, exposure)
        chance = planning.missed_by_chance(gates, 0.3, size)
        lines += [
            f"wave {number + 1}, {size} devices: {accuracy} (about {hours:.0f} running hours)",
            f"wave {number + 1}, {size} devices: {alarms}",
            f"wave {number + 1}, {size} devices: a version that breaks 30 % of devices passes with"
            f" a chance of {chance:.1e}",
        ]
    lines.append(
        f"a version no worse than allowed is halted with a chance of at most {gates.error_max:.2f}"
    )
    return lines


def campaign(
    fleet: Fleet, scenarios: list[str], seeds: range, plan: Plan, say: Callable[[str], None]
) -> dict[str, Any]:
    """All scenarios with all seeds, and the rates that come of them."""
    stated = statement(plan, fleet)
    for line in stated:
        say(f"beforehand: {line}")
    report: dict[str, Any] = {"devices": fleet.devices, "seeds": len(seeds), "stated": stated}
    say(f"{'version':<11} {'halted':>9} {'wave 1/2/3':>12} {'touched':>9} {'hours':>7}  gates")
    rows = {}
    for scenario in scenarios:
        runs = [simulate(scenario, fleet, seed, plan) for seed in seeds]
        rows[scenario] = summary(runs)
        say(_line(scenario, rows[scenario], len(runs)))
    report["scenarios"] = rows
    good = [rows[s] for s in scenarios if s in GOOD]
    bad = [rows[s] for s in scenarios if s not in GOOD]
    total_good, total_bad = len(good) * len(seeds), len(bad) * len(seeds)
    report["false_halts"] = [sum(r["halted"] for r in good), total_good]
    report["missed_harm"] = [sum(r["completed"] for r in bad), total_bad]
    say(f"false halts {report['false_halts'][0]} of {total_good};"
        f" missed harm {report['missed_harm'][0]} of {total_bad}")  # fmt: skip
    return report


def summary(runs: list[Run]) -> dict[str, Any]:
    """Figures of many runs of one scenario."""
    halted = [r for r in runs if r.phase == Phase.HALTED.value]
    gates: dict[str, int] = {}
    for run in halted:
        gates[run.gate] = gates.get(run.gate, 0) + 1
    return {
        "runs": len(runs),
        "halted": len(halted),
        "completed": sum(r.phase == Phase.COMPLETED.value for r in runs),
        "halted_in_wave": [sum(r.wave == w for r in halted) for w in (1, 2, 3)],
        "touched_mean": sum(r.touched for r in runs) / len(runs),
        "hours_mean": sum(r.hours for r in runs) / len(runs),
        "labelled_mean": sum(r.labelled for r in runs) / len(runs),
        "gates": dict(sorted(gates.items(), key=lambda x: -x[1])),
        "example": (halted or runs)[0].verdict,
        "seconds": sum(r.seconds for r in runs),
    }


def _line(name: str, row: dict[str, Any], runs: int) -> str:
    waves = "/".join(str(n) for n in row["halted_in_wave"])
    gates = ", ".join(f"{g} {n}" for g, n in row["gates"].items())
    return (
        f"{name:<11} {row['halted']:>4}/{runs:<4} {waves:>12} {row['touched_mean']:>9.0f}"
        f" {row['hours_mean']:>7.1f}  {gates}"
    )


def curve(sizes: list[int], scenario: str, plan: Plan) -> Iterator[dict[str, Any]]:
    """CPU seconds and memory of one rollout to the end, for fleets of growing size."""
    import resource  # noqa: PLC0415 - not on every system

    for size in sizes:
        run = simulate(scenario, replace(Fleet(), devices=size), 1, plan)
        peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        yield {
            "devices": size, "phase": run.phase, "touched": run.touched, "looks": run.looks,
            "cpu_seconds": round(run.seconds, 2), "peak_mib": round(peak_mib),
            "cpu_us_per_device": round(1e6 * run.seconds / size, 1),
        }  # fmt: skip


def dump(report: dict[str, Any]) -> str:
    """A report as JSON."""
    return json.dumps(report, indent=2)
