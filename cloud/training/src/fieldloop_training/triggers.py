"""When to train: a pure rule over what has been labelled since the last run.

Theory. Each log that annotations come from is known by a *mark*: how many of its annotations are
usable and the highest seq among them. A run stores the marks it began with, and the rule compares
with those of the last run only. So it needs no clock but the caller's monotonic one, nothing
accumulates over rounds, and round 50 is decided as round 1 was. A log whose annotations were pruned
has a smaller count than before; there, the growth of seq bounds what is new.

A run starts when enough is new and nothing has changed for the quiet time. A run that failed is
repeated, at most twice, before anything else; after that its labels count as used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

ATTEMPTS_MAX = 3


@dataclass(frozen=True, slots=True)
class LogMark:
    """Usable annotations of one log: how many, and the highest seq."""

    count: int
    seq_last: int


Marks = Mapping[str, LogMark]
"""By log, `device/service/epoch`."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How many new annotations start a run, and how long nothing may change before."""

    min_annotations: int
    quiet_s: float


@dataclass(frozen=True, slots=True)
class Watch:
    """What was seen last, and since when (monotonic seconds)."""

    marks: Mapping[str, LogMark] | None = None
    since_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do: nothing, get ready since labels are coming in, or start a run."""

    action: Literal["idle", "gather", "start"]
    new_annotations: int
    reason: str
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class LastRun:
    """The newest run of a model: how it stands, its number of attempts and its marks."""

    state: str
    attempt: int
    marks: Marks


def newly_labelled(now: Marks, then: Marks) -> int:
    """Annotations that are there now and were not then."""
    total = 0
    for log, mark in now.items():
        before = then.get(log, LogMark(0, 0))
        if mark.count >= before.count:
            total += mark.count - before.count
        else:
            total += min(mark.count, max(0, mark.seq_last - before.seq_last))
    return total


def decide(
    rule: Rule, watch: Watch, now: Marks, last: LastRun | None, now_s: float
) -> tuple[Watch, Decision]:
    """One look at the store.

    Args:
        now: marks of what is usable now: labelled, and the signal has arrived.
        last: the newest run; None before the first.
        now_s: monotonic seconds.

    Returns:
        What to remember until the next look, and what to do.
    """
    changed = watch.marks is None or dict(watch.marks) != dict(now)
    watch = Watch(dict(now), now_s) if changed else watch
    if last is not None and last.state == "running":
        return watch, Decision("idle", 0, "a run is under way")
    if last is not None and last.state == "failed" and last.attempt < ATTEMPTS_MAX:
        attempt = last.attempt + 1
        return watch, Decision(
            "start", 0, f"attempt {attempt} of {ATTEMPTS_MAX} after a failed run", attempt
        )
    new = newly_labelled(now, last.marks if last is not None else {})
    if new == 0:
        return watch, Decision("idle", 0, "nothing new is labelled")
    if new < rule.min_annotations:
        return watch, Decision(
            "gather", new, f"{new} new labels, {rule.min_annotations} start a run"
        )
    quiet_s = now_s - watch.since_s
    if quiet_s < rule.quiet_s:
        return watch, Decision("gather", new, f"{new} new labels, still coming in")
    return watch, Decision("start", new, f"{new} new labels, quiet for {quiet_s:.0f} s")


def marks_to_object(marks: Marks) -> dict[str, list[int]]:
    """As JSON, for the run's row."""
    return {log: [m.count, m.seq_last] for log, m in sorted(marks.items())}


def marks_from_object(document: Any) -> dict[str, LogMark]:
    """Undo `marks_to_object`; what is not a mark is left out."""
    if not isinstance(document, dict):
        return {}
    return {
        str(log): LogMark(int(pair[0]), int(pair[1]))
        for log, pair in document.items()
        if isinstance(pair, list) and len(pair) == 2 and all(isinstance(x, int) for x in pair)
    }
