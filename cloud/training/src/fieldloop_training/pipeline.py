"""One training run: dataset, training, conversion, evaluation, gates, registration.

Owns the order of the steps and what a run writes to the store. Promises that nothing is registered
before all files and figures are there, that a dataset which cannot teach anything is refused in
words before the first epoch, and that the same dataset never trains twice with the same recipe.
Runs in a process of its own (`fieldloop_training.child`), one thread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fieldloop_contract.errors import FieldloopError, RejectedInput, RetryLater
from fieldloop_contract.manifest import (
    GOLDEN_FILE,
    MODEL_FILE,
    Channel,
    Limits,
    Lineage,
    Manifest,
)
from fieldloop_models.conversion import representative_windows, to_int8
from fieldloop_models.recipe import Examples, Recipe, Trained, load_recipe
from fieldloop_scoring.golden import check_golden, golden_outputs, make_golden
from fieldloop_scoring.normalisation import normalise
from fieldloop_scoring.runners import open_runner
from fieldloop_scoring.sketch import Reference
from fieldloop_store import registry
from fieldloop_store.engine import Store
from fieldloop_training import datasets, snapshot
from fieldloop_training.baseline import fit_predict
from fieldloop_training.evaluation import confusion, figures, pick_golden, score_on_edge
from fieldloop_training.gates import Evidence, Verdict, judge
from fieldloop_training.manifests import GOLDEN_WINDOWS, complete, draft, model_card
from fieldloop_training.progress import Progress
from fieldloop_training.revision import code_revision
from fieldloop_training.settings import TrainingSettings
from fieldloop_training.splits import Labelled, Part, Span, Use, assign, use_of

PREDICT_BATCH = 256


@dataclass(frozen=True, slots=True)
class Prepared:
    """A dataset that was written down and split.

    Attributes:
        digest: of the dataset.
        uses: what each window is used for.
        recordings: int64[n], recording of each window.
        targets: int64[n], index of each window's label.
        summary: as stored with the dataset.
    """

    dataset: datasets.Dataset
    digest: str
    uses: list[Use]
    recordings: NDArray[np.int64]
    targets: NDArray[np.int64]
    summary: dict[str, Any]

    def where(self, *uses: Use) -> NDArray[np.bool_]:
        """bool[n]: the windows of these uses."""
        return np.array([u in uses for u in self.uses], np.bool_)


@dataclass(frozen=True, slots=True)
class Measured:
    """What the evaluation found: figures by candidate, the verdict, and more for the record."""

    metrics: dict[str, dict[str, float]]
    verdict: Verdict
    record: dict[str, Any]


def run(
    store: Store, settings: TrainingSettings, run_id: str, progress: Progress,
    now_ns: Callable[[], int],
) -> registry.RunState:  # fmt: skip
    """Carry out one run and record how it ended.

    Returns:
        `approved`, `rejected`, `refused` or `skipped`.

    Raises:
        RetryLater: the store is away; the run stays open for its parent to mark as failed.
    """
    try:
        recipe = load_recipe(settings.recipe, settings.recipe_object())
        prepared = _prepare(store, settings, recipe, run_id, progress, now_ns)
        earlier = _trained_before(store, settings, run_id, prepared.digest)
        if earlier:
            return _end(store, run_id, "skipped", {"words": earlier}, progress, now_ns)
        trained = _train(recipe, prepared, settings, progress)
        return _publish(store, settings, recipe, prepared, trained, run_id, progress, now_ns)
    except RetryLater:
        raise
    except FieldloopError as error:
        words = {"words": f"refused: {error}", "code": error.code}
        return _end(store, run_id, "refused", words, progress, now_ns)


def _end(
    store: Store, run_id: str, state: registry.RunState, verdict: dict[str, Any],
    progress: Progress, now_ns: Callable[[], int],
) -> registry.RunState:  # fmt: skip
    progress.report({"stage": "done"})
    registry.update_run(
        store, run_id, now_ns=now_ns(), state=state, verdict=verdict, progress=progress.last
    )
    return state


def _prepare(
    store: Store, settings: TrainingSettings, recipe: Recipe, run_id: str, progress: Progress,
    now_ns: Callable[[], int],
) -> Prepared:  # fmt: skip
    """Take the snapshot, check it, split it, write it down."""
    progress.report({"stage": "dataset"})
    snap = snapshot.take(
        store,
        fleet=settings.fleet,
        stream=settings.stream,
        plan=recipe.window_plan(),
        fallback=settings.declared_channels(),
    )
    dataset = snap.dataset
    datasets.check(dataset)
    parts = assign(
        [Labelled(r.key, r.device, r.label) for r in dataset.recordings],
        _known_parts(store, settings),
    )
    uses = _uses(dataset, parts, recipe.validation_share)
    digest, path = datasets.write(dataset, Path(settings.datasets_dir), snap.query)
    counts = {use.value: sum(u is use for u in uses) for use in Use}
    summary = {
        **dataset.summary(),
        "windows_by_use": counts,
        "parts": {key: part.value for key, part in sorted(parts.items())},
        "left_out": snap.left_out,
    }
    registry.add_dataset(
        store,
        registry.DatasetRow(
            digest, settings.fleet, snap.query, summary, str(path.resolve()), now_ns()
        ),
    )
    registry.update_run(store, run_id, now_ns=now_ns(), dataset=digest)
    if not counts[Use.HELD.value]:
        raise RejectedInput(
            "no window can be held out",
            code="dataset.too-few",
            hint="label more recordings, or longer ones",
        )
    index = {label: k for k, label in enumerate(dataset.labels)}
    of = [p.recording for p in dataset.places]
    targets = [index[dataset.recordings[i].label] for i in of]
    return Prepared(
        dataset, digest, uses, np.array(of, np.int64), np.array(targets, np.int64), summary
    )


def _known_parts(store: Store, settings: TrainingSettings) -> dict[str, Part]:
    """Parts that recordings were given in the newest dataset of this model that still stands."""
    for row in registry.list_runs(store, settings.fleet, model=settings.model):
        found = registry.find_dataset(store, row.dataset) if row.dataset else None
        if found is not None:
            stored = found.summary.get("parts")
            return {k: Part(v) for k, v in stored.items()} if isinstance(stored, dict) else {}
    return {}


def _uses(dataset: datasets.Dataset, parts: dict[str, Part], validation_share: float) -> list[Use]:
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for p in dataset.places:
        first[p.recording] = min(first.get(p.recording, p.t0_ns), p.t0_ns)
        last[p.recording] = max(last.get(p.recording, p.t1_ns), p.t1_ns)
    return [
        use_of(
            parts[dataset.recordings[p.recording].key],
            Span(p.t0_ns, p.t1_ns, first[p.recording], last[p.recording]),
            validation_share,
        )
        for p in dataset.places
    ]


def _trained_before(store: Store, settings: TrainingSettings, run_id: str, digest: str) -> str:
    """In words, which run has used this dataset with this recipe; "" where none has."""
    made_by = {m.run for m in registry.list_models(store, settings.fleet, dataset=digest)}
    for row in registry.list_runs(store, settings.fleet, model=settings.model, dataset=digest):
        same = (
            row.id != run_id
            and row.recipe == settings.recipe
            and row.settings == settings.recipe_object()
        )
        if same and (row.state in ("approved", "rejected", "refused") or row.id in made_by):
            return f"dataset {digest[:12]} was trained on by run {row.id[:12]} already"
    return ""


def _train(
    recipe: Recipe, prepared: Prepared, settings: TrainingSettings, progress: Progress
) -> Trained:
    chosen = prepared.where(Use.FIT, Use.VALIDATION)
    examples = Examples(
        samples=prepared.dataset.samples[chosen],
        labels=prepared.targets[chosen],
        recordings=prepared.recordings[chosen],
        validation=prepared.where(Use.VALIDATION)[chosen],
    )
    progress.report({"stage": "training", "windows": int(chosen.sum())})
    return recipe.train(
        examples,
        channels=prepared.dataset.spec.channels,
        labels=prepared.dataset.labels,
        rate_hz=prepared.dataset.spec.rate_hz,
        normalise=normalise,
        seed=settings.seed,
        report=progress.report,
    )


def _publish(
    store: Store, settings: TrainingSettings, recipe: Recipe, prepared: Prepared,
    trained: Trained, run_id: str, progress: Progress, now_ns: Callable[[], int],
) -> registry.RunState:  # fmt: skip
    """Convert, evaluate, judge and register."""
    dataset, labels = prepared.dataset, prepared.dataset.labels
    progress.report({"stage": "conversion"})
    fit = dataset.samples[prepared.where(Use.FIT)]
    normalised = normalise(fit, trained.normalisation)
    names = [c.name for c in dataset.spec.channels]
    model = to_int8(trained.model, representative_windows(normalised, settings.seed), names)
    manifest = draft(
        name=settings.model,
        version=registry.next_version(store, settings.fleet, settings.model),
        spec=dataset.spec,
        normalisation=trained.normalisation,
        labels=labels,
        model=model,
        limits=Limits(),
    )
    progress.report({"stage": "evaluation"})
    champion = _champion(store, settings)
    measured = _measure(store, settings, prepared, trained, manifest, model, champion)
    golden, count, step = _golden(manifest, model, prepared)
    manifest = complete(
        manifest,
        golden=golden,
        golden_count=count,
        output_step=step,
        drift_reference=Reference.of(normalised).to_object(),
        lineage=_lineage(recipe, prepared, measured, manifest, run_id, champion),
    )
    report = check_golden(manifest, golden, open_runner(model))
    if not report.passed:
        raise RejectedInput(f"its own golden vectors fail: {report.message}", code="golden.failed")
    progress.report({"stage": "registration"})
    state: Literal["approved", "rejected"] = "approved" if measured.verdict.approved else "rejected"
    registry.register_model(
        store,
        fleet=settings.fleet,
        manifest=manifest,
        files={MODEL_FILE: model, GOLDEN_FILE: golden},
        run=run_id,
        metrics={**measured.metrics, **measured.record, "history": trained.history},
        state=state,
        now_ns=now_ns(),
    )
    verdict = measured.verdict.to_object() | {
        "version": manifest.version,
        "digest": manifest.digest(),
        "bytes": len(model),
        "metrics": measured.metrics,
    }
    return _end(store, run_id, state, verdict, progress, now_ns)


def _lineage(
    recipe: Recipe, prepared: Prepared, measured: Measured, manifest: Manifest, run_id: str,
    champion: Manifest | None,
) -> Lineage:  # fmt: skip
    """What made this version, with its model card."""
    summary = prepared.summary
    counts = {
        "windows": len(prepared.dataset.places),
        "recordings": len(prepared.dataset.recordings),
        "devices": len(summary["windows_by_device"]),
    }
    counts |= {f"windows_{use}": n for use, n in summary["windows_by_use"].items()}
    return Lineage(
        dataset=prepared.digest,
        run=run_id,
        recipe=recipe.name,
        code=code_revision(),
        parent=champion.ref() if champion else None,
        metrics=measured.metrics,
        counts=counts,
        model_card=model_card(
            name=manifest.name,
            version=manifest.version,
            about=recipe.model_card(prepared.dataset.spec.channels, prepared.dataset.labels),
            summary=summary,
            metrics=measured.metrics,
            verdict=measured.verdict,
        ),
    )


def _champion(store: Store, settings: TrainingSettings) -> Manifest | None:
    """The manifest of the newest approved version, with its files checked."""
    approved = registry.list_models(store, settings.fleet, name=settings.model, state="approved")
    return registry.load_bundle(store, approved[-1].digest)[0] if approved else None


def _measure(
    store: Store, settings: TrainingSettings, prepared: Prepared, trained: Trained,
    manifest: Manifest, model: bytes, champion: Manifest | None,
) -> Measured:  # fmt: skip
    """Score the held-out windows by int8 file, float model, baseline and champion, and judge."""
    held, fit = prepared.where(Use.HELD), prepared.where(Use.FIT)
    samples, wanted = prepared.dataset.samples[held], prepared.targets[held]
    recordings, labels = prepared.recordings[held], prepared.dataset.labels
    edge = score_on_edge(manifest, model, samples)
    inputs = normalise(samples, trained.normalisation)
    float_outputs = np.concatenate(
        [
            np.asarray(trained.model(inputs[i : i + PREDICT_BATCH], training=False))
            for i in range(0, len(inputs), PREDICT_BATCH)
        ]
    )
    named = {
        "int8": edge.probabilities.argmax(axis=1),
        "float": float_outputs.argmax(axis=1),
        "baseline": fit_predict(prepared.dataset.samples[fit], prepared.targets[fit], samples),
    }
    note = ""
    if champion is not None:
        note = _incomparable(champion, manifest)
        if not note:
            files = registry.load_bundle(store, champion.digest())[1]
            said = score_on_edge(champion, files[MODEL_FILE], samples).probabilities
            index = {label: k for k, label in enumerate(labels)}
            translate = np.array([index.get(x, -1) for x in champion.outputs[0].labels])
            named["champion"] = translate[said.argmax(axis=1)]
    commonest = np.bincount(prepared.targets[fit]).argmax()
    agreement = float((named["int8"] == named["float"]).mean())
    verdict = judge(
        Evidence(
            recordings=recordings,
            int8=named["int8"] == wanted,
            float32=named["float"] == wanted,
            baseline=named["baseline"] == wanted,
            champion=named["champion"] == wanted if "champion" in named else None,
            champion_note=note,
            majority=np.full(len(wanted), commonest) == wanted,
            agreement=agreement,
            model_bytes=len(model),
            bytes_max=settings.bytes_max,
            latency_ms=edge.latency_us[1] / 1e3,
            latency_ms_max=manifest.limits.latency_ms_max,
        )
    )
    return Measured(
        metrics={k: figures(v, wanted, recordings, len(labels)) for k, v in named.items()},
        verdict=verdict,
        record={
            "gates": verdict.to_object()["gates"],
            "agreement": agreement,
            "bytes": len(model),
            "latency_us": {"p50": edge.latency_us[0], "p95": edge.latency_us[1]},
            "confusion": confusion(named["int8"], wanted, labels),
        },
    )


def _incomparable(champion: Manifest, challenger: Manifest) -> str:
    """Why the two cannot be scored on the same windows; "" where they can."""
    a, b = champion.inputs[0], challenger.inputs[0]
    if _signal(a.channels, a.rate_hz) != _signal(b.channels, b.rate_hz):
        return "the champion takes other channels or another rate"
    if a.window_samples != b.window_samples:
        return "the champion takes windows of another length"
    return ""


def _signal(channels: list[Channel], rate_hz: float) -> tuple[list[tuple[str, str]], float]:
    return [(c.name, c.unit) for c in channels], rate_hz


def _golden(manifest: Manifest, model: bytes, prepared: Prepared) -> tuple[bytes, int, float]:
    """Golden vectors in the edge runtime: file, count, and the output's quantization step."""
    held = np.nonzero(prepared.where(Use.HELD))[0]
    chosen = held[pick_golden(prepared.targets[held], GOLDEN_WINDOWS)]
    runner = open_runner(model)
    inputs = prepared.dataset.samples[chosen]
    outputs = golden_outputs(manifest, inputs, runner)
    return make_golden(inputs, outputs), len(chosen), runner.outputs[0].scale
