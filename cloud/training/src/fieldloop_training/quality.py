"""A report on the labels of a dataset: what a person should look at before trusting it. Pure."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop_training.baseline import statistics
from fieldloop_training.datasets import Dataset

NEIGHBOURS = 5
SUSPECTS_MAX = 50
COMPARED_MAX = 4_000
RARE_SHARE = 0.02


def label_report(dataset: Dataset, left_out: dict[str, int], seed: int = 0) -> dict[str, Any]:
    """Balance, coverage, duplicates, and recordings whose windows look like another label's.

    A recording is suspect where most of its windows have, among their nearest windows of *other*
    recordings (by standardised window statistics), a majority of one other label.

    Returns:
        `labels`: windows, recordings and devices of each; `rare` and `one_device` labels;
        `duplicates`: windows with the bytes of an earlier one; `left_out` annotations by reason;
        `suspects`: device, start, label, what it looks like and the share of its windows.
    """
    of = np.array([p.recording for p in dataset.places], np.int64)
    names = [r.label for r in dataset.recordings]
    windows = Counter(names[i] for i in of)
    recordings = Counter(names)
    devices: dict[str, set[str]] = {}
    for r in dataset.recordings:
        devices.setdefault(r.label, set()).add(r.device)
    seen = Counter(w.tobytes() for w in dataset.samples)
    labels = {
        label: {
            "windows": windows[label], "recordings": recordings[label],
            "devices": len(devices[label]),
        }
        for label in sorted(recordings)
    }  # fmt: skip
    return {
        "labels": labels,
        "rare": sorted(k for k, n in windows.items() if n < RARE_SHARE * len(of)),
        "one_device": sorted(k for k, d in devices.items() if len(d) == 1),
        "duplicates": sum(n - 1 for n in seen.values()),
        "left_out": left_out,
        "suspects": _suspects(dataset, of, seed),
    }


def _suspects(dataset: Dataset, of: NDArray[np.int64], seed: int) -> list[dict[str, Any]]:
    names = np.array([r.label for r in dataset.recordings])
    if len(set(names)) < 2 or len(of) <= NEIGHBOURS:
        return []
    rows = np.arange(len(of))
    if len(rows) > COMPARED_MAX:
        rows = np.sort(np.random.default_rng(seed).choice(rows, COMPARED_MAX, replace=False))
    x = statistics(dataset.samples[rows])
    spread = x.std(axis=0)
    x = (x - x.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    mine, labels = of[rows], names[of[rows]]
    square = np.square(x).sum(axis=1)
    like: dict[int, Counter[str]] = {}
    for at in range(len(rows)):
        distance = square - 2 * (x @ x[at])
        distance[mine == mine[at]] = np.inf
        nearest = np.argpartition(distance, NEIGHBOURS)[:NEIGHBOURS]
        nearest = nearest[np.isfinite(distance[nearest])]
        if not len(nearest):
            continue
        label, count = Counter(labels[nearest].tolist()).most_common(1)[0]
        found = like.setdefault(int(mine[at]), Counter())
        found["all"] += 1
        if label != labels[at] and 2 * count > len(nearest):
            found[label] += 1
    suspects: list[dict[str, Any]] = []
    for number, counts in like.items():
        total = counts.pop("all")
        if not counts:
            continue
        label, count = counts.most_common(1)[0]
        if 2 * count > total:
            r = dataset.recordings[number]
            suspects.append({
                "device": r.device, "t0_ns": r.t0_ns, "t1_ns": r.t1_ns, "label": r.label,
                "looks_like": label, "share": round(count / total, 3),
            })  # fmt: skip
    suspects.sort(key=lambda s: -s["share"])
    return suspects[:SUSPECTS_MAX]
