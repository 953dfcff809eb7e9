"""Measuring an anomaly model: false alarms on healthy days held out, detection of faults.

Faults are those that people confirmed, and simulated ones laid over healthy held-out recordings
(`superposed`), so that there is something to detect where nothing ever failed. A fault is an event:
it is detected when the alarm stands in any of its windows. Float model, baseline and champion see
the same windows.

Where the manifest has each machine find its own threshold, that is what judges here as well: each
candidate's rule is applied to its own scores of the machine's calibration windows, as the device
does in commissioning. A machine with fewer than `MACHINE_WINDOWS_MIN` of them is judged by the
fleet's threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop_contract.manifest import AlarmRule, CalibrationRule, Manifest
from fieldloop_models.recipe import AnomalyRecipe, Decision, Scores
from fieldloop_scoring import calibrating
from fieldloop_training.baseline import Hotelling
from fieldloop_training.candidates import Champion, Made, Measured, independent_units
from fieldloop_training.context import Context
from fieldloop_training.edge import EdgeScores, score_on_edge
from fieldloop_training.evaluation import area_under_curve, raised
from fieldloop_training.forecasts import forecast_errors
from fieldloop_training.gates import FAULTS, HEALTHY, KNOWN, UNITS_MIN, Bound, Evidence, judge
from fieldloop_training.options import FAULT_KINDS
from fieldloop_training.preparing import Prepared
from fieldloop_training.splits import Use
from fieldloop_training.statistics import Trials
from fieldloop_training.superposed import SEVERITIES, superpose

RECORDINGS_MAX = 24
"""Healthy recordings that faults are laid over."""
EVENT_WINDOWS_MAX = 24
MACHINE_WINDOWS_MIN = 32
"""Calibration windows of a machine from which it has a threshold of its own."""


@dataclass(frozen=True, slots=True)
class Events:
    """Windows of healthy recordings, then of fault events.

    Attributes:
        samples: float32[n, window_samples, channels].
        event: int64[n], number of the event of each window; of a healthy recording too.
        faulty: bool[events].
        known: bool[events], confirmed and in the frozen set.
        machine: int64[events].
        recording: int64[events], the recording that it is made of.
        kind: of each event.
    """

    samples: NDArray[np.float32]
    event: NDArray[np.int64]
    faulty: NDArray[np.bool_]
    known: NDArray[np.bool_]
    machine: NDArray[np.int64]
    recording: NDArray[np.int64]
    kind: list[str]


def gather(prepared: Prepared, seed: int, kinds: Sequence[str] = FAULT_KINDS) -> Events:
    """Healthy held-out recordings, confirmed faults, and superposed ones of these kinds."""
    held = prepared.where(Use.HELD)
    good, frozen = prepared.is_healthy(), prepared.is_frozen()
    machines, samples = prepared.machine_numbers(), prepared.dataset.samples
    parts: list[NDArray[np.float32]] = []
    rows: list[tuple[bool, bool, int, int, str]] = []

    def add(windows: NDArray[np.float32], faulty: bool, known: bool, at: int, kind: str) -> None:
        parts.append(windows)
        number = int(prepared.recordings[at])
        rows.append((faulty, known, int(machines[at]), number, kind))

    healthy_rows = [np.nonzero(held & good & (prepared.recordings == r))[0]
                    for r in np.unique(prepared.recordings[held & good])]  # fmt: skip
    for index in healthy_rows:
        add(samples[index], False, False, index[0], HEALTHY)
    for r in np.unique(prepared.recordings[~good]):
        index = np.nonzero(prepared.recordings == r)[0]
        kind = prepared.dataset.recordings[int(r)].label
        known = bool(frozen[index[0]]) or prepared.frozen is None
        add(samples[index], True, known, index[0], kind)
    if len(healthy_rows) > RECORDINGS_MAX:
        lot = np.random.default_rng(seed).choice(len(healthy_rows), RECORDINGS_MAX, replace=False)
        healthy_rows = [healthy_rows[i] for i in sorted(lot)]
    channels = samples.shape[2]
    for turn, index in enumerate(healthy_rows):
        windows = samples[index[:EVENT_WINDOWS_MAX]]
        for nth, (kind, severity) in enumerate((k, s) for k in kinds for s in SEVERITIES):
            channel = (turn + nth) % channels
            faulty = superpose(windows, kind, channel, severity, seed + turn)
            add(faulty, True, False, index[0], f"{kind} {severity:g}")
    event = np.repeat(np.arange(len(parts)), [len(p) for p in parts])
    columns = list(zip(*rows, strict=True))
    return Events(
        np.concatenate(parts), event, np.array(columns[0], np.bool_),
        np.array(columns[1], np.bool_), np.array(columns[2], np.int64),
        np.array(columns[3], np.int64), list(columns[4]),
    )  # fmt: skip


def calibration_scores(prepared: Prepared, values: NDArray[np.float64]) -> Scores:
    """What `decide` is given: scores of the calibration windows, in their order."""
    chosen, spec = prepared.where(Use.CALIBRATION), prepared.dataset.spec
    return Scores(values, prepared.recordings[chosen], spec.window_samples, spec.hop_samples)


def measure(
    context: Context, prepared: Prepared, made: Made, champion: Champion | None,
    recipe: AnomalyRecipe,
) -> Measured:  # fmt: skip
    """Score all events by every candidate and judge.

    Raises:
        Isolate: the edge runtime refuses a file.
        RejectedInput: the baseline's scores carry no threshold.
    """
    events = gather(prepared, context.options.seed, context.options.simulated_faults)
    bench = _Bench.of(prepared, events)
    edge = bench.score(made.manifest, made.model)
    floats = bench.score(made.float_manifest, made.float_model)
    said = {"int8": (made.manifest, edge), "float": (made.float_manifest, floats)}
    if champion is not None and not champion.note:
        said["champion"] = champion.manifest, bench.score(champion.manifest, champion.model)
    scores = {name: bench.of_events(each.scores) for name, (_, each) in said.items()}
    above = {name: bench.thresholds(m, each.scores) for name, (m, each) in said.items()}
    rules = {name: m.outputs[0].alarm for name, (m, _) in said.items()}
    plain = Hotelling(prepared.dataset.samples[prepared.where(Use.FIT)])
    kept = plain.scores(bench.samples)
    learnt = plain.scores(prepared.dataset.samples[prepared.where(Use.CALIBRATION)])
    decided = recipe.decide(calibration_scores(prepared, learnt))
    scores["baseline"] = bench.of_events(kept)
    above["baseline"] = bench.thresholds(decided, kept)
    rules["baseline"] = decided.alarm
    alarm = {
        name: raised(scores[name], events.event, above[name], rules[name] or AlarmRule())
        for name in scores
    }
    healthy = ~events.faulty[events.event]
    errors = forecast_errors(
        events.samples[healthy], events.recording[events.event][healthy],
        {name: (m, bench.of_events(each.outputs)[healthy]) for name, (m, each) in said.items()},
    )  # fmt: skip
    evidence = _evidence(context, prepared, made, champion, events, alarm, edge, errors)
    verdict = judge(evidence)
    return Measured(
        metrics={k: _figures(events, scores[k], alarm[k]) for k in scores},
        evidence=evidence,
        verdict=verdict,
        record={
            "gates": verdict.to_object()["gates"],
            "agreement": evidence.agreement,
            "bytes": len(made.model),
            "latency_us": {"p50": edge.latency_us[0], "p95": edge.latency_us[1]},
            "memory_bytes": edge.memory_bytes,
            "runtime": edge.runtime,
            "detected": _by_kind(events, alarm["int8"]),
            "recent": _recent(prepared, events, scores, above),
        },
        drawn={
            "scores": scores["int8"], "float": scores["float"], "faulty": ~healthy,
            "threshold": made.manifest.outputs[0].threshold,
        },
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Bench:
    """What every candidate scores: the events, and the windows that commission the machines.

    Attributes:
        samples: float32[n, window_samples, channels], those of the events first.
        count: windows of the events.
        machine: int64[n], machine of each window.
    """

    samples: NDArray[np.float32]
    count: int
    machine: NDArray[np.int64]

    @classmethod
    def of(cls, prepared: Prepared, events: Events) -> _Bench:
        quiet = prepared.where(Use.CALIBRATION) & prepared.is_healthy()
        machines = [events.machine[events.event], prepared.machine_numbers()[quiet]]
        samples = np.concatenate([events.samples, prepared.dataset.samples[quiet]])
        return cls(samples, len(events.samples), np.concatenate(machines))

    def score(self, manifest: Manifest, model: bytes) -> EdgeScores:
        return score_on_edge(manifest, model, self.samples)

    def of_events(self, values: NDArray[Any]) -> NDArray[Any]:
        return values[: self.count]

    def thresholds(
        self, stated: Manifest | Decision, scores: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Threshold of each window of the events, its machine's where it has one: float64[n]."""
        whole = stated.outputs[0].threshold if isinstance(stated, Manifest) else stated.threshold
        assert whole is not None
        mine = self.of_events(self.machine)
        found = np.full(self.count, whole, np.float64)
        for machine in np.unique(mine):
            seen = scores[self.count :][self.machine[self.count :] == machine]
            found[mine == machine] = machine_threshold(whole, stated.calibration, seen)
        return found


def machine_threshold(
    fleet: float, rule: CalibrationRule | None, scores: NDArray[np.float64]
) -> float:
    """What a machine is judged by: its own threshold, as its device finds it, or the fleet's.

    Args:
        scores: float64[n] of the machine's calibration windows in their order; NaN is left out.
    """
    seen = scores[np.isfinite(scores)]
    if rule is None or len(seen) < min(MACHINE_WINDOWS_MIN, rule.windows):
        return fleet
    return calibrating.fit(seen[: rule.windows].tolist(), rule).threshold


def _recent(
    prepared: Prepared,
    events: Events,
    scores: dict[str, NDArray[np.float64]],
    above: dict[str, NDArray[np.float64]],
) -> dict[str, float]:
    """How often model and champion are on two sides of their thresholds, on recent health."""
    if "champion" not in scores:
        return {}
    frozen = np.unique(prepared.recordings[prepared.is_frozen()])
    chosen = ~events.faulty[events.event] & ~np.isin(events.recording[events.event], frozen)
    if not chosen.any():
        return {}
    mine, theirs = ((scores[c] > above[c])[chosen] for c in ("int8", "champion"))
    return {"disagreement": float((mine != theirs).mean()), "windows": float(chosen.sum())}


def _evidence(
    context: Context, prepared: Prepared, made: Made, champion: Champion | None, events: Events,
    alarm: dict[str, NDArray[np.bool_]], edge: EdgeScores, errors: Trials | None,
) -> Evidence:  # fmt: skip
    units, unit = independent_units(events.machine, events.recording, "machines", UNITS_MIN)
    windows = ~events.faulty[events.event]
    healthy = Trials(units[events.event][windows], {k: 1.0 - v[windows] for k, v in alarm.items()})
    found = {k: _detected(events, v) for k, v in alarm.items()}
    faults = Trials(
        units[events.faulty], {k: v[events.faulty].astype(np.float64) for k, v in found.items()}
    )
    known = faults.where(events.known[events.faulty])
    slices: dict[str, Trials] = {}
    names = sorted({prepared.machine(r.device) for r in prepared.dataset.recordings})
    for number, name in enumerate(names):
        mine = events.machine == number
        by_recording = Trials(events.recording[events.event][windows], healthy.values)
        slices[f"healthy, machine {name}"] = by_recording.where(mine[events.event][windows])
        by_event = Trials(events.recording[events.faulty], faults.values)
        slices[f"faults, machine {name}"] = by_event.where(mine[events.faulty])
    limits = made.manifest.limits
    return Evidence(
        task="anomaly",
        sets={HEALTHY: healthy, FAULTS: faults} | ({KNOWN: known} if len(known.units) else {}),
        slices={name: t for name, t in slices.items() if len(t.units)},
        agreement=float((alarm["int8"] == alarm["float"]).mean()),
        bounds=[
            Bound("false alarms", round(1 - healthy.share("int8"), 6),
                  context.options.false_alarms_max, "of healthy windows"),
            Bound("size", len(made.model), context.options.bytes_max, "bytes"),
            Bound("latency", round(edge.latency_us[1] / 1e3, 4), limits.latency_ms_max, "ms"),
            Bound("memory", edge.memory_bytes, limits.memory_bytes_max, "bytes"),
        ],
        champion_note=champion.note if champion else "",
        replaced_by_hand=context.options.replace_champion,
        looks=prepared.frozen.looks if prepared.frozen else 0,
        unit=unit,
        errors=errors,
    )  # fmt: skip


def _detected(events: Events, alarm: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether the alarm stood in any window of each event: bool[events]."""
    return np.bincount(events.event, weights=alarm, minlength=len(events.kind)) > 0


def _figures(
    events: Events, scores: NDArray[np.float64], alarm: NDArray[np.bool_]
) -> dict[str, float]:
    windows = events.faulty[events.event]
    found = _detected(events, alarm)
    finite = np.isfinite(scores)
    auc = area_under_curve(scores[finite & ~windows], scores[finite & windows])
    figures = {
        "false_alarms": float(alarm[~windows].mean()),
        "detected": float(found[events.faulty].mean()) if events.faulty.any() else 0.0,
        "healthy_windows": float((~windows).sum()),
        "faults": float(events.faulty.sum()),
    }
    return figures | ({"auc": auc} if np.isfinite(auc) else {})


def _by_kind(events: Events, alarm: NDArray[np.bool_]) -> dict[str, Any]:
    """Share of the events of each kind in which the alarm stood."""
    found = _detected(events, alarm)
    kinds = sorted({k for k, bad in zip(events.kind, events.faulty, strict=True) if bad})
    return {k: float(found[[e == k for e in events.kind]].mean()) for k in kinds}
