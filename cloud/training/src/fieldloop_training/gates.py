"""Gates: may this model be rolled out? One pure function with its verdict in words.

All comparisons are paired on the same held-out windows and bootstrapped by recording, never by
window: windows of one recording are not independent (3,605 smart-watch windows count as about 274).
Each gate says `passed`, `failed` or `insufficient evidence`; a model is approved if none failed and
it has shown that it learned at all. Percentile bootstrap after B. Efron, R. Tibshirani, "An
Introduction to the Bootstrap", 1993, ch. 13. Depends on nothing but its arguments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2_000
RECORDINGS_MIN = 5
"""Fewer held-out recordings than this support no comparison."""
INT8_MARGIN = 0.02
"""How much accuracy the conversion to int8 may cost."""
AGREEMENT_MIN = 0.95
"""Share of windows on which int8 and float have to name the same label."""

Outcome = Literal["passed", "failed", "insufficient evidence"]
Right = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was measured on the held-out windows.

    Attributes:
        recordings: int64[n], recording of each window.
        int8: bool[n], whether the int8 file, in the edge runtime, was right.
        float32: bool[n], whether the Keras model was right.
        baseline: bool[n], whether the plain baseline was right.
        champion: bool[n], whether the champion was right; None where there is none to compare.
        champion_note: why the champion could not be compared, or "".
        majority: bool[n], whether the commonest training label was right.
        agreement: share of windows on which int8 and float name the same label.
        model_bytes: length of the `.tflite` file.
        bytes_max: how long it may be.
        latency_ms: 95th percentile of one call in the edge runtime on this machine.
        latency_ms_max: how long it may take.
    """

    recordings: NDArray[np.int64]
    int8: Right
    float32: Right
    baseline: Right
    champion: Right | None
    champion_note: str
    majority: Right
    agreement: float
    model_bytes: int
    bytes_max: int
    latency_ms: float
    latency_ms_max: float


@dataclass(frozen=True, slots=True)
class Paired:
    """A paired difference of accuracy, averaged over recordings, with its 95 % interval."""

    difference: float
    low: float
    high: float
    recordings: int

    def __str__(self) -> str:
        return (
            f"{self.difference:+.3f} [{self.low:+.3f}, {self.high:+.3f}], "
            f"n = {self.recordings} recordings"
        )


@dataclass(frozen=True, slots=True)
class Gate:
    """One gate, its outcome, and why in words."""

    name: str
    outcome: Outcome
    words: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """All gates, and whether the model may be rolled out."""

    approved: bool
    gates: list[Gate]

    @property
    def words(self) -> str:
        """The verdict in one sentence."""
        failed = [g.name for g in self.gates if g.outcome == "failed"]
        open_ = [g.name for g in self.gates if g.outcome == "insufficient evidence"]
        if not self.approved:
            return f"rejected: {'; '.join(g.words for g in self.gates if g.name in failed)}"
        passed = f"approved: {len(self.gates) - len(open_)} of {len(self.gates)} gates passed"
        return passed + (f", insufficient evidence on {', '.join(open_)}" if open_ else "")

    def to_object(self) -> dict[str, Any]:
        """As JSON, for the run's row."""
        return {
            "approved": self.approved,
            "words": self.words,
            "gates": [{"name": g.name, "outcome": g.outcome, "words": g.words} for g in self.gates],
        }


def paired(a: Right, b: Right, recordings: NDArray[np.int64], seed: int = 0) -> Paired:
    """Accuracy of `a` minus accuracy of `b`, each recording counting once.

    The interval holds the 2.5th to 97.5th percentile of `RESAMPLES` draws of whole recordings.
    """
    ids = np.unique(recordings)
    each = a.astype(np.float64) - b.astype(np.float64)
    by_recording = np.array([each[recordings == i].mean() for i in ids])
    draws = np.random.default_rng(seed).integers(0, len(ids), (RESAMPLES, len(ids)))
    low, high = np.percentile(by_recording[draws].mean(axis=1), (2.5, 97.5))
    return Paired(float(by_recording.mean()), float(low), float(high), len(ids))


def judge(evidence: Evidence) -> Verdict:
    """Apply all gates."""
    gates = [
        _learned(evidence),
        _conversion(evidence),
        _baseline(evidence),
        _champion(evidence),
        _bound("size", evidence.model_bytes, evidence.bytes_max, "bytes"),
        _bound("latency", evidence.latency_ms, evidence.latency_ms_max, "ms"),
    ]
    return Verdict(all(g.outcome != "failed" for g in gates), gates)


def _learned(e: Evidence) -> Gate:
    """Better than always naming the commonest label; without this nothing is approved."""
    difference = paired(e.int8, e.majority, e.recordings)
    words = f"against always naming the commonest label {difference}"
    return Gate("learned", "passed" if difference.low > 0 else "failed", words)


def _conversion(e: Evidence) -> Gate:
    """The int8 file against the float model: accuracy within the margin, and decisions agree."""
    loss = float(e.float32.mean() - e.int8.mean())
    good = loss <= INT8_MARGIN and e.agreement >= AGREEMENT_MIN
    words = (
        f"int8 {e.int8.mean():.3f}, float {e.float32.mean():.3f} (margin {INT8_MARGIN}), "
        f"same label on {e.agreement:.1%} of windows (at least {AGREEMENT_MIN:.0%})"
    )
    return Gate("int8", "passed" if good else "failed", words)


def _baseline(e: Evidence) -> Gate:
    """Against logistic regression on window statistics: a model that loses to it is no use."""
    difference = paired(e.int8, e.baseline, e.recordings)
    words = f"against the baseline {difference}"
    if difference.recordings < RECORDINGS_MIN:
        return Gate("baseline", "insufficient evidence", words)
    if difference.high < 0:
        return Gate("baseline", "failed", words)
    return Gate("baseline", "passed" if difference.low > 0 else "insufficient evidence", words)


def _champion(e: Evidence) -> Gate:
    """Against the version that is approved now: not worse beyond the interval."""
    if e.champion is None:
        if e.champion_note:
            return Gate("champion", "insufficient evidence", e.champion_note)
        return Gate("champion", "passed", "there is no champion yet")
    difference = paired(e.int8, e.champion, e.recordings)
    words = f"against the champion {difference}"
    if difference.recordings < RECORDINGS_MIN:
        return Gate("champion", "insufficient evidence", words)
    if difference.high < 0:
        return Gate("champion", "failed", f"worse than the champion: {difference}")
    if difference.low > 0:
        return Gate("champion", "passed", f"better than the champion: {difference}")
    return Gate("champion", "passed", f"not worse than the champion: {difference}")


def _bound(name: str, value: float, most: float, unit: str) -> Gate:
    outcome: Outcome = "passed" if value <= most else "failed"
    return Gate(name, outcome, f"{value:g} {unit} of at most {most:g} {unit}")
