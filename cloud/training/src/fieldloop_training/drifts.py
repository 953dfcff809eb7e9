"""Which drift of a fleet is worth a question: tests over devices and channels, corrected. Pure.

Devices send sketches (`fieldloop_scoring.drift`); reports of a device since it runs the model add
up. Whether a channel of a device is distributed as the reference says is tested by its population
stability index: n times the index is to second order Pearson's statistic against equal bins, with
as many degrees of freedom as bins less one, for n independent windows against m in the reference
(`n m / (n + m)` in place of n). Windows counted one in a decorrelation time are near independent,
the samples within one are not; so n is the number of windows, which is careful. Thousands of tests
are made, so those named are corrected: by Y. Benjamini, Y. Hochberg, Journal of the Royal
Statistical Society B 57, 1995, with the constant of Benjamini and D. Yekutieli, Annals of
Statistics 29, 2001, since channels of one device depend on each other. At most the stated share of
what is named is then false, on average.

Statistics are not enough for a question: with many windows the slightest shift is certain. The
index has to be large as well, and the device's own watch has to have confirmed it (k of n reports
beyond the limit) where the model's policy has a limit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.stats import chi2

from fieldloop_scoring.sketch import BINS

PSI_MIN = 0.1
"""A smaller index is certain with enough windows and matters to nobody."""
FLEET_SHARE = 0.5
Nature = Literal["sensor", "regime", "wear or fault"]


@dataclass(frozen=True, slots=True)
class Seen:
    """What one device reported of one model.

    Attributes:
        windows: counted windows of all reports added up.
        psi: index of the sum by channel.
        recent: mean index of the newer half of the reports over that of the older half.
        confirmed: whether the device's own watch says so.
        alarms: whether an alarm stands on the device.
    """

    device: str
    windows: int
    psi: Mapping[str, float]
    recent: float
    confirmed: bool
    alarms: bool


@dataclass(frozen=True, slots=True)
class Finding:
    """A channel of a device that is not as the reference."""

    device: str
    channel: str
    psi: float
    p: float


@dataclass(frozen=True, slots=True)
class Question:
    """What to ask.

    Attributes:
        subject: the devices and channels, in a stable form.
        nature: what it looks like.
        words: one sentence with the evidence.
    """

    subject: str
    nature: Nature
    words: str
    findings: list[Finding]

    def to_object(self, tests: int, share: float) -> dict[str, Any]:
        """As JSON: the evidence of the store's question."""
        return {
            "words": self.words,
            "nature": self.nature,
            "tests": tests,
            "false_share": share,
            "findings": [
                {"device": f.device, "channel": f.channel, "psi": round(f.psi, 4), "p": f.p}
                for f in self.findings
            ],
        }


def p_value(psi: float, windows: int, reference_windows: int) -> float:
    """Probability of such an index, or a larger one, without drift."""
    n = windows * reference_windows / max(1, windows + reference_windows)
    return float(chi2.sf(n * psi, BINS - 1))


def false_discoveries(
    p_values: Sequence[float], share: float, *, dependent: bool = True
) -> list[bool]:
    """Which are named so that on average at most `share` of them are false.

    >>> false_discoveries([0.001, 0.5, 0.02], 0.05, dependent=False)
    [True, False, True]
    """
    m = len(p_values)
    if not m:
        return []
    constant = float((1.0 / np.arange(1, m + 1)).sum()) if dependent else 1.0
    order = np.argsort(p_values, kind="stable")
    ranked = np.asarray(p_values)[order]
    below = np.nonzero(ranked <= share * np.arange(1, m + 1) / (m * constant))[0]
    named = np.zeros(m, np.bool_)
    if len(below):
        named[order[: below[-1] + 1]] = True
    return [bool(x) for x in named]


def find(
    seen: Sequence[Seen], reference_windows: int, *, share: float, limited: bool
) -> tuple[list[Finding], int]:
    """Findings that stand, by device and channel, and the number of tests.

    Args:
        limited: whether the model's policy has a limit, so that devices confirm by themselves.
    """
    tests = [
        (s, Finding(s.device, channel, psi, p_value(psi, s.windows, reference_windows)))
        for s in sorted(seen, key=lambda s: s.device)
        for channel, psi in sorted(s.psi.items())
        if s.windows
    ]
    named = false_discoveries([f.p for _, f in tests], share)
    kept = [
        f
        for (s, f), yes in zip(tests, named, strict=True)
        if yes and f.psi >= PSI_MIN and (s.confirmed or not limited)
    ]
    return kept, len(tests)


def ask(findings: Sequence[Finding], seen: Sequence[Seen]) -> list[Question]:
    """One question for what the fleet shares, else one for each device.

    A shift that half of the fleet shares is a regime (season, product, load); one channel of one
    device is that sensor; several channels of a device, or one that grows while alarms stand, is
    wear or a fault, which a model must not learn.
    """
    devices = sorted({f.device for f in findings})
    if not devices:
        return []
    if len(seen) >= 3 and len(devices) >= FLEET_SHARE * len(seen):
        channels = sorted({f.channel for f in findings})
        words = (
            f"{len(devices)} of {len(seen)} devices see {', '.join(channels)} distributed "
            "otherwise than the training data: another season, product or load?"
        )
        return [Question(f"fleet/{'+'.join(channels)}"[:200], "regime", words, list(findings))]
    by_device = {s.device: s for s in seen}
    questions = []
    for device in devices:
        mine = [f for f in findings if f.device == device]
        state = by_device[device]
        channels = [f.channel for f in mine]
        shown = ", ".join(f"{f.channel} (index {f.psi:.2f})" for f in mine)
        growing = state.recent > 1.5
        alone = len(channels) == 1 and len(state.psi) > 1
        nature: Nature = "sensor" if alone and not state.alarms else "wear or fault"
        told = ["while an alarm stands"] if state.alarms else []
        told += ["and it grows"] if growing else []
        words = (
            f"{device} sees {shown} distributed otherwise than the training data "
            f"{' '.join(told)}".rstrip()
            + (": is it that sensor?" if nature == "sensor" else ": wear, a fault, or new work?")
        )
        questions.append(Question(f"{device}/{'+'.join(channels)}"[:200], nature, words, mine))
    return questions
