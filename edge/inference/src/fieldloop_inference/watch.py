"""Watching a model on probation: what counts as a fault. Pure; owner thread.

One slow window among many is the machine's doing, not the model's; several are the model's. The
same output for different windows is normal where a classifier is sure (its int8 probabilities
saturate), and a fault where it is not.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from fieldloop_scoring.scorer import Scored

SLOW_OF: Final = 10
SLOW_MAX: Final = 3
CONSTANT_WINDOWS: Final = 20
SATURATED: Final = 0.95


class Watch:
    """Judges the windows of one model.

    Args:
        latency_ms_max: of the manifest.
    """

    def __init__(self, latency_ms_max: float) -> None:
        self._latency_us_max = latency_ms_max * 1000
        self._slow: deque[bool] = deque(maxlen=SLOW_OF)
        self._last: tuple[object, ...] | None = None
        self._same = 0

    def judge(self, scored: Scored, latency_us: float, *, changed: bool = True) -> str:
        """What is wrong after this window, in words, or "" for a good one.

        Args:
            changed: whether the window differs from the one before it.
        """
        if not scored.valid:
            return "output that is not finite"
        self._slow.append(latency_us > self._latency_us_max)
        if sum(self._slow) >= SLOW_MAX:
            return (
                f"{sum(self._slow)} of {len(self._slow)} windows took longer than "
                f"{self._latency_us_max / 1000:g} ms"
            )
        output = _output(scored)
        sure = scored.probabilities is not None and (scored.score or 0.0) >= SATURATED
        if changed:
            self._same = self._same + 1 if output == self._last and not sure else 1
        self._last = output
        if self._same >= CONSTANT_WINDOWS:
            return f"the same output for {self._same} windows"
        return ""


def agree(one: Scored, other: Scored) -> bool:
    """Whether two models say the same of a window, for the report of a shadow run.

    Classification: the same label. Anomaly: the same alarm, or scores within 10 % without one.
    Regression: every value within 10 %.
    """
    if not (one.valid and other.valid):
        return False
    if one.probabilities is not None:
        return one.label == other.label
    if one.alarm is not None or other.alarm is not None:
        return one.alarm == other.alarm
    left = one.values or {"score": one.score or 0.0}
    right = other.values or {"score": other.score or 0.0}
    return left.keys() == right.keys() and all(
        abs(left[k] - right[k]) <= 0.1 * max(abs(left[k]), abs(right[k])) for k in left
    )


def _output(scored: Scored) -> tuple[object, ...]:
    probabilities = tuple((scored.probabilities or {}).values())
    return (*probabilities, scored.score, *(scored.values or {}).values())
