"""What is compared in a run: files with their manifests, each scored once in the edge runtime."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop_contract.manifest import MODEL_FILE, Channel, Manifest, Normalisation
from fieldloop_store import registry
from fieldloop_training.context import Context
from fieldloop_training.gates import Evidence, Verdict

DEVICES_MIN = 10
"""With fewer devices among the held-out windows, what is independent is taken to be a recording."""


@dataclass(frozen=True, slots=True)
class Made:
    """What training and conversion made, or a person brought.

    Attributes:
        manifest: enough to score with; golden vectors and lineage come later.
        model: the `.tflite` file.
        float_manifest, float_model: the same model without quantization; the same file where a
            person brought it.
        history: figures by epoch.
        weights: for a later warm start; None where there are none.
        representative: int64[k], the windows that the quantization was calibrated on.
        about: the recipe's part of the model card.
        words: how the threshold came about, or "".
        warm_from: digest of the champion that it began from.
    """

    manifest: Manifest
    model: bytes
    float_manifest: Manifest
    float_model: bytes
    history: list[dict[str, float]]
    weights: bytes | None
    normalisation: Normalisation
    representative: list[int]
    about: str
    words: str = ""
    warm_from: str | None = None


@dataclass(frozen=True, slots=True)
class Champion:
    """The newest approved version, with its files; `note` where it cannot be compared."""

    manifest: Manifest
    model: bytes
    note: str


@dataclass(frozen=True, slots=True)
class Measured:
    """What the evaluation found.

    Attributes:
        metrics: figures by candidate; finite numbers only.
        evidence: what the gates were given.
        record: more for the registry: gates, agreement, bytes, latency, confusion.
        drawn: what the plots are made of.
    """

    metrics: dict[str, dict[str, float]]
    evidence: Evidence
    verdict: Verdict
    record: dict[str, Any]
    drawn: dict[str, Any] = field(default_factory=dict)


def find_champion(context: Context, challenger: Manifest) -> Champion | None:
    """The newest approved version, or None before the first.

    Raises:
        Isolate: it is damaged in the store.
    """
    approved = registry.list_models(
        context.store, context.fleet, name=context.model, state="approved"
    )
    if not approved:
        return None
    manifest, files = registry.load_bundle(context.store, approved[-1].digest)
    return Champion(manifest, files[MODEL_FILE], incomparable(manifest, challenger))


def incomparable(champion: Manifest, challenger: Manifest) -> str:
    """Why the two cannot be scored on the same windows; "" where they can."""
    if champion.task != challenger.task:
        return f"the champion does {champion.task}"
    a, b = champion.inputs[0], challenger.inputs[0]
    if _signal(a.channels, a.rate_hz) != _signal(b.channels, b.rate_hz):
        return "the champion takes other channels or another rate"
    if a.window_samples != b.window_samples:
        return "the champion takes windows of another length"
    if champion.task == "anomaly" and champion.outputs[0].threshold is None:
        return "the champion has no threshold of its own"
    return ""


def _signal(channels: list[Channel], rate_hz: float) -> tuple[list[tuple[str, str]], float]:
    return [(c.name, c.unit) for c in channels], rate_hz


def independent_units(
    groups: NDArray[np.int64], recordings: NDArray[np.int64], group_name: str, least: int
) -> tuple[NDArray[np.int64], str]:
    """What counts as independent: devices or machines where there are enough, else recordings."""
    if len(np.unique(groups)) >= least:
        return groups, group_name
    return recordings, "recordings"
