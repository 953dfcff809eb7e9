"""What an anomaly recipe may learn from. Pure.

A window may be learnt where a person confirmed the machine healthy over all of it, or where the
hold-back period has passed since with no alarm, drift or fault verdict near it. What the model in
force merely called normal is no reason: refitting on that gave 39 % false alarms after 50 rounds.
`unknown` is not normal, and a fault verdict outweighs a confirmation. Each machine is capped, so
that one that runs all day does not teach all others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

HOUR_NS = 3_600 * 10**9
Sign = Literal["healthy", "fault", "unknown", "alarm", "drift", "idle"]


@dataclass(frozen=True, slots=True)
class Span:
    """Something known of a machine from `t0_ns` to `t1_ns`.

    `healthy` and `fault` are a person's words, as is `unknown`; `alarm` and `drift` a device's;
    `idle` says that the machine did not run. `kind` is what a person called it.
    """

    machine: str
    t0_ns: int
    t1_ns: int
    sign: Sign
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A window that could be learnt."""

    machine: str
    t0_ns: int
    t1_ns: int


@dataclass(frozen=True, slots=True)
class HoldBack:
    """The rule.

    Attributes:
        period_ns: how old a window without a verdict has to be.
        before_ns, after_ns: how far around an alarm, drift or fault nothing is learnt: a fault
            begins before it is seen, and a repair takes time. Before a fault that somebody
            confirmed it is `period_ns`, where that is longer.
        machine_max: windows of one machine at most.
    """

    period_ns: int = 14 * 24 * HOUR_NS
    before_ns: int = 24 * HOUR_NS
    after_ns: int = 24 * HOUR_NS
    machine_max: int = 20_000


@dataclass(frozen=True, slots=True)
class Selection:
    """Indices of the windows to learn, ascending, and how many were left out and why."""

    chosen: list[int]
    left_out: dict[str, int]


def select(
    candidates: Sequence[Candidate],
    spans: Sequence[Span],
    rule: HoldBack,
    now_ns: int,
    seed: int = 0,
) -> Selection:
    """Which windows may be learnt.

    Left out as `fault`, `suspect` (near an alarm, drift or fault), `unknown`, `idle`, `held back`
    (too young), or `cap` (drawn by lot, confirmed windows staying first).
    """
    left_out: Counter[str] = Counter()
    known: dict[str, list[Span]] = {}
    for span in spans:
        known.setdefault(span.machine, []).append(span)
    by_machine: dict[str, tuple[list[int], list[int]]] = {}
    for index, window in enumerate(candidates):
        reason, confirmed = _why_not(window, known.get(window.machine, []), rule, now_ns)
        if reason:
            left_out[reason] += 1
            continue
        firm, ripe = by_machine.setdefault(window.machine, ([], []))
        (firm if confirmed else ripe).append(index)
    chosen: list[int] = []
    rng = np.random.default_rng(seed)
    for machine in sorted(by_machine):
        firm, ripe = by_machine[machine]
        kept = list(_some(firm, rule.machine_max, rng))
        kept += _some(ripe, rule.machine_max - len(kept), rng)
        left_out["cap"] += len(firm) + len(ripe) - len(kept)
        chosen += kept
    return Selection(sorted(chosen), {k: n for k, n in sorted(left_out.items()) if n})


def _why_not(
    window: Candidate, spans: Sequence[Span], rule: HoldBack, now_ns: int
) -> tuple[str, bool]:
    """Why a window may not be learnt ("" where it may), and whether a person confirmed it."""
    signs: set[str] = set()
    confirmed = False
    for span in spans:
        touches = span.t0_ns < window.t1_ns and span.t1_ns > window.t0_ns
        if span.sign == "healthy":
            confirmed |= span.t0_ns <= window.t0_ns and span.t1_ns >= window.t1_ns
        elif touches:
            signs.add(span.sign)
        elif span.sign in ("alarm", "drift", "fault"):
            before_ns = rule.before_ns
            if span.sign == "fault":  # it grew for as long as is held back for fear of one
                before_ns = max(before_ns, rule.period_ns)
            if span.t0_ns - before_ns < window.t1_ns and span.t1_ns + rule.after_ns > window.t0_ns:
                signs.add("near")
    if "fault" in signs:
        return "fault", False
    if "idle" in signs:
        return "idle", False
    if confirmed:
        return "", True
    if signs & {"alarm", "drift", "near"}:
        return "suspect", False
    if "unknown" in signs:
        return "unknown", False
    return ("held back", False) if window.t1_ns > now_ns - rule.period_ns else ("", False)


def _some(indices: list[int], most: int, rng: np.random.Generator) -> list[int]:
    if len(indices) <= most:
        return indices
    return sorted(int(i) for i in rng.choice(indices, max(0, most), replace=False))
