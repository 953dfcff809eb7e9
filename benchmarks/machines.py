"""`spectral_autoencoder` on the simulated rotating machine: which faults does it hear, how early?

Each machine (a seed) runs a duty of changing speeds and loads. The model learns from its healthy
vibration, is converted to int8, and its threshold comes from later healthy windows; all scores are
of the int8 file in the edge runtime. Then, later still and with other noise, the machine runs
healthy, with slow drift of speed and load, and with each fault at rising severity: the share of
windows above the threshold, and the area under the ROC curve against the healthy windows. Beside
it Hotelling's T squared and Q on each window's means and deviations, at twice the largest of the
same calibration windows. A bearing fault's severity is its impulses' peak in units of the noise's
standard deviation; for imbalance and misalignment it is the factor by which they have grown.

    python -m benchmarks machines --seeds 3
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop_contract.manifest import Channel
from fieldloop_ingestion.sources.machinery import (
    DIRECTIONS,
    Defect,
    Duty,
    Machine,
    Severity,
    Simulation,
)

RATE_HZ, WINDOW = 6_400.0, 2_048
LEARN, TEST = 1_500, 150
WORKERS, SEEDS = 2, 3
SHARES = (0.15, 0.25)
DUTY = [
    Duty(for_s=7, speed=speed, load=load)
    for speed, load in ((1, 1), (0.9, 0.7), (1.05, 1.2), (0.95, 1), (1, 0.6), (0.85, 0.9), (1.1, 1))
]
HEALTHY = Machine(schedule=DUTY, ramp_s=1.5, drift=0.01)
BEARING = (2, 5, 10, 20, 50)
GROWN = (1.5, 2, 4)
_FAR_APART_S = 5_000.0


def record(machine: Machine, seed: int, windows: int, part: int) -> NDArray[np.float32]:
    """Vibration of a machine: float32[windows, WINDOW, 3]; each part is of another time."""
    simulation = Simulation(machine, rate_hz=RATE_HZ, columns=DIRECTIONS, seed=seed)
    state = replace(simulation.begin(), sample=round(part * _FAR_APART_S * RATE_HZ))
    made = []
    for _ in range(windows):
        state, values = simulation.block(state, WINDOW)
        made.append(np.frombuffer(values, np.float32).reshape(WINDOW, len(DIRECTIONS)))
    return np.stack(made)


def conditions() -> dict[str, Machine]:
    """What the machine does after it was learnt, by name."""
    found = {
        "healthy, as learnt": HEALTHY,
        "healthy, speed drifts by 3 %": HEALTHY.model_copy(
            update={"drift": 0.03, "drift_period_s": 60.0}
        ),
        "healthy, loads differ by 10 %": HEALTHY.model_copy(
            update={"schedule": [
                d.model_copy(update={"load": d.load * (0.9 if i % 2 else 1.1)})
                for i, d in enumerate(DUTY)
            ]}
        ),
        "healthy, 14 % faster than ever learnt": HEALTHY.model_copy(
            update={"schedule": [Duty(for_s=100, speed=1.25)]}
        ),
    }  # fmt: skip
    for fault in ("outer", "inner", "ball", "cage"):
        for times in BEARING:
            defect = Defect(
                fault=fault, amplitude=times * HEALTHY.noise, severity=Severity(kind="constant")
            )
            found[f"{fault}, {times}"] = HEALTHY.model_copy(update={"defects": [defect]})
    for name in ("imbalance", "misalignment"):
        for times in GROWN:
            found[f"{name}, x {times}"] = HEALTHY.model_copy(
                update={name: times * getattr(HEALTHY, name)}
            )
    return found


def run(job: tuple[int, int, int]) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Severity of each window, in units of the threshold: by condition, of model and baseline."""
    seed, learn, test = job
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    import tensorflow as tf  # noqa: PLC0415 - in a process of its own

    from benchmarks.judging import scorer  # noqa: PLC0415
    from fieldloop_models.conversion import convert, representative_windows  # noqa: PLC0415
    from fieldloop_models.hotelling import Hotelling, limits, severity  # noqa: PLC0415
    from fieldloop_models.recipe import Examples, Scores, load_recipe  # noqa: PLC0415
    from fieldloop_scoring.normalisation import normalise  # noqa: PLC0415
    from fieldloop_training.datasets import plain_input  # noqa: PLC0415

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    recipe: Any = load_recipe("spectral_autoencoder", {})
    channels = [Channel(name=n, unit="m/s2") for n in DIRECTIONS]
    healthy = record(HEALTHY, seed, learn, 0)
    place = np.arange(learn) / learn
    calibration = place >= 1 - SHARES[1]
    validation = ~calibration & (place >= 1 - sum(SHARES))
    nothing = np.zeros(learn, np.int64)
    trained = recipe.train(
        Examples(healthy, nothing - 1, nothing, validation, calibration),
        channels=channels, labels=[], rate_hz=RATE_HZ, normalise=normalise, seed=seed,
        report=lambda _: None,
    )  # fmt: skip
    seen = normalise(healthy[~calibration], trained.normalisation)
    model = convert(trained, representative_windows(seen, seed), list(DIRECTIONS))
    judge = scorer(
        plain_input("vibration", channels, RATE_HZ, recipe.window_plan()), trained, model
    )
    values = np.array([judge.score(w).score for w in healthy[calibration]])
    decision = recipe.decide(Scores(values, nothing[calibration], WINDOW, WINDOW))
    baseline = Hotelling.fit(healthy[~calibration], explained=0.95)
    at = limits(baseline.statistics(healthy[calibration]))
    found = {}
    for part, (name, machine) in enumerate(conditions().items(), start=1):
        windows = record(machine, seed, test, part)
        scores = np.array([judge.score(w).score for w in windows])
        found[name] = {
            "model": scores / decision.threshold,
            "baseline": severity(baseline.statistics(windows), at),
        }
    return found


def area(faulty: NDArray[np.float64], healthy: NDArray[np.float64]) -> float:
    """Area under the ROC curve: P(faulty > healthy), ties counting half (Mann and Whitney)."""
    ordered = np.sort(healthy)
    below = np.searchsorted(ordered, faulty, "left") + np.searchsorted(ordered, faulty, "right")
    return float(below.mean() / (2 * len(ordered)))


def measure(*, quick: bool, seeds: int = SEEDS) -> list[Any]:
    """One row for each condition, over all machines."""
    jobs = [(s, LEARN // 3, TEST // 5) if quick else (s, LEARN, TEST)
            for s in range(1, 2 if quick else seeds + 1)]  # fmt: skip
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(WORKERS, mp_context=context) as pool:
        machines = list(pool.map(run, jobs))
    rows = []
    for name in conditions():
        row: dict[str, Any] = {"what": name}
        for who, title in (("model", "int8"), ("baseline", "T2+Q")):
            flagged = [float((m[name][who] > 1).mean()) for m in machines]
            areas = [area(m[name][who], m["healthy, as learnt"][who]) for m in machines]
            row[f"{title} flagged %"] = f"{100 * np.mean(flagged):.1f}"
            row[f"{title} worst machine %"] = (
                f"{100 * (max(flagged) if name.startswith('healthy') else min(flagged)):.1f}"
            )
            row[f"{title} AUC"] = f"{np.mean(areas):.3f}"
        rows.append(row)
    return rows
