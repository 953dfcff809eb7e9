"""Is a machine worse than last month? Its scores by day, against the threshold in force.

What was looked at is kept for `KEPT_S`, so that pages which stay open ask no more than one.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fieldloop_store.conditions import (
    ScoreRow,
    ThresholdRow,
    scores_sampled,
    slot_scores,
    thresholds_of,
)
from fieldloop_store.engine import Store
from fieldloop_store.fleet import slot_views
from fieldloop_store.machines import AssignmentRow

S = 10**9
DAY_NS = 86_400 * S
DAYS = 42
WEEK_NS, MONTH_NS = 7 * DAY_NS, 28 * DAY_NS
STEP_NS = 1_800 * S
"""Of the plot: up to 48 windows a day stand for the day."""
COARSE_NS = 6 * 3_600 * S
"""Of the list's word: up to 28 windows stand for a week."""
SAMPLES_MIN = 8
KEPT_S, KEPT_MAX = 120, 2_000
LOW, HIGH = 0.1, 0.9
Trend = Literal["worse", "better", "as before", ""]


@dataclass(frozen=True, slots=True)
class Day:
    """Scores of a day: how many windows stand for it, their median and 10 and 90 % quantiles."""

    t0_ns: int
    windows: int
    low: float
    median: float
    high: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """This week against the week that ended four weeks ago.

    Attributes:
        trend: "" where one of the two has fewer than `SAMPLES_MIN` windows.
        now, then: median score; None for none.
        threshold: in force now; None for none.
    """

    trend: Trend
    now: float | None
    then: float | None
    threshold: float | None


@dataclass(frozen=True, slots=True)
class Condition:
    """One slot that scores a machine."""

    device: str
    stream: str
    slot: str
    days: tuple[Day, ...]
    thresholds: tuple[ThresholdRow, ...]
    comparison: Comparison


def by_day(rows: Sequence[ScoreRow]) -> tuple[Day, ...]:
    """Scores by day of UTC. Pure."""
    found: dict[int, list[float]] = {}
    for row in rows:
        found.setdefault(row.t0_ns // DAY_NS, []).append(row.score)
    return tuple(
        Day(day * DAY_NS, len(scores), *(float(q) for q in np.quantile(scores, [LOW, 0.5, HIGH])))
        for day, scores in sorted(found.items())
    )


def compare(now: Sequence[float], then: Sequence[float]) -> Trend:
    """Worse where this week's median lies above nine tenths of last month's scores. Pure.

    >>> compare([2.0] * 9, [1.0] * 9), compare([1.0] * 9, [1.0] * 9), compare([1.0], [1.0])
    ('worse', 'as before', '')
    """
    if min(len(now), len(then)) < SAMPLES_MIN:
        return ""
    median = float(np.median(now))
    low, high = (float(q) for q in np.quantile(then, [LOW, HIGH]))
    return "worse" if median > high else "better" if median < low else "as before"


class Conditions:
    """Looks at machines, and keeps what it saw for a while. Any thread."""

    def __init__(self, store: Store, now_ns: Callable[[], int]) -> None:
        self._store = store
        self._now_ns = now_ns
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, str, bool], tuple[int, list[Condition]]] = OrderedDict()

    def of(
        self, fleet: str, machine: str, assignments: Sequence[AssignmentRow], *, word: bool = False
    ) -> list[Condition]:
        """The slots that score what measures a machine now.

        Args:
            word: only the comparison, from fewer windows, and no days.

        Raises:
            RetryLater: the database is away.
        """
        key, now_ns = (fleet, machine, word), self._now_ns()
        with self._lock:
            known = self._kept.get(key)
            if known is not None and now_ns - known[0] < KEPT_S * S:
                return known[1]
        found = [
            self._look(fleet, row, slot, seen[1], now_ns, word)
            for row in assignments
            for slot, seen in self._slots(fleet, row)
        ]
        with self._lock:
            self._kept[key] = (now_ns, found)
            self._kept.move_to_end(key)
            while len(self._kept) > KEPT_MAX:
                self._kept.popitem(last=False)
        return found

    def _slots(self, fleet: str, row: AssignmentRow) -> list[tuple[str, tuple[str, str]]]:
        """Slots of the device whose newest result is of this stream."""
        found = []
        for slot in dict.fromkeys(v.slot for v in slot_views(self._store, fleet, row.device)):
            seen = slot_scores(self._store, fleet, row.device, slot)
            if seen is not None and seen[0] == row.stream:
                found.append((slot, seen))
        return found

    def _look(
        self, fleet: str, row: AssignmentRow, slot: str, digest: str, now_ns: int, word: bool
    ) -> Condition:
        def scores(t0_ns: int, t1_ns: int, step_ns: int) -> list[ScoreRow]:
            return scores_sampled(
                self._store, fleet, row.device, slot, t0_ns=max(t0_ns, row.from_ns, 0),
                t1_ns=t1_ns, step_ns=step_ns,
            )  # fmt: skip

        limits = thresholds_of(self._store, fleet, row.device, slot, digest)
        month_ns = now_ns - MONTH_NS
        if word:
            days: tuple[Day, ...] = ()
            now = scores(now_ns - WEEK_NS, now_ns, COARSE_NS)
            then = scores(month_ns - WEEK_NS, month_ns, COARSE_NS)
        else:
            all_of = scores(now_ns - DAYS * DAY_NS, now_ns, STEP_NS)
            days = by_day(all_of)
            now = [s for s in all_of if s.t0_ns >= now_ns - WEEK_NS]
            then = [s for s in all_of if month_ns - WEEK_NS <= s.t0_ns < month_ns]
        values, before = [s.score for s in now], [s.score for s in then]
        comparison = Comparison(
            compare(values, before),
            float(np.median(values)) if values else None,
            float(np.median(before)) if before else None,
            next((t.threshold for t in limits if t.to_ns is None), None),
        )
        return Condition(row.device, row.stream, slot, days, tuple(limits), comparison)
