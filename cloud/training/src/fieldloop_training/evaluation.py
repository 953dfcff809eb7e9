"""Evaluation on held-out windows: the int8 file in the edge runtime, as it will run on a device.

Owns how accuracy, agreement and latency are measured. Scores through `fieldloop_scoring`, the
device's own code. One thread.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop_contract.manifest import Manifest
from fieldloop_scoring.runners import open_runner
from fieldloop_scoring.scorer import Scorer

LATENCY_CALLS = 200


@dataclass(frozen=True, slots=True)
class EdgeScores:
    """What a file said in the edge runtime.

    Attributes:
        probabilities: float32[n, labels], dequantized.
        latency_us: median and 95th percentile of one window, normalisation included.
    """

    probabilities: NDArray[np.float32]
    latency_us: tuple[float, float]


def score_on_edge(manifest: Manifest, model: bytes, samples: NDArray[np.float32]) -> EdgeScores:
    """Score windows one by one, as a device does.

    Args:
        samples: float32[n, window_samples, channels], physical units.

    Raises:
        Isolate: the runtime cannot run the file, or it is not what the manifest says.
    """
    scorer = Scorer(manifest, open_runner(model))
    rows, took_ns = [], []
    for window in samples:
        begun = time.perf_counter_ns()
        rows.append(scorer.raw(window)[0])
        took_ns.append(time.perf_counter_ns() - begun)
    middle, high = np.percentile(np.array(took_ns[-LATENCY_CALLS:]) / 1e3, (50, 95))
    return EdgeScores(np.stack(rows), (float(middle), float(high)))


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
