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
    RunningWhen,
)
from fieldloop_models.recipe import Task
from fieldloop_training.gates import Verdict

GOLDEN_WINDOWS = 8
GOLDEN_STEPS = 3
"""The two TFLite runtimes differ by up to 3 quantization steps of the output."""
CARD_CHARS_MAX = 30_000


def draft(
    *,
    name: str,
    version: int,
    task: Task,
    spec: Input,
    normalisation: Normalisation,
    outputs: list[Output],
    model: bytes,
    limits: Limits,
    running_when: RunningWhen | None = None,
) -> Manifest:
    """The manifest without golden vectors and lineage: enough to score with."""
    return Manifest(
        name=name,
        version=version,
        task=task,
        files={MODEL_FILE: FileRef.of(model), GOLDEN_FILE: FileRef.of(b"\0")},
        inputs=[spec.model_copy(update={"normalisation": normalisation})],
        outputs=outputs,
        golden=Golden(count=1, tolerance=1.0),
        limits=limits,
        running_when=running_when,
    )


def complete(
    manifest: Manifest,
    *,
    version: int,
    golden: bytes,
    golden_count: int,
    output_step: float,
    drift_reference: dict[str, Any],
    lineage: Lineage,
) -> Manifest:
    """Add version, golden vectors, drift reference and lineage to a draft.

    Args:
        output_step: quantization step of the output tensor; 0 where it is float.
    """
    tolerance = GOLDEN_STEPS * output_step if output_step else 1e-4
    return manifest.model_copy(
        update={
            "version": version,
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
    words: str,
    summary: Mapping[str, Any],
    metrics: Mapping[str, Mapping[str, float]],
    verdict: Verdict,
    plots: Sequence[str],
    unseen: Mapping[str, float] | None = None,
) -> str:
    """The model card as Markdown: the recipe's part, the data, the figures, the gates.

    Args:
        words: how the threshold came about, or "".
        plots: names of the run's plots.
        unseen: figures on devices that were held out whole; None or empty where there are none.
    """
    devices = summary["windows_by_device"]
    columns = sorted({k for figures in metrics.values() for k in figures})
    lines = [
        f"# {name} version {version}",
        "",
        about.rstrip(),
        "",
        *([words, ""] if words else []),
        "## Data",
        "",
        f"{summary['windows']} windows of {summary['recordings']} recordings from "
        f"{len(devices)} devices; {summary['windows_by_use'].get('held', 0)} windows held out.",
        "",
        "| label | windows |",
        "|---|---|",
        *(f"| {label} | {n} |" for label, n in summary["windows_by_label"].items()),
        "",
        "## Figures on what was held out",
        "",
        f"| candidate | {' | '.join(c.replace('_', ' ') for c in columns)} |",
        "|---" * (len(columns) + 1) + "|",
        *(
            f"| {what} | {' | '.join(_figure(m.get(c)) for c in columns)} |"
            for what, m in metrics.items()
        ),
        "",
        _on_unseen(unseen),
        "",
        "## Gates",
        "",
        verdict.words,
        "",
        *(f"- {g.name}: {g.outcome}; {g.words}" for g in verdict.gates),
        "",
        "## Plots",
        "",
        *(f"![{p.rsplit('.', 1)[0]}]({p})" for p in plots),
        "",
    ]
    return "\n".join(lines)[:CARD_CHARS_MAX]


def _on_unseen(unseen: Mapping[str, float] | None) -> str:
    if not unseen:
        return (
            "What is held out is of the same devices as what was learnt; a device that was never "
            "seen may do worse."
        )
    return (
        f"On {unseen['devices']:.0f} devices of which nothing was learnt ({unseen['windows']:.0f} "
        f"windows): {unseen['accuracy']:.3f}, the baseline {unseen['baseline']:.3f}."
    )


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if value == int(value) and abs(value) > 1 else f"{value:.3f}"
