"""Gates: may this model be rolled out? One pure function with its verdict in words.

Every comparison is paired on the same trials and goes by unit (`statistics`). A gate says `passed`,
`failed` or `insufficient evidence`. A model is

- `rejected` where a gate failed;
- `insufficient evidence` where none failed, but it has not shown that it learned, or there is a
  champion and no set shows that it is not worse;
- `approved` otherwise. Only then is it published.

"Not worse" means that the interval of the difference lies above `-MARGIN` or that the difference
is not negative; a model that is worse beyond its interval fails. A chain of models, each a little
worse within its interval, is stopped by what does not move: the frozen set, recall on known faults,
which may not fall at all, and the budget of false alarms, which is absolute. Depends on nothing but
its arguments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from fieldloop_training.statistics import Paired, Trials, holm, paired, worse_p

UNITS_MIN = 5
"""Fewer units than this support no comparison."""
SLICE_UNITS_MIN = 8
"""A slice with fewer units does not gate: no sign flip of 7 units reaches a corrected level."""
MARGIN = 0.05
"""How much worse than the champion the lower end of the interval may be."""
INT8_MARGIN = 0.02
"""How much of its figure a model may lose in the conversion."""
AGREEMENT_MIN = 0.95
"""Share of trials on which the converted file and the float model have to decide alike."""
ERROR_MARGIN = 0.05
"""By what share of the other's error a forecast may be worse, after conversion or than before."""
LOOKS_MAX = 50
"""A frozen set that was looked at more often than this decides nothing any more."""

Outcome = Literal["passed", "failed", "insufficient evidence"]
Conclusion = Literal["approved", "rejected", "insufficient evidence"]
HELD, FROZEN, RECENT = "held-out", "frozen", "recent"
HEALTHY, FAULTS, KNOWN = "healthy", "faults", "known faults"
PERSISTENCE = "persistence"
"""The forecast that nothing changes, which one that is worth anything beats."""


@dataclass(frozen=True, slots=True)
class Bound:
    """A figure that may not pass a limit."""

    name: str
    value: float
    most: float
    unit: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was measured.

    Candidates in the trials: `int8` (the converted file in the edge runtime, whatever its types),
    `float`, `baseline`, `champion` where there is one to compare, and for a classification
    `majority` (the commonest training label).

    Attributes:
        task: `classification`, `anomaly` or `regression`; the last is judged by `errors` alone.
        sets: a classification has `held-out`, and where there is a champion the parts `frozen` and
            `recent` of it; an anomaly model `healthy` (no alarm is right), `faults` (an alarm is
            right) and, where there are any, `known faults`, which is frozen.
        slices: parts of the sets by name; of an anomaly model by machine.
        agreement: share of trials on which converted file and float model decide alike.
        champion_note: why the champion could not be compared, or "".
        replaced_by_hand: whether a person said that an incomparable champion may be replaced.
        bounds: size, latency, memory, false alarms.
        looks: how often the frozen set was looked at before.
        unit: what the units are, in the plural.
        errors: of a forecast, on healthy held-out windows by recording: each candidate's error in a
            window, and that of `PERSISTENCE`; less is better.
    """

    task: str
    sets: Mapping[str, Trials]
    agreement: float
    bounds: Sequence[Bound]
    slices: Mapping[str, Trials] = field(default_factory=dict)
    champion_note: str = ""
    replaced_by_hand: bool = False
    looks: int = 0
    unit: str = "recordings"
    errors: Trials | None = None

    @property
    def champion(self) -> bool:
        """Whether there is a champion that was scored on the same trials."""
        sets = [*self.sets.values(), *([self.errors] if self.errors else [])]
        return any("champion" in trials.values for trials in sets)


@dataclass(frozen=True, slots=True)
class Gate:
    """One gate, its outcome, and why in words."""

    name: str
    outcome: Outcome
    words: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """All gates and what follows from them."""

    conclusion: Conclusion
    gates: list[Gate]

    @property
    def approved(self) -> bool:
        """Whether the model may be rolled out."""
        return self.conclusion == "approved"

    @property
    def words(self) -> str:
        """The verdict in one sentence."""
        failed = [g for g in self.gates if g.outcome == "failed"]
        open_ = [g for g in self.gates if g.outcome == "insufficient evidence"]
        if self.conclusion == "rejected":
            return f"rejected: {'; '.join(g.words for g in failed)}"
        if self.conclusion == "insufficient evidence":
            return f"insufficient evidence: {'; '.join(g.words for g in open_)}"
        passed = f"approved: {len(self.gates) - len(open_)} of {len(self.gates)} gates passed"
        return passed + (
            f", insufficient evidence on {', '.join(g.name for g in open_)}" if open_ else ""
        )

    def to_object(self) -> dict[str, Any]:
        """As JSON, for the run's row."""
        return {
            "approved": self.approved,
            "conclusion": self.conclusion,
            "words": self.words,
            "gates": [{"name": g.name, "outcome": g.outcome, "words": g.words} for g in self.gates],
        }


def judge(evidence: Evidence) -> Verdict:
    """Apply all gates."""
    e = evidence
    if e.task == "regression":
        learned, against = _forecasts(e), _forecast_champion(e) or [_no_champion(e)]
        gates = [learned, _forecast_conversion(e), *against]
    elif e.task == "anomaly":
        learned, against = _detects(e), _anomaly_champion(e)
        if e.errors is not None:
            against += _forecast_champion(e)
        gates = [learned, _conversion(e, (HEALTHY, FAULTS)), _anomaly_baseline(e), *against]
        if e.errors is not None:
            gates += [_forecasts(e), _forecast_conversion(e)]
    else:
        learned, against = _learned(e), _champion(e)
        gates = [learned, _conversion(e, (HELD,)), _baseline(e), *against]
    gates += _slices(e)
    gates += [_bound(b) for b in e.bounds]
    if any(g.outcome == "failed" for g in gates):
        return Verdict("rejected", gates)
    # Of an anomaly model one side alone shows nothing: few alarms are easy without detection.
    enough = any if e.task == "classification" else all
    shown = learned.outcome == "passed" and enough(g.outcome == "passed" for g in against)
    return Verdict("approved" if shown else "insufficient evidence", gates)


def _compare(e: Evidence, name: str, b: str) -> Paired | None:
    """The converted file against another candidate on a set; None where they are not there."""
    trials = e.sets.get(name)
    if trials is None or b not in trials.values or not len(trials.units):
        return None
    return paired(trials, "int8", b, e.unit)


def _learned(e: Evidence) -> Gate:
    """Better than always naming the commonest label; without this nothing is approved."""
    difference = _compare(e, HELD, "majority")
    if difference is None:
        return Gate("learned", "failed", "nothing was held out to measure on")
    words = f"against always naming the commonest label {difference}"
    if difference.low <= 0:
        return Gate("learned", "failed", words)
    few = difference.units < 2
    return Gate("learned", "insufficient evidence" if few else "passed", words)


def _conversion(e: Evidence, names: Sequence[str]) -> Gate:
    """The converted file against the float model: figure within the margin, decisions alike."""
    parts, good = [], e.agreement >= AGREEMENT_MIN
    for name in names:
        trials = e.sets.get(name)
        if trials is None or not len(trials.units):
            continue
        after = float(trials.values["int8"].mean())
        before = float(trials.values["float"].mean())
        good = good and before - after <= INT8_MARGIN
        parts.append(f"converted {after:.3f}, float {before:.3f} on {name} (margin {INT8_MARGIN})")
    parts.append(f"alike on {e.agreement:.1%} (at least {AGREEMENT_MIN:.0%})")
    return Gate("int8", "passed" if good else "failed", ", ".join(parts))


def _baseline(e: Evidence) -> Gate:
    """Against logistic regression on window statistics: a model that loses to it is no use."""
    difference = _compare(e, HELD, "baseline")
    words = f"against the baseline {difference}"
    if difference is None or difference.units < UNITS_MIN:
        return Gate("baseline", "insufficient evidence", words)
    if difference.high < 0:
        return Gate("baseline", "failed", f"loses to the baseline: {difference}")
    return Gate("baseline", "passed" if difference.low > 0 else "insufficient evidence", words)


def _champion(e: Evidence) -> list[Gate]:
    """Against the version that is approved now, on the frozen and on the recent set."""
    if not e.champion:
        return [_no_champion(e)]
    gates = []
    for name in (FROZEN, RECENT):
        gate = _not_worse(e, name)
        if gate is not None:
            gates.append(gate)
    return gates or [Gate("champion", "insufficient evidence", "nothing to compare on")]


def _no_champion(e: Evidence) -> Gate:
    if not e.champion_note:
        return Gate("champion", "passed", "there is no champion yet")
    if e.replaced_by_hand:
        return Gate("champion", "passed", f"{e.champion_note}; replaced by a person's word")
    return Gate("champion", "insufficient evidence", e.champion_note)


def _not_worse(e: Evidence, name: str) -> Gate | None:  # noqa: PLR0911 - a table of cases
    difference = _compare(e, name, "champion")
    if difference is None:
        return None
    gate = f"champion, {name}"
    if name == FROZEN and e.looks >= LOOKS_MAX:
        words = f"the frozen set was looked at {e.looks} times and decides nothing any more"
        return Gate(gate, "insufficient evidence", words)
    if difference.units < UNITS_MIN:
        words = f"too few {e.unit} on the {name} set: {difference}"
        return Gate(gate, "insufficient evidence", words)
    looked = f", look {e.looks + 1}" if name == FROZEN else ""
    on = f"on the {name} set{looked}: {difference}"
    if difference.high < 0:
        return Gate(gate, "failed", f"worse than the champion {on}")
    if difference.low > 0:
        return Gate(gate, "passed", f"better than the champion {on}")
    if difference.difference >= 0 or difference.low >= -MARGIN:
        return Gate(gate, "passed", f"not worse than the champion {on}")
    return Gate(gate, "insufficient evidence", f"perhaps worse than the champion {on}")


def _slices(e: Evidence) -> list[Gate]:
    """No slice may be worse than the champion; corrected for the number of those that gate."""
    gating = {
        name: trials
        for name, trials in sorted(e.slices.items())
        if "champion" in trials.values and trials.units_count >= SLICE_UNITS_MIN
    }
    if not e.slices or not e.champion:
        return []
    if not gating:
        words = f"none of {len(e.slices)} slices has {SLICE_UNITS_MIN} {e.unit}"
        return [Gate("slices", "insufficient evidence", words)]
    p_values = [worse_p(trials, "int8", "champion") for trials in gating.values()]
    worse = [name for name, bad in zip(gating, holm(p_values), strict=True) if bad]
    if worse:
        told = "; ".join(
            f"{name} {paired(gating[name], 'int8', 'champion', e.unit)}" for name in worse
        )
        return [Gate("slices", "failed", f"worse than the champion for {told}")]
    words = f"none of {len(gating)} slices worse than the champion, of {len(e.slices)} in all"
    return [Gate("slices", "passed", words)]


def _detects(e: Evidence) -> Gate:
    """It raises alarms on faults, more often than on healthy windows."""
    faults, healthy = e.sets.get(FAULTS), e.sets.get(HEALTHY)
    if healthy is None or not len(healthy.units):
        return Gate("learned", "failed", "no healthy windows were held out to measure on")
    if faults is None or not len(faults.units):
        words = "there is no fault, confirmed or superposed, to detect"
        return Gate("learned", "insufficient evidence", words)
    alarms = 1 - healthy.share("int8")
    # The false-alarm rate is a constant here: what varies from fault to fault is the detection.
    chance = Trials(faults.units, {**faults.values, "chance": faults.values["int8"] * 0 + alarms})
    difference = paired(chance, "int8", "chance", e.unit)
    words = (
        f"detects {faults.share('int8'):.1%} of faults with alarms in {alarms:.2%} of healthy "
        f"windows: {difference}"
    )
    return Gate("learned", "passed" if difference.low > 0 else "failed", words)


def _anomaly_baseline(e: Evidence) -> Gate:
    """Against Hotelling's T squared: it may not lose on one side without gaining on the other."""
    healthy, faults = _compare(e, HEALTHY, "baseline"), _compare(e, FAULTS, "baseline")
    if healthy is None or faults is None or min(healthy.units, faults.units) < UNITS_MIN:
        return Gate("baseline", "insufficient evidence", "too little to compare with the baseline")
    words = f"against the baseline: healthy {healthy}; faults {faults}"
    loses = (faults.high < 0 and healthy.low <= 0) or (healthy.high < 0 and faults.low <= 0)
    if loses:
        return Gate("baseline", "failed", f"loses to the baseline: {words}")
    wins = healthy.low > 0 or faults.low > 0
    return Gate("baseline", "passed" if wins else "insufficient evidence", words)


def _anomaly_champion(e: Evidence) -> list[Gate]:
    """Neither more false alarms nor less detection than the champion; known faults stay known."""
    if not e.champion:
        return [_no_champion(e)]
    gates = [g for g in (_not_worse(e, HEALTHY), _not_worse(e, FAULTS)) if g is not None]
    known = e.sets.get(KNOWN)
    if known is not None and "champion" in known.values and len(known.units):
        # By event, and with no interval: what was once found has to be found.
        after, before = (float(known.values[c].sum()) for c in ("int8", "champion"))
        words = f"finds {after:.0f} of {len(known.units)} known faults, the champion {before:.0f}"
        gates.append(Gate("known faults", "passed" if after >= before else "failed", words))
    return gates


def _forecasts(e: Evidence) -> Gate:
    """Foretells better than that nothing changes; else its residuals are the signal itself."""
    if e.errors is None or not len(e.errors.units):
        return Gate("forecast", "failed", "nothing was held out to foretell")
    gain = paired(e.errors, PERSISTENCE, "int8", "recordings")
    words = f"error less than that of persistence by {gain}"
    if gain.high < 0:
        return Gate("forecast", "failed", words)
    few = gain.units < UNITS_MIN or gain.low <= 0
    return Gate("forecast", "insufficient evidence" if few else "passed", words)


def _forecast_conversion(e: Evidence) -> Gate:
    """The converted file's error against the float model's."""
    if e.errors is None or not len(e.errors.units):
        return Gate("forecast int8", "failed", "nothing was held out to foretell")
    after, before = e.errors.share("int8"), e.errors.share("float")
    good = after <= (1 + ERROR_MARGIN) * before
    words = f"error converted {after:.4g}, float {before:.4g} (margin {ERROR_MARGIN:.0%})"
    return Gate("forecast int8", "passed" if good else "failed", words)


def _forecast_champion(e: Evidence) -> list[Gate]:
    """The champion's error less this one's, paired by recording.

    The least difference of two errors is beyond its interval, so within the margin it passes.
    """
    if e.errors is None or "champion" not in e.errors.values:
        return []
    gain, name = paired(e.errors, "champion", "int8", "recordings"), "champion, forecast"
    if gain.units < UNITS_MIN:
        return [Gate(name, "insufficient evidence", f"too few recordings: {gain}")]
    within = gain.low >= -ERROR_MARGIN * e.errors.share("champion")
    if gain.difference >= 0 or within:
        return [Gate(name, "passed", f"no larger error than the champion's: less by {gain}")]
    if gain.high < 0:
        return [Gate(name, "failed", f"a larger error than the champion's: less by {gain}")]
    words = f"perhaps a larger error than the champion's: less by {gain}"
    return [Gate(name, "insufficient evidence", words)]


def _bound(bound: Bound) -> Gate:
    outcome: Outcome = "passed" if bound.value <= bound.most else "failed"
    words = f"{_number(bound.value)} {bound.unit}, at most {_number(bound.most)}"
    return Gate(bound.name, outcome, f"{bound.name} {words}")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:.3g}"
