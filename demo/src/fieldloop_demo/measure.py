"""Accuracy of what devices said, by recording, and the paired difference between two models.

Windows of one recording are not independent, so a recording is the unit: its accuracy is the share
of its windows with the right label, and two models are compared on the same recordings. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_RESAMPLES = 10_000
_SEED = 7


@dataclass(frozen=True, slots=True)
class Scored:
    """One recording as one device scored it.

    Attributes:
        recording: name, the same before and after.
        device: who scored it.
        versions: model versions that scored its windows.
        windows: how many.
        correct: how many with the right label.
    """

    recording: str
    device: str
    versions: tuple[int, ...]
    windows: int
    correct: int

    @property
    def accuracy(self) -> float:
        """Share of windows with the right label; 0 where there are none."""
        return self.correct / self.windows if self.windows else 0.0


@dataclass(frozen=True, slots=True)
class Paired:
    """A paired difference of accuracies: after minus before, over `n` recordings.

    `low` and `high` bound the mean difference with 95 % confidence by the percentile bootstrap over
    recordings (B. Efron and R. Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13).
    """

    n: int
    before: float
    after: float
    difference: float
    low: float
    high: float


def score(
    recording: str, device: str, truth: str, labels: Iterable[tuple[str | None, int]]
) -> Scored:
    """Score one recording from the (label, model version) of each of its windows."""
    pairs = list(labels)
    versions = tuple(sorted({version for _, version in pairs}))
    correct = sum(label == truth for label, _ in pairs)
    return Scored(recording, device, versions, len(pairs), correct)


def mean_accuracy(scored: Sequence[Scored]) -> float | None:
    """Mean over recordings, each counting the same; None where there are none."""
    return float(np.mean([s.accuracy for s in scored])) if scored else None


def paired(before: Mapping[str, Scored], after: Mapping[str, Scored]) -> Paired:
    """Compare two models on the recordings that both scored.

    Raises:
        ValueError: no recording was scored by both.
    """
    names = sorted(
        name for name in before if name in after and before[name].windows and after[name].windows
    )
    if not names:
        raise ValueError("no recording was scored before and after")
    first = np.array([before[name].accuracy for name in names])
    second = np.array([after[name].accuracy for name in names])
    difference = second - first
    draws = np.random.default_rng(_SEED).integers(0, len(names), (_RESAMPLES, len(names)))
    low, high = np.percentile(difference[draws].mean(axis=1), [2.5, 97.5])
    return Paired(
        n=len(names),
        before=float(first.mean()),
        after=float(second.mean()),
        difference=float(difference.mean()),
        low=float(low),
        high=float(high),
    )


def expected_windows(samples: int, window: int, hop: int) -> int:
    """How many windows a recording of `samples` samples holds.

    >>> [expected_windows(n, 100, 50) for n in (99, 100, 149, 150)]
    [0, 1, 1, 2]
    """
    return (samples - window) // hop + 1 if samples >= window else 0
