"""The training and conversion stages of a run, and what they leave for the next attempt.

Training goes on from the recipe's checkpoints. Once the files are converted they are kept in the
run's folder, so that an attempt after a kill begins at the evaluation. A model that a person brings
(`imported`) comes in here instead. TensorFlow is imported when a training begins. One thread.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from fieldloop_contract.errors import FixConfiguration, MalformedMessage, RejectedInput
from fieldloop_contract.manifest import MODEL_FILE, FileRef, Manifest, Normalisation, parse_manifest
from fieldloop_models import weights
from fieldloop_models.conversion import REPRESENTATIVE_MAX, convert
from fieldloop_models.recipe import AnomalyRecipe, Examples, Recipe, Start, Trained
from fieldloop_models.thresholds import check_saturation, largest_score
from fieldloop_scoring.normalisation import normalise
from fieldloop_scoring.runners import open_runner
from fieldloop_store import artefacts, registry
from fieldloop_training.anomalies import calibration_scores
from fieldloop_training.candidates import Made
from fieldloop_training.context import Context
from fieldloop_training.edge import score_on_edge
from fieldloop_training.manifests import draft
from fieldloop_training.preparing import ANOMALY, Prepared
from fieldloop_training.splits import Use
from fieldloop_training.workplace import TrainingState, Workplace

WEIGHTS_ARTEFACT, KEPT_ARTEFACT = "weights.npz", "representative.npz"
IMPORTED_MODEL, IMPORTED_MANIFEST = "imported.tflite", "imported.json"
WEIGHTS_BYTES_MAX = 8 << 20
"""Larger weights are not kept, and such a model cannot be begun from."""


def make(context: Context, prepared: Prepared, recipe: Recipe) -> Made:
    """Train and convert, or go on with what an attempt before has left.

    Raises:
        RejectedInput: the data cannot teach this recipe, said before any epoch.
        Isolate: the converter or the edge runtime refuses the model.
        Stopped: the run has to end.
    """
    left = _left(context.place, prepared)
    if left is not None:
        return left
    start, warm_from = _start(context, recipe)
    trained = _train(context, prepared, recipe, start)
    made = _convert(context, prepared, recipe, trained, warm_from)
    _keep(context.place, prepared, made)
    return made


def _train(context: Context, prepared: Prepared, recipe: Recipe, start: Start | None) -> Trained:
    teaching = prepared.where(Use.FIT, Use.VALIDATION, Use.CALIBRATION)
    if prepared.task == ANOMALY:
        teaching &= prepared.is_healthy()
    examples = Examples(
        samples=prepared.dataset.samples[teaching],
        labels=prepared.targets[teaching],
        recordings=prepared.recordings[teaching],
        validation=prepared.where(Use.VALIDATION)[teaching],
        calibration=prepared.where(Use.CALIBRATION)[teaching],
    )
    context.progress.report({"stage": "training", "windows": int(teaching.sum())})
    trained = recipe.train(
        examples,
        channels=prepared.dataset.spec.channels,
        labels=prepared.labels,
        rate_hz=prepared.dataset.spec.rate_hz,
        normalise=normalise,
        seed=context.options.seed,
        report=context.progress.report,
        start=start,
        checkpoints=TrainingState(context.place),
    )
    context.progress.write()
    return trained


def _start(context: Context, recipe: Recipe) -> tuple[Start | None, str | None]:
    """The champion's weights, where the run shall begin from them, and its digest."""
    options = context.options
    if options.start == "fresh":
        return None, None
    if not recipe.reuse.warm_start or (options.head_only and not recipe.reuse.head):
        raise FixConfiguration(
            f"recipe {recipe.name} cannot begin from an earlier model"
            + (" and train its head only" if options.head_only else ""),
            code="run.start", hint="start fresh",
        )  # fmt: skip
    approved = registry.list_models(
        context.store, context.fleet, name=context.model, state="approved"
    )
    found = None
    if approved and approved[-1].run:
        found = artefacts.load_artefact(context.store, approved[-1].run, WEIGHTS_ARTEFACT)
    if found is None:
        raise FixConfiguration(
            f"there is no champion of {context.model} whose weights are kept",
            code="run.start", hint="start fresh",
        )  # fmt: skip
    manifest, _ = registry.load_bundle(context.store, approved[-1].digest)
    start = Start(found[1], manifest.inputs[0].normalisation, options.head_only)
    return start, approved[-1].digest


def _convert(
    context: Context, prepared: Prepared, recipe: Recipe, trained: Trained, warm_from: str | None
) -> Made:
    context.progress.report({"stage": "conversion"})
    options, spec = context.options, prepared.dataset.spec
    chosen = _representative(context, prepared)
    representative = normalise(prepared.dataset.samples[chosen], trained.normalisation)
    names = [c.name for c in spec.channels]
    unseen = tuple(getattr(getattr(recipe, "settings", None), "unscored", ()))
    model = convert(trained, representative, names, options.variant, unseen=unseen)
    plain = convert(trained, representative, names, "float32", unseen=unseen)
    common: dict[str, Any] = {
        "name": context.model, "version": 1, "task": recipe.task, "spec": spec,
        "normalisation": trained.normalisation, "outputs": list(trained.outputs),
        "limits": recipe.limits(), "running_when": options.running_when,
    }  # fmt: skip
    manifest, plain_manifest = draft(model=model, **common), draft(model=plain, **common)
    words = ""
    if recipe.task == ANOMALY:
        if not isinstance(recipe, AnomalyRecipe):
            raise FixConfiguration(f"recipe {recipe.name} decides no threshold", code="recipe.task")
        manifest, words = _decide(prepared, recipe, manifest, model)
        plain_manifest, _ = _decide(prepared, recipe, plain_manifest, plain)
    packed = weights.pack(trained.model)
    return Made(
        manifest=manifest, model=model, float_manifest=plain_manifest, float_model=plain,
        history=trained.history, weights=packed if len(packed) <= WEIGHTS_BYTES_MAX else None,
        normalisation=trained.normalisation, representative=[int(i) for i in chosen],
        about=recipe.model_card(spec.channels, prepared.labels), words=words, warm_from=warm_from,
    )  # fmt: skip


def _decide(
    prepared: Prepared, recipe: AnomalyRecipe, manifest: Manifest, model: bytes
) -> tuple[Manifest, str]:
    """Threshold and rules from the file's own scores of the calibration windows."""
    samples = prepared.dataset.samples[prepared.where(Use.CALIBRATION)]
    if not len(samples):
        raise RejectedInput("no window is left for the threshold", code="dataset.too-few")
    scores = score_on_edge(manifest, model, samples).scores
    decision = recipe.decide(calibration_scores(prepared, scores))
    output = manifest.outputs[0]
    if output.residuals is None or output.residuals.target is None:
        # What the graph derives by itself, such as a spectrum, has no bound that is known here.
        tensor = open_runner(model).outputs[0]
        top = np.iinfo(tensor.dtype).max if tensor.scale else 0
        most = (top - tensor.zero_point) * tensor.scale if tensor.scale else math.inf
        clip = manifest.inputs[0].normalisation.clip
        check_saturation(decision.threshold, largest_score(output, clip=clip, tensor_max=most))
    update = {
        "outputs": decision.apply(manifest.outputs), "calibration": decision.calibration,
    }  # fmt: skip
    return manifest.model_copy(update=update), decision.words


def _representative(context: Context, prepared: Prepared) -> list[int]:
    """Windows that calibrate the quantization: the champion's where they are kept fixed."""
    if context.options.keep_calibration:
        kept = _kept_windows(context, prepared)
        if kept:
            return kept
    fit = np.nonzero(prepared.where(Use.FIT))[0]
    if len(fit) > REPRESENTATIVE_MAX:
        rng = np.random.default_rng(context.options.seed)
        fit = np.sort(rng.choice(fit, REPRESENTATIVE_MAX, replace=False))
    return [int(i) for i in fit]


def _kept_windows(context: Context, prepared: Prepared) -> list[int]:
    """The champion's representative windows, as far as this dataset has them."""
    approved = registry.list_models(
        context.store, context.fleet, name=context.model, state="approved"
    )
    run = approved[-1].run if approved else None
    found = artefacts.load_artefact(context.store, run, KEPT_ARTEFACT) if run else None
    if found is None:
        return []
    wanted = {tuple(row) for row in json.loads(found[1])}
    fit = prepared.where(Use.FIT)
    return [i for i, key in enumerate(window_keys(prepared)) if fit[i] and key in wanted]


def window_keys(prepared: Prepared) -> list[tuple[str, int]]:
    """What names a window in every dataset that has it: device and start."""
    recordings = prepared.dataset.recordings
    return [(recordings[p.recording].device, p.t0_ns) for p in prepared.dataset.places]


def _keep(place: Workplace, prepared: Prepared, made: Made) -> None:
    place.save("model.tflite", made.model)
    place.save("float.tflite", made.float_model)
    if made.weights is not None:
        place.save("weights.npz", made.weights)
    place.save_object(
        "made.json",
        {
            "dataset": prepared.digest,
            "manifest": made.manifest.encode().decode(),
            "float_manifest": made.float_manifest.encode().decode(),
            "history": made.history,
            "normalisation": made.normalisation.model_dump(mode="json"),
            "representative": made.representative,
            "about": made.about, "words": made.words, "warm_from": made.warm_from,
        },
    )  # fmt: skip


def _left(place: Workplace, prepared: Prepared) -> Made | None:
    """What an attempt before has made of this dataset; None where it did not come so far."""
    told = place.load_object("made.json")
    model, plain = place.load("model.tflite"), place.load("float.tflite")
    if told is None or model is None or plain is None or told["dataset"] != prepared.digest:
        return None
    manifest = parse_manifest(told["manifest"].encode())
    if FileRef.of(model) != manifest.files[MODEL_FILE]:
        return None
    return Made(
        manifest=manifest, model=model,
        float_manifest=parse_manifest(told["float_manifest"].encode()), float_model=plain,
        history=told["history"], weights=place.load("weights.npz"),
        normalisation=Normalisation.model_validate(told["normalisation"]),
        representative=told["representative"], about=told["about"], words=told["words"],
        warm_from=told["warm_from"],
    )  # fmt: skip


def bring(context: Context, prepared: Prepared) -> Made:
    """The file that a person attached to the run, with the manifest that describes it.

    Raises:
        RejectedInput: nothing is attached, the manifest is none, or describes another file, task
            or labels than the dataset has.
    """
    context.progress.report({"stage": "import"})
    model = artefacts.load_artefact(context.store, context.run.id, IMPORTED_MODEL)
    document = artefacts.load_artefact(context.store, context.run.id, IMPORTED_MANIFEST)
    if model is None or document is None:
        raise RejectedInput(
            "no file is attached to the run", code="import.missing",
            hint="fieldloop-training import MODEL.tflite MANIFEST.json --dataset DIGEST",
        )  # fmt: skip
    try:
        given = parse_manifest(document[1])
    except MalformedMessage as error:
        raise RejectedInput(f"the manifest: {error}", code="import.manifest") from error
    spec = prepared.dataset.spec
    mine = [(c.name, c.unit) for c in given.inputs[0].channels]
    theirs = [(c.name, c.unit) for c in spec.channels]
    if given.task != prepared.task or mine != theirs:
        raise RejectedInput(
            f"the manifest is of {given.task} on {mine}, "
            f"the dataset of {prepared.task} on {theirs}",
            code="import.unlike",
        )
    if given.inputs[0].window_samples != spec.window_samples:
        raise RejectedInput(
            f"the manifest has windows of {given.inputs[0].window_samples} samples, the dataset of "
            f"{spec.window_samples}", code="import.unlike",
        )  # fmt: skip
    if given.task == ANOMALY and given.outputs[0].threshold is None:
        raise RejectedInput("the manifest states no threshold", code="import.threshold")
    files = {**given.files, MODEL_FILE: FileRef.of(model[1])}
    manifest = given.model_copy(update={"name": context.model, "version": 1, "files": files})
    return Made(
        manifest=manifest, model=model[1], float_manifest=manifest, float_model=model[1],
        history=[], weights=None, normalisation=given.inputs[0].normalisation, representative=[],
        about="## What it is\n\nA file that a person brought; how it was made is not known here.\n",
    )  # fmt: skip
