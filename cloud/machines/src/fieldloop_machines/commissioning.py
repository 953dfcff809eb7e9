"""Is this what the machine is like when healthy, and where does an alarm begin? Pure.

From the scores of a slot's running windows, one machine's commissioning block:

1. it waits until there are enough running hours, and says how long that will take;
2. stretches far above the rest are found, left out where they are few, and refused where not: an
   anomalous stretch is never swallowed;
3. it refuses a block whose level moves: a machine that is warming up, or wearing, is not learnt;
4. centre and scale come from every second part of the block, the threshold from the others, so
   that the threshold is not judged on the rows that it was fitted to;
5. it refuses a machine that is far from its cohort, unless a person says that it is meant to be;
6. the threshold is the level that is passed as often as the budget of alarm events a week allows,
   under the very rule by which the device raises alarms (`tail`); a machine with few independent
   windows is helped by its cohort.

Centre and scale are median and 1.4826 MAD (Rousseeuw and Croux 1993, as in
`fieldloop_scoring.calibrating`). All is a function of its arguments: whoever has the rows can
compute it again. Nothing here arms an alarm: a person does, who says that the machine is healthy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fieldloop_contract.manifest import AlarmRule
from fieldloop_machines.tail import (
    HIGH_SHARE,
    PEAKS_MIN,
    SECONDS_PER_WEEK,
    Peaks,
    pace_s,
    peaks_of,
    pooled,
    return_level,
    rule_levels,
)
from fieldloop_scoring.calibrating import MAD_TO_DEVIATION
from fieldloop_scoring.driftlimit import decorrelation_windows

PARTS = 12
"""Parts of the block; the even ones fit, the odd ones judge."""
WINDOWS_MIN = 120
STRETCH_LEVEL = 4.0
"""Level of a moving median, in robust standard deviations, from which a stretch is anomalous."""
STRETCH_WINDOWS_MIN = 5
EXCLUDED_SHARE_MAX = 0.1
DRIFT_LEVEL = 1.0
"""Shift of the level over the block, in robust standard deviations, that is too much."""
DRIFT_ERRORS = 4.0
"""Standard errors that the shift has to pass, too, to be more than chance."""
MEDIAN_ERROR = 1.2533
"""Standard error of a median over that of a mean, normal data: sqrt(pi / 2)."""
COHORT_DISTANCE = 6.0
COHORT_MIN = 4
HEADROOM = 1.02
"""The threshold stays this factor above the highest healthy level seen, whatever the tail says."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a commissioning is to reach.

    Attributes:
        running_hours: running time that is wanted.
        budget_per_week: false alarm events that a machine may have in a week of running.
        rule: how the device raises an alarm.
        hop_s: seconds from one window to the next, where the stream records all the time.
        threshold_min, threshold_max: bounds of the signed manifest.
        far_is_meant: a person says that the machine may be unlike its cohort.
    """

    running_hours: float
    budget_per_week: float
    rule: AlarmRule
    hop_s: float
    threshold_min: float
    threshold_max: float
    far_is_meant: bool = False


@dataclass(frozen=True, slots=True)
class Block:
    """Running, valid windows of one slot and model, oldest first.

    Attributes:
        t0_ns: int64[n], beginning of each window.
        scores: float64[n], finite.
    """

    t0_ns: NDArray[np.int64]
    scores: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Peer:
    """What another machine of the cohort was found to be."""

    machine: str
    centre: float
    scale: float
    peaks: Peaks


@dataclass(frozen=True, slots=True)
class Stretch:
    """Windows far above the rest: their time, how many, and their median level."""

    t0_ns: int
    t1_ns: int
    windows: int
    level: float


@dataclass(frozen=True, slots=True)
class Fitted:
    """What would be normal for the machine.

    Attributes:
        windows: that were used; `independent` is what they count as.
        excluded: stretches that were left out.
        peaks: of the machine alone; what its cohort adds is not in it.
        expected_per_week: false alarm events a week that the threshold is expected to give.
    """

    centre: float
    scale: float
    threshold: float
    windows: int
    independent: float
    excluded: tuple[Stretch, ...]
    peaks: Peaks
    expected_per_week: float


State = Literal["waiting", "refused", "ready"]


@dataclass(frozen=True, slots=True)
class Assessment:
    """How a commissioning stands, in words for a person.

    Attributes:
        code: stable, for machines: `hours`, `windows`, `contaminated`, `drifting`, `far`,
            `constant`, `bounds`, `peaks`, or `ready`.
        share: of the running hours that are there, 0 to 1.
        ready_in_s: calendar time until the hours are there at the pace so far; None: not known.
    """

    state: State
    code: str
    words: str
    share: float
    ready_in_s: float | None = None
    fitted: Fitted | None = None
    stretches: tuple[Stretch, ...] = field(default=())


def assess(block: Block, plan: Plan, peers: Sequence[Peer] = ()) -> Assessment:
    """Judge a commissioning block.

    Args:
        peers: machines of the same cohort under the same model, that are in service.
    """
    n = len(block.scores)
    plan = replace(plan, hop_s=pace_s(block.t0_ns, plan.hop_s))
    waiting = _waiting(block, plan)
    if waiting is not None:
        return waiting
    scale = _robust(block.scores)[1]
    if scale == 0:
        return _refused("constant", "the score never changes: the model sees nothing here")
    tau = _decorrelation(block.scores, scale)
    kept, stretches = _without_stretches(block, tau)
    left_out = 1 - kept.sum() / n
    if left_out > EXCLUDED_SHARE_MAX:
        words = (
            f"{left_out:.0%} of the windows lie in {len(stretches)} anomalous stretch(es), at most "
            f"{EXCLUDED_SHARE_MAX:.0%} may be left out: repair the machine, or begin again later"
        )
        return _refused("contaminated", words, stretches)
    z_of_parts, times = _parts(block, kept)
    shift, within, error = _shift(z_of_parts, tau)
    if abs(shift) > max(DRIFT_LEVEL * within, DRIFT_ERRORS * error):
        words = (
            f"the level moved by {shift / within:+.1f} standard deviations over the block: "
            "the machine was not in a steady state; let it run in, and begin again"
        )
        return _refused("drifting", words, stretches)
    return _fit(z_of_parts, times, plan, peers, stretches, tau)


def _waiting(block: Block, plan: Plan) -> Assessment | None:
    n = len(block.scores)
    running_s, wanted_s = n * plan.hop_s, plan.running_hours * 3_600
    share = min(1.0, running_s / wanted_s)
    if running_s < wanted_s or n < WINDOWS_MIN:
        ready_in_s = None
        if n >= 2:
            calendar_s = (int(block.t0_ns[-1]) - int(block.t0_ns[0])) / 1e9 + plan.hop_s
            missing_s = max(wanted_s - running_s, (WINDOWS_MIN - n) * plan.hop_s)
            ready_in_s = missing_s * calendar_s / running_s
        words = f"{running_s / 3_600:.1f} of {plan.running_hours:.1f} running hours"
        if running_s >= wanted_s:
            words = f"{n} of {WINDOWS_MIN} running windows"
            share = n / WINDOWS_MIN
        return Assessment("waiting", "hours", words, share, ready_in_s)
    return None


def _refused(code: str, words: str, stretches: tuple[Stretch, ...] = ()) -> Assessment:
    return Assessment("refused", code, words, 1.0, None, None, stretches)


def _robust(scores: NDArray[np.float64]) -> tuple[float, float]:
    centre = float(np.median(scores))
    return centre, MAD_TO_DEVIATION * float(np.median(np.abs(scores - centre)))


def _decorrelation(scores: NDArray[np.float64], scale: float) -> int:
    """Windows between two independent ones.

    Against the median of each part, so that a slow drift does not pass for correlation; outliers
    are clipped, they would hide it.
    """
    parts = [part - np.median(part) for part in np.array_split(scores, PARTS)]
    clipped = np.clip(np.concatenate(parts) / scale, -STRETCH_LEVEL, STRETCH_LEVEL)
    return decorrelation_windows(clipped[:, None])


def _without_stretches(block: Block, tau: int) -> tuple[NDArray[np.bool_], tuple[Stretch, ...]]:
    """Which windows are kept, and the anomalous stretches among the rest."""
    n, scores = len(block.scores), block.scores
    width = min(max(STRETCH_WINDOWS_MIN, 2 * tau + 1) | 1, n // 4 | 1)
    padded = np.pad(scores, width // 2, mode="edge")
    level = np.median(np.lib.stride_tricks.sliding_window_view(padded, width), axis=1)
    bad = np.zeros(n, np.bool_)
    for _ in range(3):  # what is left out moves centre and scale, which shows more
        centre, scale = _robust(scores[~bad]) if not bad.all() else (0.0, 0.0)
        found = level > centre + STRETCH_LEVEL * scale
        if scale == 0 or (found == bad).all():
            break
        bad = found
    edges = np.flatnonzero(np.diff(np.concatenate([[False], bad, [False]]).astype(np.int8)))
    stretches = []
    wide = bad.copy()
    for first, end in zip(edges[::2], edges[1::2], strict=True):
        wide[max(0, first - width) : end + width] = True  # its flanks belong to it
        stretches.append(
            Stretch(
                int(block.t0_ns[first]),
                int(block.t0_ns[end - 1]),
                int(end - first),
                float((np.median(scores[first:end]) - centre) / scale),
            )
        )
    return ~wide, tuple(stretches)


def _parts(
    block: Block, kept: NDArray[np.bool_]
) -> tuple[list[NDArray[np.float64]], list[NDArray[np.int64]]]:
    """Scores and times of the kept windows in `PARTS` parts, oldest first."""
    return (
        np.array_split(block.scores[kept], PARTS),
        np.array_split(block.t0_ns[kept], PARTS),
    )


def _shift(parts: list[NDArray[np.float64]], tau: int) -> tuple[float, float, float]:
    """Level of the last third of the parts minus that of the first.

    Returns:
        The shift of the median, the robust standard deviation within a part, and the shift's
        standard error.
    """
    third = PARTS // 3
    first, last = np.concatenate(parts[:third]), np.concatenate(parts[-third:])
    within = _robust(np.concatenate([part - np.median(part) for part in parts]))[1]
    error = MEDIAN_ERROR * within * math.sqrt(tau / len(first) + tau / len(last))
    return float(np.median(last) - np.median(first)), within, error


def _fit(
    parts: list[NDArray[np.float64]],
    times: list[NDArray[np.int64]],
    plan: Plan,
    peers: Sequence[Peer],
    stretches: tuple[Stretch, ...],
    tau: int,
) -> Assessment:
    centre, scale = _robust(np.concatenate(parts[0::2]))
    distance = _distance(centre, peers)
    if distance is not None and distance > COHORT_DISTANCE and not plan.far_is_meant:
        peer = float(np.median([p.centre for p in peers]))
        words = (
            f"its usual score is {centre:.3g}, that of {len(peers)} machines of its cohort "
            f"{peer:.3g}: {distance:.0f} times their spread; look at mounting and machine, or say "
            "that it is meant to differ"
        )
        return _refused("far", words, stretches)
    runs = [
        rule_levels((run - centre) / scale, plan.rule)
        for part, at in zip(parts[1::2], times[1::2], strict=True)
        for run in _unbroken(part, at, plan.hop_s)
    ]
    levels = np.concatenate(runs) if runs else np.empty(0)
    if not len(levels):
        return _refused("windows", "no unbroken run is as long as the alarm rule looks back")
    weeks = len(levels) * plan.hop_s / SECONDS_PER_WEEK
    high = float(np.quantile(levels, HIGH_SHARE))
    apart = max(tau, plan.rule.raise_of)
    own = peaks_of(runs, high=high, apart=apart, week_share=weeks)
    cohort = _cohort_peaks(peers)
    both = pooled(own, cohort)
    level = return_level(both, plan.budget_per_week)
    if level is None:
        words = (
            f"{both.count:.0f} separate peaks, {PEAKS_MIN} are needed to tell a threshold: "
            "commission for more hours"
        )
        return _refused("peaks", words, stretches)
    seen = max(
        float(rule_levels((part - centre) / scale, plan.rule).max(initial=-math.inf))
        for part in parts
    )
    level = max(level, HEADROOM * seen)
    return _ready(centre, scale, level, both, own, plan, parts, stretches, tau)


def _ready(
    centre: float,
    scale: float,
    level: float,
    both: Peaks,
    own: Peaks,
    plan: Plan,
    parts: list[NDArray[np.float64]],
    stretches: tuple[Stretch, ...],
    tau: int,
) -> Assessment:
    wanted = centre + scale * level
    if wanted > plan.threshold_max:
        words = (
            f"a threshold of {wanted:.3g} would keep to {plan.budget_per_week:g} false alarms a "
            f"week; the model's signed bound is {plan.threshold_max:.3g}: allow more, or train a "
            "model that knows this machine"
        )
        return _refused("bounds", words, stretches)
    threshold = max(wanted, plan.threshold_min)
    reached = (threshold - centre) / scale
    expected = min(
        both.per_week, both.per_week * math.exp(-(reached - both.high) / max(both.excess, 1e-12))
    )
    windows = sum(len(p) for p in parts)
    fitted = Fitted(centre, scale, threshold, windows, windows / tau, stretches, own, expected)
    words = (
        f"ready: threshold {threshold:.3g} at {reached:.1f} standard deviations, about "
        f"{expected:.2g} false alarms a week; {windows} windows count as {windows / tau:.0f}"
    )
    if stretches:
        words += f"; {len(stretches)} anomalous stretch(es) left out"
    return Assessment("ready", "ready", words, 1.0, None, fitted, stretches)


def _unbroken(
    scores: NDArray[np.float64], t0_ns: NDArray[np.int64], hop_s: float
) -> list[NDArray[np.float64]]:
    """Runs without a pause: what lay between two of them was idle, left out, or another part."""
    breaks = np.flatnonzero(np.diff(t0_ns) > 1.5 * hop_s * 1e9) + 1
    return [run for run in np.split(scores, breaks) if len(run)]


def _distance(centre: float, peers: Sequence[Peer]) -> float | None:
    """Distance from the cohort's median centre, in its robust spread; None for a small cohort.

    The spread is not taken to be under the usual scale of one machine: like machines differ by
    some of it, and a cohort of equals would make every next one look far.
    """
    if len(peers) < COHORT_MIN:
        return None
    middle, spread = _robust(np.array([p.centre for p in peers]))
    return abs(centre - middle) / max(spread, float(np.median([p.scale for p in peers])))


def _cohort_peaks(peers: Sequence[Peer]) -> Peaks | None:
    """What the peaks of the other machines are like, each counting by its number of them."""
    count = sum(p.peaks.count for p in peers)
    if count <= 0:
        return None
    excess = sum(p.peaks.count * p.peaks.excess for p in peers) / count
    rate = sum(p.peaks.count * p.peaks.per_week for p in peers) / count
    high = sum(p.peaks.count * p.peaks.high for p in peers) / count
    return Peaks(count, high, excess, rate)
