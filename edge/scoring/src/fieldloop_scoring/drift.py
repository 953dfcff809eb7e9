"""Drift of a slot: which windows are counted, what is reported, and when drift is confirmed.

Owns the policy of a drift reference and the watch that devices run. Of the running windows one is
counted in each decorrelation time, so that counts are near to independent. After `count_windows` of
them the sketch is a report, is judged against `limit` by its largest population stability index
over the channels, and begins anew. Drift is confirmed when `raise_count` of the last `raise_of`
reports were beyond the limit, which `driftlimit` finds. Pure; a watch belongs to one thread.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fieldloop_contract.errors import MalformedMessage
from fieldloop_contract.manifest import AlarmRule
from fieldloop_scoring import alarms
from fieldloop_scoring.alarms import Alarm
from fieldloop_scoring.sketch import Reference, Sketch, joined, split

COUNT_WINDOWS_MAX: Final = 1_000_000
SCORE_BINS_PER_DECADE: Final = 8
_SCORE_MIN, _SCORE_MAX = 1e-9, 1e9
LABELS_MAX: Final = 1_000


@dataclass(frozen=True, slots=True)
class Policy:
    """How a reference is used: `policy` of `Manifest.drift_reference`.

    Attributes:
        decorrelation_windows: one of so many running windows is counted.
        count_windows: counted windows of a report.
        limit: of the index; None only reports.
        raise_count, raise_of: reports beyond the limit that confirm drift.
    """

    decorrelation_windows: int
    count_windows: int
    limit: float | None = None
    raise_count: int = 3
    raise_of: int = 5

    def __post_init__(self) -> None:
        whole = (self.decorrelation_windows, self.count_windows, self.raise_count, self.raise_of)
        if not all(type(n) is int and 1 <= n <= COUNT_WINDOWS_MAX for n in whole):
            raise MalformedMessage("a drift policy is of whole numbers", code="drift.policy")
        if not self.raise_count <= self.raise_of <= 64:
            raise MalformedMessage("raise_count is within raise_of", code="drift.policy")
        if self.limit is not None and not (math.isfinite(self.limit) and self.limit > 0):
            raise MalformedMessage("a drift limit is positive", code="drift.policy")

    @property
    def rule(self) -> AlarmRule:
        """Confirmation, and its end: as many good reports in a row as confirmed it."""
        return AlarmRule(
            raise_count=self.raise_count, raise_of=self.raise_of, clear_count=self.raise_count
        )

    def to_object(self) -> dict[str, Any]:
        """As JSON."""
        document: dict[str, Any] = {
            "decorrelation_windows": self.decorrelation_windows,
            "count_windows": self.count_windows,
            "raise_count": self.raise_count,
            "raise_of": self.raise_of,
        }
        return document if self.limit is None else {**document, "limit": self.limit}


def parse(document: dict[str, Any] | None) -> tuple[Reference, Policy] | None:
    """Reference and policy of a manifest; None where there is no reference, or it states no policy.

    Raises:
        MalformedMessage: it is damaged.
    """
    if document is None or "policy" not in document:
        return None
    stated = document["policy"]
    try:
        policy = Policy(**{k: stated[k] for k in Policy.__slots__ if k in stated})
    except TypeError as error:
        raise MalformedMessage(f"not a drift policy: {error}", code="drift.policy") from error
    return Reference.from_object(document), policy


def score_bin(score: float) -> str:
    """Name of the logarithmic bin of a score: `under`, `over`, `nan` or its number.

    >>> score_bin(1.0), score_bin(10.0), score_bin(-1.0), score_bin(float("nan"))
    ('0', '8', 'under', 'nan')
    """
    if math.isnan(score):
        return "nan"
    if score < _SCORE_MIN:
        return "under"
    if score >= _SCORE_MAX:
        return "over"
    return str(math.floor(SCORE_BINS_PER_DECADE * math.log10(score)))


@dataclass(slots=True)
class Report:
    """What is sent of some hundred windows; reports of the same reference add up by their counts.

    Attributes:
        sketch: of the normalised inputs.
        scores: counted windows by logarithmic bin of the score.
        labels: counted windows by label.
        windows: counted windows.
        t0_ns, t1_ns: the time that they span.
    """

    sketch: Sketch
    scores: dict[str, int] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    windows: int = 0
    t0_ns: int = 0
    t1_ns: int = 0

    def to_object(self) -> dict[str, Any]:
        """As JSON, without the reference's edges."""
        return {
            **split("counts", self.sketch.counts, self.sketch.reference.first),
            "scores": self.scores,
            "labels": self.labels,
            "windows": self.windows,
            "t0_ns": self.t0_ns,
            "t1_ns": self.t1_ns,
        }

    @classmethod
    def from_object(cls, document: Any, reference: Reference) -> Report:
        """Undo `to_object`.

        Raises:
            MalformedMessage: not such a document, or of another reference.
        """
        try:
            counts, _ = joined("counts", document, np.int64)
            return cls(
                Sketch(reference, counts),
                {str(k): int(v) for k, v in document["scores"].items()},
                {str(k): int(v) for k, v in document["labels"].items()},
                *(int(document[name]) for name in ("windows", "t0_ns", "t1_ns")),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise MalformedMessage("not a drift report", code="drift.report") from error


@dataclass(frozen=True, slots=True)
class Judged:
    """A finished report.

    Attributes:
        psi: by channel, those of all inputs in their order.
        changed: True where drift was confirmed by it, False where it ended, None for neither.
    """

    report: Report
    psi: NDArray[np.float64]
    changed: bool | None


class Watch:
    """Counts the running windows of one model.

    Attributes:
        drifting: whether drift is confirmed.
        counted: windows counted since the watch began.
    """

    def __init__(self, reference: Reference, policy: Policy) -> None:
        self.policy = policy
        self.counted = 0
        self._reference = reference
        self._alarm = Alarm()
        self._passed = 0
        self._report = Report(Sketch(reference))

    @property
    def drifting(self) -> bool:
        """Whether drift is confirmed."""
        return self._alarm.raised

    def due(self) -> bool:
        """Whether this running window is one that is counted; to be asked once for each."""
        self._passed = (self._passed + 1) % self.policy.decorrelation_windows
        return self._passed == 0

    def push(
        self,
        normalised: NDArray[np.float32],
        t0_ns: int,
        t1_ns: int,
        *,
        further: Sequence[NDArray[np.float32]] = (),
        score: float | None = None,
        label: str | None = None,
    ) -> Judged | None:
        """Count a window; the report that it completes.

        Args:
            normalised: float32[window_samples, channels], of the first input.
            further: the same of each further input that the reference covers.
        """
        report = self._report
        report.sketch.add(normalised, *further)
        if score is not None:
            name = score_bin(score)
            report.scores[name] = report.scores.get(name, 0) + 1
        if label is not None and (label in report.labels or len(report.labels) < LABELS_MAX):
            report.labels[label] = report.labels.get(label, 0) + 1
        report.t0_ns = report.t0_ns or t0_ns
        report.t1_ns = t1_ns
        report.windows += 1
        self.counted += 1
        return self._judge() if report.windows >= self.policy.count_windows else None

    def _judge(self) -> Judged:
        report, self._report = self._report, Report(Sketch(self._reference))
        psi, changed, limit = report.sketch.psi(), None, self.policy.limit
        if limit is not None:
            before = self._alarm.raised
            self._alarm = alarms.step(self._alarm, float(psi.max()), limit, self.policy.rule)
            changed = self._alarm.raised if self._alarm.raised != before else None
        return Judged(report, psi, changed)

    def to_object(self) -> dict[str, Any]:
        """The state, as JSON."""
        alarm = self._alarm
        return {
            "raised": alarm.raised,
            "recent": alarm.recent,
            "good": alarm.good,
            "report": self._report.to_object(),
        }

    def resume(self, document: Any) -> None:
        """Go on from `to_object`.

        Raises:
            MalformedMessage: not such a document, or of another reference.
        """
        try:
            alarm = Alarm(bool(document["raised"]), str(document["recent"]), int(document["good"]))
            report = Report.from_object(document["report"], self._reference)
        except (KeyError, TypeError, ValueError) as error:
            raise MalformedMessage("not a drift watch's state", code="drift.state") from error
        self._alarm, self._report = alarm, report


def merge(reports: Sequence[Report]) -> Report:
    """The sum of reports of one reference, such as those of a fleet.

    Raises:
        MalformedMessage: of several references.
    """
    first = reports[0]
    total = Report(first.sketch.merge([r.sketch for r in reports[1:]]))
    for report in reports:
        for into, counts in ((total.scores, report.scores), (total.labels, report.labels)):
            for name, count in counts.items():
                into[name] = into.get(name, 0) + count
        total.windows += report.windows
    total.t0_ns = min(r.t0_ns for r in reports)
    total.t1_ns = max(r.t1_ns for r in reports)
    return total
