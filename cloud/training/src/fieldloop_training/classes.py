"""Measuring a classification: converted file, float model, baseline and champion, side by side."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fieldloop_training.baseline import fit_predict
from fieldloop_training.candidates import (
    DEVICES_MIN,
    Champion,
    Made,
    Measured,
    independent_units,
)
from fieldloop_training.context import Context
from fieldloop_training.edge import score_on_edge
from fieldloop_training.evaluation import confusion, figures
from fieldloop_training.gates import FROZEN, HELD, RECENT, Bound, Evidence, judge
from fieldloop_training.preparing import Prepared
from fieldloop_training.slices import masks
from fieldloop_training.splits import Use
from fieldloop_training.statistics import Trials

UNSEEN = "devices never seen"
"""Slice of the devices that were held out whole."""


def measure(
    context: Context, prepared: Prepared, made: Made, champion: Champion | None
) -> Measured:
    """Score the held-out windows by every candidate and judge.

    Raises:
        Isolate: the edge runtime refuses a file.
    """
    held, fit = prepared.where(Use.HELD), prepared.where(Use.FIT)
    samples, wanted = prepared.dataset.samples[held], prepared.targets[held]
    recordings, labels = prepared.recordings[held], prepared.labels
    edge = score_on_edge(made.manifest, made.model, samples)
    floats = score_on_edge(made.float_manifest, made.float_model, samples)
    named = {
        "int8": _named(edge.outputs, made.manifest.outputs[0].labels, labels),
        "float": _named(floats.outputs, made.float_manifest.outputs[0].labels, labels),
        "baseline": fit_predict(prepared.dataset.samples[fit], prepared.targets[fit], samples),
    }
    if champion is not None and not champion.note:
        said = score_on_edge(champion.manifest, champion.model, samples)
        named["champion"] = _named(said.outputs, champion.manifest.outputs[0].labels, labels)
    commonest = int(np.bincount(prepared.targets[fit]).argmax())
    values = {k: (v == wanted).astype(np.float64) for k, v in named.items()}
    values["majority"] = (wanted == commonest).astype(np.float64)
    units, unit = independent_units(
        prepared.device_numbers()[held], recordings, "devices", DEVICES_MIN
    )
    trials = Trials(units, values)
    sets = {HELD: trials}
    recent: dict[str, float] = {}
    if "champion" in named:
        frozen = prepared.is_frozen()[held]
        differs = (named["int8"] != named["champion"])[~frozen]
        if len(differs):
            recent = {"disagreement": float(differs.mean()), "windows": float(len(differs))}
        parts = {FROZEN: frozen, RECENT: ~frozen}
        sets |= {name: trials.where(mask) for name, mask in parts.items() if mask.any()}
    names = [s for s, out in zip(prepared.slices(), held, strict=True) if out]
    slices = {name: trials.where(mask) for name, mask in masks(names).items()}
    unseen = prepared.is_unseen()[held]
    if unseen.any():
        slices[UNSEEN] = trials.where(unseen)
    limits = made.manifest.limits
    evidence = Evidence(
        task="classification",
        sets=sets,
        slices=slices,
        agreement=float((named["int8"] == named["float"]).mean()),
        bounds=[
            Bound("size", len(made.model), context.options.bytes_max, "bytes"),
            Bound("latency", round(edge.latency_us[1] / 1e3, 4), limits.latency_ms_max, "ms"),
            Bound("memory", edge.memory_bytes, limits.memory_bytes_max, "bytes"),
        ],
        champion_note=champion.note if champion else "",
        replaced_by_hand=context.options.replace_champion,
        looks=prepared.frozen.looks if prepared.frozen else 0,
        unit=unit,
    )
    verdict = judge(evidence)
    return Measured(
        metrics={k: figures(v, wanted, recordings, len(labels)) for k, v in named.items()},
        evidence=evidence,
        verdict=verdict,
        record={
            "gates": verdict.to_object()["gates"],
            "agreement": evidence.agreement,
            "bytes": len(made.model),
            "latency_us": {"p50": edge.latency_us[0], "p95": edge.latency_us[1]},
            "memory_bytes": edge.memory_bytes,
            "runtime": edge.runtime,
            "confusion": confusion(named["int8"], wanted, labels),
            "recent": recent,
            "unseen": _unseen(slices.get(UNSEEN), prepared.device_numbers()[held][unseen]),
        },
        drawn={"probabilities": edge.outputs, "float": floats.outputs, "wanted": wanted},
    )


def _unseen(trials: Trials | None, devices: NDArray[np.int64]) -> dict[str, float]:
    """Accuracy on devices that were held out whole; empty where there are none."""
    if trials is None:
        return {}
    return {
        "accuracy": float(trials.values["int8"].mean()),
        "baseline": float(trials.values["baseline"].mean()),
        "devices": float(len(np.unique(devices))),
        "windows": float(len(devices)),
    }


def _named(outputs: NDArray[np.float32], own: list[str], labels: list[str]) -> NDArray[np.int64]:
    """The label that a model names, as an index into the dataset's labels; -1 for another one."""
    index = {label: k for k, label in enumerate(labels)}
    translate = np.array([index.get(label, -1) for label in own], np.int64)
    named: NDArray[np.int64] = translate[outputs.argmax(axis=1)]
    return named
