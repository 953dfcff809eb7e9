"""Figures of an evaluation: accuracy, confusion, detection; which windows become golden. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop_contract.manifest import AlarmRule
from fieldloop_scoring import alarms
from fieldloop_scoring.alarms import Alarm


def figures(
    named: NDArray[np.int64], wanted: NDArray[np.int64], recordings: NDArray[np.int64], labels: int
) -> dict[str, float]:
    """Accuracy by window, mean recall over labels, and accuracy by recording.

    A recording is right if the label named most often in it is. Labels named as -1 are wrong.
    """
    right = named == wanted
    recalls = [right[wanted == k].mean() for k in range(labels) if (wanted == k).any()]
    by_recording = []
    for i in np.unique(recordings):
        mine = recordings == i
        counts = np.bincount(np.maximum(named[mine], 0), minlength=labels)
        by_recording.append(counts.argmax() == wanted[mine][0])
    return {
        "accuracy": float(right.mean()),
        "recall_mean": float(np.mean(recalls)),
        "recording_accuracy": float(np.mean(by_recording)),
        "windows": float(len(named)),
        "recordings": float(len(by_recording)),
    }


def confusion(
    named: NDArray[np.int64], wanted: NDArray[np.int64], labels: Sequence[str]
) -> dict[str, Any]:
    """Counts of windows by true (row) and named (column) label."""
    table = np.zeros((len(labels), len(labels)), np.int64)
    np.add.at(table, (wanted, named), 1)
    return {"labels": list(labels), "rows": table.tolist()}


def pick_golden(wanted: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Indices of `count` windows, spread over the labels and over the set, ascending.

    All of them where there are fewer.
    """
    queues = [list(np.nonzero(wanted == k)[0]) for k in np.unique(wanted)]
    chosen: list[int] = []
    while len(chosen) < count and any(queues):
        for queue in queues:
            if queue and len(chosen) < count:
                chosen.append(int(queue.pop(len(queue) // 2)))
    return np.array(sorted(chosen), np.int64)


def raised(
    scores: NDArray[np.float64],
    recordings: NDArray[np.int64],
    threshold: float | NDArray[np.float64],
    rule: AlarmRule,
) -> NDArray[np.bool_]:
    """Whether the alarm stands after each window, by the device's rule: bool[n].

    Args:
        scores: float64[n], in order of time within a recording; NaN moves nothing.
        recordings: int64[n]; the alarm begins anew in each.
        threshold: one, or float64[n], that of each window's machine.
    """
    each = np.broadcast_to(np.asarray(threshold, np.float64), scores.shape)
    out = np.zeros(len(scores), np.bool_)
    state, before = Alarm(), -1
    for index, (score, recording) in enumerate(zip(scores, recordings, strict=True)):
        if recording != before:
            state, before = Alarm(), recording
        if np.isfinite(score):
            state = alarms.step(state, float(score), float(each[index]), rule)
        out[index] = state.raised
    return out


def area_under_curve(healthy: NDArray[np.float64], faulty: NDArray[np.float64]) -> float:
    """Probability that a faulty window scores above a healthy one, ties counting half.

    H. B. Mann, D. R. Whitney, Annals of Mathematical Statistics 18, 1947. NaN where one is empty.
    """
    if not len(healthy) or not len(faulty):
        return float("nan")
    ordered = np.sort(healthy)
    below = np.searchsorted(ordered, faulty, "left") + np.searchsorted(ordered, faulty, "right")
    return float(below.mean() / (2 * len(ordered)))
