"""Writing the manifest and the model card of a trained version. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fieldloop_contract.manifest import (
    GOLDEN_FILE,
    MODEL_FILE,
    FileRef,
    Golden,
    Input,
    Limits,
    Lineage,
    Manifest,
    Normalisation,
    Output,
)
from fieldloop_training.gates import Verdict

GOLDEN_WINDOWS = 8
GOLDEN_STEPS = 3
"""The two TFLite runtimes differ by up to 3 quantization steps of the output."""
CARD_CHARS_MAX = 30_000


def draft(
    *,
    name: str,
    version: int,
    spec: Input,
    normalisation: Normalisation,
    labels: Sequence[str],
    model: bytes,
    limits: Limits,
) -> Manifest:
    """The manifest without golden vectors and lineage: enough to score with."""
    return Manifest(
        name=name,
        version=version,
        task="classification",
        files={MODEL_FILE: FileRef.of(model), GOLDEN_FILE: FileRef.of(b"\0")},
        inputs=[spec.model_copy(update={"normalisation": normalisation})],
        outputs=[Output(name="activity", kind="probabilities", labels=list(labels))],
        golden=Golden(count=1, tolerance=1.0),
        limits=limits,
    )


def complete(
    manifest: Manifest,
    *,
    golden: bytes,
    golden_count: int,
    output_step: float,
    drift_reference: dict[str, Any],
    lineage: Lineage,
) -> Manifest:
    """Add golden vectors, drift reference and lineage to a draft.

    Args:
        output_step: quantization step of the output tensor; 0 where it is float.
    """
    tolerance = GOLDEN_STEPS * output_step if output_step else 1e-4
    return manifest.model_copy(
        update={
            "files": {**manifest.files, GOLDEN_FILE: FileRef.of(golden)},
            "golden": Golden(count=golden_count, tolerance=tolerance),
            "drift_reference": drift_reference,
            "lineage": lineage,
        }
    )


def model_card(
    *,
    name: str,
    version: int,
    about: str,
    summary: Mapping[str, Any],
    metrics: Mapping[str, Mapping[str, float]],
    verdict: Verdict,
) -> str:
    """The model card as Markdown: the recipe's part, the data, the figures, the gates."""
    devices = summary["windows_by_device"]
    lines = [
        f"# {name} version {version}",
        "",
        about.rstrip(),
        "",
        "## Data",
        "",
        f"{summary['windows']} windows of {summary['recordings']} recordings from "
        f"{len(devices)} devices; {summary['windows_by_use'].get('held', 0)} windows held out.",
        "",
        "| label | windows |",
        "|---|---|",
        *(f"| {label} | {n} |" for label, n in summary["windows_by_label"].items()),
        "",
        "## Figures on the held-out recordings",
        "",
        "| what | accuracy by window | mean recall | accuracy by recording |",
        "|---|---|---|---|",
        *(
            f"| {what} | {m['accuracy']:.3f} | {m['recall_mean']:.3f} "
            f"| {m['recording_accuracy']:.3f} |"
            for what, m in metrics.items()
        ),
        "",
        "The held-out recordings are of the same devices as the training ones; a device that was "
        "never seen may do worse.",
        "",
        "## Gates",
        "",
        *(f"- {g.name}: {g.outcome}; {g.words}" for g in verdict.gates),
        "",
    ]
    return "\n".join(lines)[:CARD_CHARS_MAX]
