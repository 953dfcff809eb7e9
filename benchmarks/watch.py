"""`activity_cnn` on people it never saw: leave one subject out on the smart-watch recordings.

For each of the ten subjects a model is trained on the nine others for a fixed number of epochs (the
test subject stops nothing and chooses nothing), converted to int8 and scored window by window in
the edge runtime. Beside it, on the same windows, a random forest on window statistics. Published
for a random forest on this data: 0.861. An accuracy is the mean over subjects.

    python -m benchmarks watch --seeds 3
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop_demo.recordings import CHANNELS, RATE_HZ, UNITS, load

RESAMPLES = 10_000
WORKERS = 2
SEEDS = 3


def cut(window: int, hop: int) -> dict[str, NDArray[Any]]:
    """Windows of all recordings: samples, labels, recordings and subjects."""
    recordings = load()
    names = sorted({r.label for r in recordings})
    samples, rows = [], []
    for number, r in enumerate(recordings):
        for at in range(0, len(r.samples) - window + 1, hop):
            samples.append(r.samples[at : at + window])
            rows.append((names.index(r.label), number, r.subject))
    labels, numbers, subjects = np.array(rows, np.int64).T
    return {"samples": np.stack(samples), "labels": labels, "recordings": numbers,
            "subjects": subjects, "names": np.array(names)}  # fmt: skip


def fold(job: tuple[int, int, dict[str, Any]]) -> dict[str, Any]:
    """Train without one subject, and score it: in a process that has loaded TensorFlow."""
    subject, seed, settings = job
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    import tensorflow as tf  # noqa: PLC0415

    from fieldloop_contract.manifest import Channel  # noqa: PLC0415
    from fieldloop_models.conversion import representative_windows, to_int8  # noqa: PLC0415
    from fieldloop_models.recipe import Examples, load_recipe  # noqa: PLC0415
    from fieldloop_scoring.normalisation import normalise  # noqa: PLC0415
    from fieldloop_scoring.runners import open_runner  # noqa: PLC0415

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    recipe = load_recipe("activity_cnn", settings)
    plan = recipe.window_plan()
    data = cut(plan.window_samples, plan.hop_samples)
    test = data["subjects"] == subject
    samples, labels = data["samples"][~test], data["labels"][~test]
    channels = [Channel(name=n, unit=u) for n, u in zip(CHANNELS, UNITS, strict=True)]
    trained = recipe.train(
        Examples(samples, labels, data["recordings"][~test], np.zeros(len(labels), np.bool_)),
        channels=channels,
        labels=data["names"].tolist(),
        rate_hz=RATE_HZ,
        normalise=normalise,
        seed=seed,
        report=lambda _: None,
    )
    representative = representative_windows(normalise(samples, trained.normalisation), seed)
    model = to_int8(trained.model, representative, list(CHANNELS))
    held, wanted = normalise(data["samples"][test], trained.normalisation), data["labels"][test]
    runner = open_runner(model)
    named = np.array([runner.run([window[None]])[0].argmax() for window in held])
    floats = np.asarray(trained.model(held, training=False)).argmax(axis=1)
    return {
        "subject": subject,
        "seed": seed,
        "windows": len(wanted),
        "bytes": len(model),
        "int8": float((named == wanted).mean()),
        "float": float((floats == wanted).mean()),
        "agreement": float((named == floats).mean()),
    }


def statistics(samples: NDArray[np.float32]) -> NDArray[np.float64]:
    """Features of the forest, by channel: location, spread, shape, pace; float64[n, features]."""
    x = samples.astype(np.float64)
    mean, sd = x.mean(axis=1), x.std(axis=1)
    z = (x - mean[:, None]) / np.maximum(sd[:, None], 1e-9)
    low, middle, high = np.percentile(x, (10, 50, 90), axis=1)
    steps = np.sqrt(np.mean(np.square(np.diff(x, axis=1)), axis=1))
    crossings = (np.diff(np.sign(z), axis=1) != 0).mean(axis=1)
    parts = [mean, sd, x.min(axis=1), x.max(axis=1), low, middle, high, steps, crossings,
             (z**3).mean(axis=1), (z**4).mean(axis=1)]  # fmt: skip
    return np.concatenate(parts, axis=1)


def forest(data: dict[str, NDArray[Any]], subject: int, seed: int) -> float:
    """Accuracy of a random forest on one subject, trained on the others."""
    from sklearn.ensemble import RandomForestClassifier  # noqa: PLC0415

    test = data["subjects"] == subject
    features = statistics(data["samples"])
    model = RandomForestClassifier(n_estimators=300, random_state=seed, n_jobs=1)
    model.fit(features[~test], data["labels"][~test])
    return float((model.predict(features[test]) == data["labels"][test]).mean())


def paired(differences: NDArray[np.float64]) -> tuple[float, float, float]:
    """Mean difference, and its 95 % interval by a bootstrap over subjects."""
    rng = np.random.default_rng(0)
    draws = rng.integers(0, len(differences), (RESAMPLES, len(differences)))
    low, high = np.percentile(differences[draws].mean(axis=1), (2.5, 97.5))
    return float(differences.mean()), float(low), float(high)


def measure(*, quick: bool, seeds: int = SEEDS) -> list[Any]:
    """One row for each seed, with that of the forest, and the worst and the mean of all."""
    subjects = range(1, 4) if quick else range(1, 11)
    chosen = {"epochs": 3} if quick else {}  # the recipe's defaults
    jobs = [(s, seed, chosen) for seed in range(1 if quick else seeds) for s in subjects]
    data = cut(128, 64)
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(WORKERS, mp_context=context) as pool:
        folds = list(pool.map(fold, jobs))
    trees = {s: forest(data, s, 0) for s in subjects}
    rows = [_row("random forest", [trees[s] for s in subjects], trees, list(subjects))]
    for seed in sorted({f["seed"] for f in folds}):
        mine = [f for f in folds if f["seed"] == seed]
        rows.append(_row(f"int8, seed {seed}", [f["int8"] for f in mine], trees, list(subjects)))
    mean = [float(np.mean([f["int8"] for f in folds if f["subject"] == s])) for s in subjects]
    rows.append(_row("int8, mean of seeds", mean, trees, list(subjects)))
    floats = [float(np.mean([f["float"] for f in folds if f["subject"] == s])) for s in subjects]
    rows.append(_row("float, mean of seeds", floats, trees, list(subjects)))
    return rows


def _row(what: str, by_subject: list[float], trees: dict[int, float], subjects: list[int]) -> Any:
    worst = int(np.argmin(by_subject))
    delta, low, high = paired(np.array(by_subject) - np.array([trees[s] for s in subjects]))
    return {
        "what": what,
        "accuracy": round(float(np.mean(by_subject)), 4),
        "worst subject": f"{by_subject[worst]:.3f} (subject {subjects[worst]})",
        "minus forest": f"{delta:+.3f} [{low:+.3f}, {high:+.3f}]",
        "by subject": " ".join(f"{v:.2f}" for v in by_subject),
    }
