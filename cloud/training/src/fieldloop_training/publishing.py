"""The last stage of a run: golden vectors, drift reference, model card, and one transaction.

Everything is made before anything is registered; version, files, plots, verdict and the end of the
run are then one transaction of the store. One thread.
"""

from __future__ import annotations

import json
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fieldloop_contract.errors import RejectedInput, RetryLater
from fieldloop_contract.manifest import GOLDEN_FILE, MODEL_FILE, Lineage, Manifest, Requires
from fieldloop_scoring.driftlimit import drift_reference
from fieldloop_scoring.golden import check_golden, golden_outputs, make_golden
from fieldloop_scoring.normalisation import normalise
from fieldloop_scoring.runners import open_runner
from fieldloop_scoring.runners.operators import required
from fieldloop_store import registry
from fieldloop_store.artefacts import ARTEFACT_BYTES_MAX
from fieldloop_training import pictures
from fieldloop_training.candidates import Champion, Made, Measured
from fieldloop_training.context import Context
from fieldloop_training.evaluation import pick_golden
from fieldloop_training.fitting import KEPT_ARTEFACT, WEIGHTS_ARTEFACT, window_keys
from fieldloop_training.manifests import GOLDEN_WINDOWS, complete, model_card
from fieldloop_training.preparing import Prepared
from fieldloop_training.progress import Stopped
from fieldloop_training.revision import code_revision
from fieldloop_training.splits import Use

RACES_MAX = 5
DRIFT_WINDOWS_MAX = 500
DRIFT_REPLICATES = 200
State = Literal["approved", "rejected"]


def publish(
    context: Context, prepared: Prepared, made: Made, measured: Measured,
    champion: Champion | None,
) -> State:  # fmt: skip
    """Register the version and end the run.

    Returns:
        `approved`, or `rejected`, which is kept for inspection and never rolled out.

    Raises:
        RejectedInput: the file fails its own golden vectors.
        Stopped: the run is another's.
    """
    context.progress.report({"stage": "registration"})
    golden, count, step = _golden(made, prepared)
    reference = _drift_reference(made, prepared)
    plots = pictures.of_run(measured, made.history)
    state: State = "approved" if measured.verdict.approved else "rejected"
    files = {MODEL_FILE: made.model, GOLDEN_FILE: golden}
    requires = Requires(ops=required(made.model))
    draft = made.manifest.model_copy(update={"requires": requires})
    for _ in range(RACES_MAX):
        version = registry.next_version(context.store, context.fleet, context.model)
        manifest = complete(
            draft, version=version, golden=golden, golden_count=count, output_step=step,
            drift_reference=reference,
            lineage=_lineage(context, prepared, made, measured, champion, version, list(plots)),
        )  # fmt: skip
        report = check_golden(manifest, golden, open_runner(made.model))
        if not report.passed:
            raise RejectedInput(
                f"its own golden vectors fail: {report.message}", code="golden.failed"
            )
        result = registry.Result(
            run=context.run.id, owner=context.owner,
            verdict=measured.verdict.to_object() | {
                "version": version, "digest": manifest.digest(), "bytes": len(made.model),
                "metrics": measured.metrics,
            },
            artefacts=plots | _files(prepared, made, manifest),
            frozen=_looked(prepared, measured),
            progress=context.progress.ended(),
        )  # fmt: skip
        try:
            mine = registry.publish(
                context.store, result, fleet=context.fleet, manifest=manifest, files=files,
                metrics={
                    **measured.metrics, **measured.record, "history": made.history,
                    "warm_from": made.warm_from,
                },
                state=state, now_ns=context.now_ns(),
            )  # fmt: skip
        except (RejectedInput, RetryLater) as error:
            # Another run took the version in between: this one is the next.
            if error.code not in ("registry.version-taken", "registry.race"):
                raise
            continue
        if not mine:
            raise Stopped("lost")
        return state
    raise RetryLater("other runs took every version", code="registry.race")


def _looked(prepared: Prepared, measured: Measured) -> int | None:
    """Number of the frozen set, where a champion was compared on it."""
    compared = prepared.frozen is not None and measured.evidence.champion
    return prepared.frozen.number if prepared.frozen and compared else None


def _files(prepared: Prepared, made: Made, manifest: Manifest) -> pictures.Plots:
    """Card, history, weights and representative windows, for people and for later runs."""
    keys = window_keys(prepared)
    files = {
        "card.md": ("text/markdown", manifest.lineage.model_card.encode()),
        KEPT_ARTEFACT: (
            "application/json", json.dumps([keys[i] for i in made.representative]).encode(),
        ),
    }  # fmt: skip
    if made.weights is not None and len(made.weights) <= ARTEFACT_BYTES_MAX:
        files[WEIGHTS_ARTEFACT] = ("application/octet-stream", made.weights)
    return files


def _lineage(
    context: Context, prepared: Prepared, made: Made, measured: Measured,
    champion: Champion | None, version: int, plots: list[str],
) -> Lineage:  # fmt: skip
    """What made this version, with its model card.

    `recent` says how often it disagrees with its parent on the recent set: a better model must
    disagree somewhere, and a rollout's shadow is judged against it.
    """
    summary = prepared.summary
    recent = measured.record.get("recent")
    counts = {
        "windows": len(prepared.dataset.places),
        "recordings": len(prepared.dataset.recordings),
        "devices": len(summary["windows_by_device"]),
    }
    counts |= {f"windows_{use}": n for use, n in summary["windows_by_use"].items()}
    card = model_card(
        name=context.model, version=version, about=made.about, words=made.words, summary=summary,
        metrics=measured.metrics, verdict=measured.verdict, plots=plots,
        unseen=measured.record.get("unseen"),
    )  # fmt: skip
    return Lineage(
        dataset=prepared.digest,
        run=context.run.id,
        recipe="imported" if context.options.imported else context.run.recipe,
        code=code_revision(),
        parent=champion.manifest.ref() if champion else None,
        metrics={**measured.metrics, **({"recent": recent} if recent else {})},
        counts=counts,
        model_card=card,
    )


def _golden(made: Made, prepared: Prepared) -> tuple[bytes, int, float]:
    """Golden vectors in the edge runtime: file, count, and the output's quantization step."""
    held = np.nonzero(prepared.where(Use.HELD))[0]
    groups = prepared.targets if prepared.labels else prepared.is_healthy().astype(np.int64)
    chosen = held[pick_golden(groups[held], GOLDEN_WINDOWS)]
    runner = open_runner(made.model)
    inputs = prepared.dataset.samples[chosen]
    outputs = golden_outputs(made.manifest, inputs, runner)
    return make_golden(inputs, outputs), len(chosen), runner.outputs[0].scale


def _drift_reference(made: Made, prepared: Prepared) -> dict[str, Any]:
    """Bins, policy and limit from the fitted recordings, each an unbroken run of windows."""
    spec, fit = prepared.dataset.spec, prepared.where(Use.FIT)
    if prepared.task == "anomaly":
        fit = fit & prepared.is_healthy()
    runs: list[NDArray[np.float32]] = []
    left = DRIFT_WINDOWS_MAX
    order = np.random.default_rng(0).permutation(np.unique(prepared.recordings[fit]))
    for recording in order:
        windows = prepared.dataset.samples[fit & (prepared.recordings == recording)][:left]
        runs.append(normalise(windows, made.manifest.inputs[0].normalisation))
        left -= len(windows)
        if left <= 0:
            break
    return drift_reference(
        runs, window_period_s=spec.hop_samples / spec.rate_hz, replicates=DRIFT_REPLICATES
    )
