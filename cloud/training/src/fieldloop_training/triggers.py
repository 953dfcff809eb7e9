"""When to train by itself: a pure rule over what is new since the last run.

Theory. Each log is known by a *mark*: how many of its rows are usable and the highest seq among
them. A run stores the marks it began with, and the rule compares with those of the last run only.
So nothing accumulates over rounds, nothing is kept outside the store, and round 50 is decided as
round 1 was, with any number of restarts between. A log whose rows were pruned has a smaller count
than before; there, the growth of seq bounds what is new.

A run starts when enough labels or data are new and nothing has changed for the quiet time, or when
the schedule says so and anything is new. Cool-down and the budget of runs a day hold for all that
start by themselves; a person's run is asked for by a person and is no business of this rule. That
the same dataset never trains twice is seen once the dataset is there (`pipeline`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class LogMark:
    """Usable rows of one log: how many, and the highest seq."""

    count: int
    seq_last: int


Marks = Mapping[str, LogMark]
"""By log, `device/service/epoch`."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What starts a run.

    Attributes:
        min_new: new rows that do.
        quiet_s: for how long nothing may change before.
        what: the rows in a word: `labels` or `frames`.
        every_s: schedule; 0 for none.
        cool_down_s: pause after the end of a run.
        runs_per_day_max: runs that started by themselves in the last 24 hours, at most.
    """

    min_new: int
    quiet_s: float
    what: str = "labels"
    every_s: float = 0.0
    cool_down_s: float = 0.0
    runs_per_day_max: int = 96


@dataclass(frozen=True, slots=True)
class Watch:
    """What was seen last, and since when (monotonic seconds)."""

    marks: Mapping[str, LogMark] | None = None
    since_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do: nothing, get ready since rows are coming in, or start a run and why."""

    action: Literal["idle", "gather", "start"]
    new: int
    reason: str
    kind: Literal["labels", "data", "schedule"] = "labels"


@dataclass(frozen=True, slots=True)
class History:
    """What the store says of the runs of a model.

    Attributes:
        open: whether one waits or is under way.
        marks: of the newest run that had any; None before the first.
        age_s: seconds since the newest run was made; None before the first.
        ended_s: seconds since the newest run ended; None where none has.
        today: runs of the last 24 hours that started by themselves.
    """

    open: bool = False
    marks: Marks | None = None
    age_s: float | None = None
    ended_s: float | None = None
    today: int = 0


def newly(now: Marks, then: Marks) -> int:
    """Rows that are there now and were not then."""
    total = 0
    for log, mark in now.items():
        before = then.get(log, LogMark(0, 0))
        if mark.count >= before.count:
            total += mark.count - before.count
        else:
            total += min(mark.count, max(0, mark.seq_last - before.seq_last))
    return total


def decide(  # noqa: PLR0911 - a table of cases
    rule: Rule, watch: Watch, now: Marks, history: History, now_s: float
) -> tuple[Watch, Decision]:
    """One look at the store.

    Args:
        now: marks of what is usable now, such as labels whose signal has arrived.
        now_s: monotonic seconds.

    Returns:
        What to remember until the next look, and what to do.
    """
    changed = watch.marks is None or dict(watch.marks) != dict(now)
    watch = Watch(dict(now), now_s) if changed else watch
    if history.open:
        return watch, Decision("idle", 0, "a run waits or is under way")
    new = newly(now, history.marks or {})
    if new == 0:
        return watch, Decision("idle", 0, f"no new {rule.what}")
    kind: Literal["labels", "data", "schedule"] = "labels" if rule.what == "labels" else "data"
    age_s = history.age_s
    scheduled = bool(rule.every_s) and age_s is not None and age_s >= rule.every_s
    if scheduled:
        kind, reason = "schedule", f"{rule.every_s:g} s since the last run, {new} new {rule.what}"
    elif new < rule.min_new:
        return watch, Decision(
            "gather", new, f"{new} new {rule.what}, {rule.min_new} start a run", kind
        )
    else:
        reason = f"{new} new {rule.what}"
    quiet_s = now_s - watch.since_s
    if quiet_s < rule.quiet_s:
        return watch, Decision("gather", new, f"{new} new {rule.what}, still coming in", kind)
    if history.ended_s is not None and history.ended_s < rule.cool_down_s:
        words = f"cooling down for {rule.cool_down_s - history.ended_s:.0f} s more"
        return watch, Decision("idle", new, words, kind)
    if history.today >= rule.runs_per_day_max:
        words = f"{history.today} runs in 24 hours are the budget"
        return watch, Decision("idle", new, words, kind)
    return watch, Decision("start", new, f"{reason}, quiet for {quiet_s:.0f} s", kind)


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
