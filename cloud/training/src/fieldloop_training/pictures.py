"""Plots as PNG files, for model cards and pages: matplotlib without a display. One thread."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop_training.candidates import Measured
from fieldloop_training.datasets import Dataset
from fieldloop_training.statistics import paired

Plots = dict[str, tuple[str, bytes]]
"""Media type and content by name."""
_DPI = 110
_POINTS_MAX = 2_000
_BARS_MAX = 30


def _new(width: float = 6.0, height: float = 4.0) -> tuple[Any, Any]:
    # Imported here: it takes a second, and only a run that draws needs it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _png(figure: Any) -> tuple[str, bytes]:
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return "image/png", out.getvalue()


def of_dataset(dataset: Dataset) -> Plots:
    """Windows by label and device, and one window of each label."""
    names = [dataset.recordings[p.recording].label for p in dataset.places]
    devices = [dataset.recordings[p.recording].device for p in dataset.places]
    return {
        "labels.png": _counts(names, "label"),
        "devices.png": _counts(devices, "device"),
        "windows.png": _windows(dataset, names),
    }


def _counts(names: Sequence[str], what: str) -> tuple[str, bytes]:
    values, counts = np.unique(np.array(names), return_counts=True)
    order = np.argsort(-counts)[:_BARS_MAX]
    figure, axes = _new(6, 1 + 0.3 * len(order))
    axes.barh([str(values[i]) for i in order][::-1], [int(counts[i]) for i in order][::-1])
    axes.set_xlabel(f"windows by {what}")
    return _png(figure)


def _windows(dataset: Dataset, names: Sequence[str]) -> tuple[str, bytes]:
    labels = sorted(set(names))[:8]
    figure, first = _new(7, 1 + 1.3 * len(labels))
    figure.delaxes(first)
    for row, label in enumerate(labels, 1):
        axes = figure.add_subplot(len(labels), 1, row)
        at = names.index(label)
        axes.plot(dataset.samples[at], linewidth=0.8)
        axes.set_ylabel(label, fontsize=8)
    return _png(figure)


def of_run(measured: Measured, history: Sequence[Mapping[str, float]]) -> Plots:
    """Curves, float against int8, champion by slice, and what the task has besides."""
    plots: Plots = {}
    if history:
        plots["curves.png"] = _curves(history)
    drawn = measured.drawn
    if "wanted" in drawn:
        labels = measured.record["confusion"]["labels"]
        plots["confusion.png"] = _confusion(measured.record["confusion"])
        plots["roc.png"] = _roc(drawn["probabilities"], drawn["wanted"], labels)
        plots["precision-recall.png"] = _recalls(drawn["probabilities"], drawn["wanted"], labels)
        plots["float-int8.png"] = _agreement(drawn["float"], drawn["probabilities"], log=False)
    else:
        finite = np.isfinite(drawn["scores"])
        scores, faulty = drawn["scores"][finite], drawn["faulty"][finite]
        both = np.stack([-scores, scores], axis=1)
        plots["roc.png"] = _roc(both, faulty.astype(np.int64), ["healthy", "faulty"], [1])
        plots["precision-recall.png"] = _recalls(
            both, faulty.astype(np.int64), ["healthy", "faulty"], [1]
        )
        plots["scores.png"] = _scores(scores, faulty, drawn["threshold"])
        plots["float-int8.png"] = _agreement(drawn["float"], drawn["scores"], log=True)
    if measured.evidence.slices:
        plots["slices.png"] = _slices(measured)
    return plots


def _curves(history: Sequence[Mapping[str, float]]) -> tuple[str, bytes]:
    figure, axes = _new()
    for name in sorted({k for figures in history for k in figures}):
        axes.plot([figures.get(name, np.nan) for figures in history], label=name)
    axes.set_xlabel("epoch")
    axes.legend(fontsize=8)
    return _png(figure)


def _confusion(table: Mapping[str, Any]) -> tuple[str, bytes]:
    labels, rows = table["labels"], np.array(table["rows"])
    figure, axes = _new(1.5 + 0.6 * len(labels), 1.2 + 0.55 * len(labels))
    shares = rows / np.maximum(rows.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(labels)), labels, rotation=60, ha="right", fontsize=8)
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    for (i, j), count in np.ndenumerate(rows):
        if count:
            colour = "white" if shares[i, j] > 0.5 else "black"
            axes.text(j, i, str(count), ha="center", va="center", fontsize=7, color=colour)
    axes.set_xlabel("named")
    axes.set_ylabel("is")
    return _png(figure)


def _ordered(
    scores: NDArray[Any], wanted: NDArray[np.int64], k: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cumulated true and false positives by falling score."""
    right = (wanted == k)[np.argsort(-scores[:, k], kind="stable")]
    return np.cumsum(right).astype(np.float64), np.cumsum(~right).astype(np.float64)


def _thinned(*columns: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    keep = np.unique(np.linspace(0, len(columns[0]) - 1, _POINTS_MAX).astype(int))
    return [c[keep] for c in columns]


def _roc(
    scores: NDArray[Any], wanted: NDArray[np.int64], labels: Sequence[str],
    shown: Sequence[int] | None = None,
) -> tuple[str, bytes]:  # fmt: skip
    figure, axes = _new(5, 5)
    for k in shown or range(len(labels)):
        if not (wanted == k).any() or (wanted == k).all():
            continue
        right, wrong = _ordered(scores, wanted, k)
        x, y = _thinned(wrong / wrong[-1], right / right[-1])
        axes.plot(x, y, label=labels[k], linewidth=1)
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.5)
    axes.set_xlabel("false positives")
    axes.set_ylabel("true positives")
    axes.legend(fontsize=7)
    return _png(figure)


def _recalls(
    scores: NDArray[Any], wanted: NDArray[np.int64], labels: Sequence[str],
    shown: Sequence[int] | None = None,
) -> tuple[str, bytes]:  # fmt: skip
    figure, axes = _new(5, 5)
    for k in shown or range(len(labels)):
        if not (wanted == k).any():
            continue
        right, wrong = _ordered(scores, wanted, k)
        x, y = _thinned(right / right[-1], right / (right + wrong))
        axes.plot(x, y, label=labels[k], linewidth=1)
    axes.set_xlabel("recall")
    axes.set_ylabel("precision")
    axes.set_ylim(0, 1.02)
    axes.legend(fontsize=7)
    return _png(figure)


def _agreement(a: NDArray[Any], b: NDArray[Any], *, log: bool) -> tuple[str, bytes]:
    figure, axes = _new(5, 5)
    x, y = _thinned(a.reshape(-1).astype(np.float64), b.reshape(-1).astype(np.float64))
    axes.plot(x, y, ".", markersize=2)
    if log:
        axes.set_xscale("log")
        axes.set_yscale("log")
    axes.set_xlabel("float")
    axes.set_ylabel("converted")
    return _png(figure)


def _scores(
    scores: NDArray[np.float64], faulty: NDArray[np.bool_], threshold: float
) -> tuple[str, bytes]:
    figure, axes = _new()
    low = max(float(scores[scores > 0].min(initial=1e-6)), 1e-9)
    high = max(float(scores.max(initial=low)), threshold, low * 10)
    bins = np.logspace(np.log10(low), np.log10(high), 60)
    for mask, name in ((~faulty, "healthy"), (faulty, "faulty")):
        axes.hist(np.clip(scores[mask], low, high), bins=bins, alpha=0.6, label=name)
    axes.axvline(threshold, color="black", linewidth=1, label="threshold")
    axes.set_xscale("log")
    axes.set_xlabel("score")
    axes.set_ylabel("windows")
    axes.legend(fontsize=8)
    return _png(figure)


def _slices(measured: Measured) -> tuple[str, bytes]:
    """What each slice does right, and where there is a champion its difference to it."""
    slices = list(measured.evidence.slices.items())[:_BARS_MAX]
    names = [name for name, _ in slices][::-1]
    shares = [trials.share("int8") for _, trials in slices][::-1]
    figure, axes = _new(7, 1.2 + 0.32 * len(names))
    axes.barh(names, shares, alpha=0.5, label="right")
    for at, (_, trials) in enumerate(reversed(slices)):
        if "champion" in trials.values:
            d = paired(trials, "int8", "champion")
            axes.errorbar(
                d.difference, at, xerr=[[d.difference - d.low], [d.high - d.difference]],
                fmt="ok", markersize=3, linewidth=1,
            )  # fmt: skip
    axes.axvline(0, color="black", linewidth=0.5)
    axes.set_xlabel("share right; points: difference to the champion with its interval")
    axes.tick_params(labelsize=7)
    return _png(figure)
