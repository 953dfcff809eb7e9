"""The gates: what may not get worse, judged on what touched devices and their controls have shown.

Failures and invalid windows are counted against a stated share. The others are judged by sequential
evidence (`sequential`), each machine against itself, less what changed for its concurrent controls,
cohort by cohort; below their minimum of samples they are not judged. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from fieldloop_delivery.evidence import Evidence, Tally
from fieldloop_delivery.gatelimits import JUDGED, Gates
from fieldloop_delivery.sequential import Estimate, combined, evidence, less_drift, pooled

NAMED_MAX: Final = 5
BETWEEN_SD: Final = {"latency": 0.1, "disagreement": 0.02, "tails": 0.01, "accuracy": 0.02,
                     "alarms": 0.1}  # fmt: skip
"""How much devices differ in their change, at least: log ratio, share, share, share, log ratio."""
DRIFT_SD: Final = {"latency": 0.1, "accuracy": 0.03, "alarms": 0.15}
"""How much may change for everybody meanwhile, where no controls tell."""
SCALE: Final = {"latency": 0.5, "disagreement": 0.1, "tails": 0.05, "accuracy": 0.1,
                "alarms": 0.5}  # fmt: skip
"""Size of harm that is looked for, beyond what is put up with."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one gate says.

    Attributes:
        gate: its name.
        failed: it halts the rollout.
        judged: there were enough samples.
        text: in words, with figures and, where it failed, devices.
        evidence: e-value against "no worse than allowed"; `limit` is where it fails.
        effect: estimated harm, in the gate's unit, and its standard error.
        devices: those that contribute most to a failure, at most five.
    """

    gate: str
    failed: bool
    judged: bool
    text: str
    evidence: float = 0.0
    limit: float = 0.0
    effect: float = 0.0
    error: float = 0.0
    devices: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """For the store and the console."""
        return {
            "gate": self.gate,
            "failed": self.failed,
            "judged": self.judged,
            "text": self.text,
            "evidence": round(self.evidence, 3),
            "limit": round(self.limit, 3),
            "effect": round(self.effect, 6),
            "error": round(self.error, 6) if math.isfinite(self.error) else None,
            "devices": list(self.devices),
        }


def judge(
    treated: Mapping[str, str],
    controls: Mapping[str, str],
    gates: Gates,
    devices: Mapping[str, Evidence],
    size: int,
) -> list[Finding]:
    """All gates' findings, those that fail by count first.

    Args:
        treated, controls: device to cohort.
        devices: evidence; who is not in it has shown nothing.
        size: of the wave, against which failures are counted.
    """
    mine = [(d, c, e) for d, c in treated.items() if (e := devices.get(d)) is not None]
    others = [(d, c, e) for d, c in controls.items() if (e := devices.get(d)) is not None]
    return [
        _failed(mine, gates, size),
        _invalid(mine, gates),
        _latency(mine, others, gates),
        _disagreement(mine, gates),
        _tails(mine, gates),
        _alarms(mine, others, gates),
        _accuracy(mine, others, gates),
    ]


_Rows = list[tuple[str, str, Evidence]]


def _failed(rows: _Rows, gates: Gates, size: int) -> Finding:
    """More devices refused it or took it back than the wave may have in all."""
    found = {d: e.failed for d, _, e in rows if e.failed}
    allowed = int(gates.failed_share_max * size)
    named = "; ".join(f"{d}: {found[d]}" for d in sorted(found)[:NAMED_MAX])
    text = f"{len(found)} of {len(rows)} devices refused it or took it back, {allowed} may"
    return Finding(
        "installed",
        len(found) > allowed,
        bool(rows),
        f"{text} ({named})" if found else text,
        devices=tuple(sorted(found)[:NAMED_MAX]),
    )


def _invalid(rows: _Rows, gates: Gates) -> Finding:
    windows = sum(e.new.windows for _, _, e in rows)
    invalid = sum(e.new.invalid for _, _, e in rows)
    judged = windows >= max(1, gates.windows_min)
    worst = _most(rows, lambda e: e.new.invalid)
    return Finding(
        "invalid",
        judged and invalid > gates.invalid_share_max * windows,
        judged,
        f"{invalid} of {windows} windows were invalid" + _named(worst if invalid else ()),
        devices=worst if invalid else (),
    )


def _conclude(
    gate: str, estimate: Estimate, margin: float, gates: Gates, text: str, worst: tuple[str, ...]
) -> Finding:
    limit = len(JUDGED) / gates.error_max
    value = evidence(estimate.mean, estimate.variance, margin, SCALE[gate])
    failed = value >= limit
    said = f"{text}; evidence {value:.3g} to 1, limit {limit:.0f}"
    return Finding(
        gate,
        failed,
        True,
        said + (_named(worst) if failed else ""),
        value,
        limit,
        estimate.mean,
        math.sqrt(estimate.variance),
        worst if failed else (),
    )


def _unjudged(gate: str, text: str) -> Finding:
    return Finding(gate, False, False, f"not judged: {text}")


def _change(
    gate: str,
    treated: Iterable[tuple[str, float, float]],
    controls: Iterable[tuple[str, float, float]],
) -> tuple[Estimate, Estimate]:
    """Change of the treated less that of the controls, over cohorts; and that of the controls.

    Rows are (cohort, change, variance).
    """
    by_cohort: dict[str, tuple[list[tuple[float, float]], list[tuple[float, float]]]] = {}
    for arm, rows in enumerate((treated, controls)):
        for cohort, change, variance in rows:
            by_cohort.setdefault(cohort, ([], []))[arm].append((change, variance))
    sd = BETWEEN_SD[gate]
    arms = {c: (pooled(t, sd), pooled(k, sd)) for c, (t, k) in by_cohort.items()}
    differences = combined(t for t, _ in arms.values())
    drift = combined(k for t, k in arms.values() if t.units)
    if drift.units and len(arms) > 1:
        net = combined(less_drift(t, k, DRIFT_SD[gate]) for t, k in arms.values())
        return net, drift
    return less_drift(differences, drift, DRIFT_SD[gate]), drift


def _latency(rows: _Rows, others: _Rows, gates: Gates) -> Finding:
    least = max(1, gates.windows_min)

    def changes(some: _Rows) -> list[tuple[str, float, float]]:
        return [
            (c, math.log(e.new.latency_us / e.old.latency_us), 1e-4)
            for _, c, e in some
            if min(e.new.windows, e.old.windows) >= least
            and e.new.latency_us > 0 and e.old.latency_us > 0
        ]  # fmt: skip

    paired = [(d, c, e) for d, c, e in rows if min(e.new.windows, e.old.windows) >= least]
    mine = changes(paired)
    if not mine:
        return _unjudged("latency", f"no device has {least} windows of both versions")
    new = sum(e.new.latency_us for _, _, e in paired) / len(paired)
    old = sum(e.old.latency_us for _, _, e in paired) / len(paired)
    text = f"mean latency {new:.0f} us, before {old:.0f} us, on {len(paired)} devices"
    if new <= gates.latency_floor_us:
        return Finding("latency", False, True, f"{text}; never too slow below"
                       f" {gates.latency_floor_us:.0f} us")  # fmt: skip
    estimate, _ = _change("latency", mine, changes(others))
    worst = _most(paired, lambda e: e.new.latency_us)
    return _conclude("latency", estimate, math.log(gates.latency_ratio_max), gates, text, worst)


def _disagreement(rows: _Rows, gates: Gates) -> Finding:
    """In shadow, against what was measured on the recent set: a better model must disagree."""
    some = [(d, c, e) for d, c, e in rows if e.beside.windows]
    windows = sum(e.beside.windows for _, _, e in some)
    agreed = sum(e.beside.agreed for _, _, e in some)
    if windows < gates.shadow_min:
        return _unjudged("disagreement", f"{windows} of {gates.shadow_min} windows beside")
    share = 1 - agreed / windows
    text = f"disagreement in shadow {share:.3f} over {windows} windows of {len(some)} devices"
    worst = _most(some, lambda e: e.beside.windows - e.beside.agreed)
    if gates.agreement_min is not None and 1 - share < gates.agreement_min:
        text = f"agreement in shadow {1 - share:.3f} over {windows} windows"
        return Finding("disagreement", True, True, text + _named(worst), devices=worst)
    expected = next((e.expected_disagreement for _, _, e in some if e.expected_disagreement), None)
    if expected is None:
        return Finding("disagreement", False, True, f"{text}; none was stated for the recent set")
    stated, of = expected
    units = [
        (1 - e.beside.agreed / e.beside.windows, _binomial(share, e.beside.windows, gates))
        for _, _, e in some
    ]
    mine = pooled(units, BETWEEN_SD["disagreement"])
    doubt = _binomial(stated, of, gates)
    net = Estimate(mine.mean - stated, mine.variance + doubt, mine.units)
    text += f", {stated:.3f} on the recent set"
    return _conclude("disagreement", net, gates.disagreement_excess_max, gates, text, worst)


def _tails(rows: _Rows, gates: Gates) -> Finding:
    """Windows above the threshold: same windows, both versions."""
    some = [(d, c, e) for d, c, e in rows if e.beside.tailed]
    windows = sum(e.beside.tailed for _, _, e in some)
    if windows < gates.shadow_min:
        return _unjudged("tails", f"{windows} of {gates.shadow_min} scored windows beside")
    new = sum(e.beside.only_new for _, _, e in some)
    old = sum(e.beside.only_old for _, _, e in some)
    moved = (new + old) / windows
    units = [
        ((e.beside.only_new - e.beside.only_old) / e.beside.tailed,
         max(moved, 0.01) / max(1.0, e.beside.tailed * gates.independent_share))
        for _, _, e in some
    ]  # fmt: skip
    text = f"of {windows} windows {new} were above the threshold of the new version only, {old} of"
    worst = _most(some, lambda e: e.beside.only_new)
    return _conclude("tails", pooled(units, BETWEEN_SD["tails"]), gates.tail_excess_max, gates,
                     f"{text} the old one only", worst)  # fmt: skip


def _alarms(rows: _Rows, others: _Rows, gates: Gates) -> Finding:
    """Alarms for each running window, each machine against itself (Mantel and Haenszel 1959)."""
    some = [(d, c, e) for d, c, e in rows if e.new.windows and e.old.windows]
    new, old = sum(e.new.alarms for _, _, e in some), sum(e.old.alarms for _, _, e in some)
    if new + old < gates.alarms_min:
        return _unjudged("alarms", f"{new + old} of {gates.alarms_min} alarms")
    mine = _log_ratio(some)
    control = _log_ratio([r for r in others if r[2].new.windows and r[2].old.windows])
    text = (
        f"{new} alarms in {sum(e.new.windows for _, _, e in some)} running windows, before {old}"
        f" in {sum(e.old.windows for _, _, e in some)}"
    )
    net = less_drift(mine, control, DRIFT_SD["alarms"])
    worst = _most(some, lambda e: e.new.alarms)
    return _conclude("alarms", net, math.log(gates.alarm_ratio_max), gates, text, worst)


def _log_ratio(rows: _Rows) -> Estimate:
    """Log ratio of alarm rates, stratified by machine, with the spread that machines show.

    The Mantel-Haenszel rate ratio for person-time (Rothman and Greenland, Modern Epidemiology, ch.
    15) with the variance of Greenland and Robins (1985, Biometrics 41(1)), times the dispersion
    by which counts of one machine differ more than Poisson's law lets them.
    """
    above = below = spread = squares = 0.0
    for _, _, e in rows:
        n, o = e.new, e.old
        total = n.windows + o.windows
        above += n.alarms * o.windows / total
        below += o.alarms * n.windows / total
        spread += (n.alarms + o.alarms) * n.windows * o.windows / (total * total)
    if above <= 0 or below <= 0:
        # None on one side: half an alarm is added to both (Haldane's correction).
        above, below, spread = above + 0.5, below + 0.5, spread + 0.5
    ratio = above / below
    counted = 0
    for _, _, e in rows:
        many = e.new.alarms + e.old.alarms
        share = ratio * e.new.windows / (ratio * e.new.windows + e.old.windows)
        if many and 0 < share < 1:
            squares += (e.new.alarms - many * share) ** 2 / (many * share * (1 - share))
            counted += 1
    dispersion = max(1.0, squares / (counted - 1)) if counted > 1 else 1.0
    floor = BETWEEN_SD["alarms"] ** 2 / max(1, counted)
    return Estimate(math.log(ratio), dispersion * spread / (above * below) + floor, len(rows))


def _accuracy(rows: _Rows, others: _Rows, gates: Gates) -> Finding:
    def changes(some: _Rows) -> list[tuple[str, float, float]]:
        return [
            (c, e.old.correct / e.old.labelled - e.new.correct / e.new.labelled,
             _proportions(e.new, e.old, gates))
            for _, c, e in some if e.new.labelled and e.old.labelled
        ]  # fmt: skip

    paired = [(d, c, e) for d, c, e in rows if e.new.labelled and e.old.labelled]
    n, n_old = _labelled(paired)
    if min(n, n_old) < gates.labels_min:
        return _unjudged(
            "accuracy", f"{n} labelled windows, {n_old} before, of {gates.labels_min} each"
        )
    estimate, drift = _change("accuracy", changes(paired), changes(others))
    new = sum(e.new.correct for _, _, e in paired) / n
    old = sum(e.old.correct for _, _, e in paired) / n_old
    text = f"accuracy {new:.3f} over {n} windows, before {old:.3f} over {n_old}"
    if drift.units:
        text += f"; {drift.units} controls changed by {-drift.mean:+.3f}"
    worst = _most(paired, lambda e: e.new.labelled - e.new.correct)
    return _conclude("accuracy", estimate, gates.accuracy_drop_max, gates, text, worst)


def _labelled(rows: _Rows) -> tuple[int, int]:
    return sum(e.new.labelled for _, _, e in rows), sum(e.old.labelled for _, _, e in rows)


def _proportions(new: Tally, old: Tally, gates: Gates) -> float:
    """Variance of the difference of two shares of dependent windows, smoothed (Agresti-Caffo)."""
    share = gates.independent_share
    a, b = max(1.0, new.labelled * share), max(1.0, old.labelled * share)
    p = (new.correct * share + 1) / (new.labelled * share + 2)
    q = (old.correct * share + 1) / (old.labelled * share + 2)
    return p * (1 - p) / a + q * (1 - q) / b


def _binomial(share: float, windows: int, gates: Gates) -> float:
    n = max(1.0, windows * gates.independent_share)
    p = (share * n + 1) / (n + 2)
    return p * (1 - p) / n


def _most(rows: _Rows, key: Any) -> tuple[str, ...]:
    """Devices that count most, at most `NAMED_MAX`."""
    ranked = sorted(((key(e), d) for d, _, e in rows), reverse=True)
    return tuple(d for value, d in ranked[:NAMED_MAX] if value > 0)


def _named(devices: tuple[str, ...]) -> str:
    return f" (most on {', '.join(devices)})" if devices else ""
