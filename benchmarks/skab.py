"""The recipe `autoencoder` on SKAB, the Skoltech Anomaly Benchmark, by its own protocol.

In each experiment the first 400 rows are the training part, normalisation and threshold included,
and the rest is the test part. A row of the test part is decided when it arrives, by the window that
ends with it: no row is decided with the help of a later one, none is decided later, and a row at
which no window ends (after a gap in the record) counts as not flagged. The windows are cut by the
device's `WindowBuilder`, written as a dataset and read again; the model is converted to float32 and
to int8, and both files are scored by the device's `Scorer` in the edge runtime, each with the
threshold that its own scores of the calibration windows give. The test parts of all experiments are
scored as one: F1 of the anomalous rows, FAR (flagged of the normal rows), MAR (missed of the
anomalous rows). Flagging every row scores F1 0.7, so F1 is nothing without the other two.

How the settings in skab.json were chosen: the window, the rate and the gap rule from the record's
clock (1 Hz, steps of 2 s; 32 rows are about half a minute), a decision at each row, and the two
temperatures left out since in the training rows of every experiment they wander farther than they
scatter (block means vary 1.1 to 7 times as much as the rows within a block; no other channel does).
All else is the recipe's default, chosen without the test rows but for one thing. The recipe's score
has changed twice since its first run on the 12 experiments of `valve1` numbered 0 to 11. Residuals
alone gave a median of int8 0.724, FAR 10.1 %, MAR 38.4 %. The window's own statistics beside them,
chosen on faults superposed on training rows, gave 0.738, 10.3 %, 36.3 %. That result was known, and
that plain T squared did better, when these statistics were whitened as T squared has them. So for
this last choice those 12 are no test; the other 22 experiments have been seen by nobody. As it is,
5 seeds gave a median of int8 0.787, 8.8 %, 30.1 %, the worst seed 0.786, 8.4 %, 30.5 %, and float
the same. To whiten those statistics by the windows that stop the training too gave 0.790, 9.8 %,
29.2 % (worst 0.787), which is no gain, and was left out.

Plain T squared on 30-row windows stays ahead, with 0.825, 8.4 %, 24.7 %, so the aim to be above it
is missed. It is no less causal: its limit comes from later rows than it is fitted on, and no window
of the one reaches into the other. What makes it strong are the directions that hardly vary in
health: with a tenth of the identity added to its correlations it falls to 0.777, 10.2 %, 30.8 %,
which is near to the 0.777, 9.6 %, 31.2 % that an earlier note has for it. And it is fitted on 300
rows, where the recipe fits its network on 240, as it keeps 60 to stop the training by; on 240 it
reaches 0.803, 8.6 %, 27.8 %. The rest is presumably the residuals' part in the score: these
faults move the window's statistics, and the residuals add noise to that.

    python -m benchmarks skab --data DIR    # DIR: a copy of SKAB's data folder

Published values (on all 34 experiments) are of https://github.com/waico/SKAB.
"""

from __future__ import annotations

import concurrent.futures
import csv
import json
import multiprocessing
import os
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop_contract.errors import FixConfiguration
from fieldloop_contract.frames import Clock, Frame
from fieldloop_contract.manifest import Channel, Input
from fieldloop_scoring.windows import Window, WindowBuilder

ALL_FILES = 34
WORKERS = 2
CHANNELS = {
    "Accelerometer1RMS": "g", "Accelerometer2RMS": "g", "Current": "A", "Pressure": "bar",
    "Temperature": "Cel", "Thermocouple": "Cel", "Voltage": "V", "Volume Flow RateRMS": "L/min",
}  # fmt: skip
PUBLISHED = [
    ("published: convolutional autoencoder (58 rows ahead)", 0.78, 13.6, 28.0),
    ("  the same made causal", 0.711, 21.3, 34.7),
    ("published: MSET", 0.78, 39.7, 14.1),
    ("published: T2 + Q", 0.76, 26.6, 24.9),
    ("published: LSTM autoencoder", 0.74, 30.0, 25.9),
    ("published: isolation forest", 0.29, 2.6, 82.9),
]
T2_WINDOW, T2_LIMIT_FROM = 30, 300
T2_FIT_ROWS = (300, 240)
"""All rows before its limit's, and as many as the network is fitted on."""
_EPOCH = "0" * 32


@dataclass(frozen=True, slots=True)
class Experiment:
    """One file: times in seconds, values float32[n, 8], and bool[n] whether a row is anomalous."""

    name: str
    times_s: NDArray[np.float64]
    values: NDArray[np.float32]
    anomalous: NDArray[np.bool_]


def load(folder: Path) -> list[Experiment]:
    """All experiments below a folder, by name; the anomaly-free record is none.

    Raises:
        FixConfiguration: there are none, or a file is not of SKAB.
    """
    files = sorted(p for p in folder.rglob("*.csv") if "anomaly-free" not in p.name)
    if not files:
        raise FixConfiguration(
            f"no experiment in {folder}", hint="--data is a copy of the data folder of SKAB"
        )
    return [_read(p, f"{p.parent.name}/{p.stem}") for p in files]


def _read(path: Path, name: str) -> Experiment:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter=";"))
    try:
        times = [datetime.fromisoformat(r["datetime"]).replace(tzinfo=UTC) for r in rows]
        values = np.array([[float(r[c]) for c in CHANNELS] for r in rows], np.float32)
        anomalous = np.array([float(r["anomaly"]) > 0 for r in rows])
    except (KeyError, ValueError) as error:
        raise FixConfiguration(f"{path} is not of SKAB: {error!s:.100}") from error
    return Experiment(name, np.array([t.timestamp() for t in times]), values, anomalous)


def frames(experiment: Experiment) -> list[Frame]:
    """One frame a row, as a device would have logged it."""
    return [
        Frame("rig", round(t * 1e9), round(t * 1e9), "ab" * 16, Clock.SYNCHRONISED, 1.0,
              len(CHANNELS), np.ascontiguousarray(row, "<f4").tobytes())
        for t, row in zip(experiment.times_s, experiment.values, strict=True)
    ]  # fmt: skip


def windows_by_row(spec: Input, items: list[Frame]) -> list[tuple[int, Window]]:
    """The window that ends with each row, where there is one."""
    builder, found = WindowBuilder(spec), []
    for row, frame in enumerate(items):
        made = builder.push(_EPOCH, row, frame)
        if made:
            found.append((row, made[-1]))
    return found


def parts(cut: list[tuple[int, Window]], rows: int, shares: tuple[float, float]) -> NDArray[Any]:
    """`fit`, `validation`, `calibration` or, across a border or beyond `rows`, ``, by window."""
    first = round(rows * (1 - sum(shares)))
    borders = [0, first, first + round(rows * shares[0]), rows]
    names = ("fit", "validation", "calibration")
    of = []
    for row, window in cut:
        inside = [
            n for n, a, b in zip(names, borders, borders[1:], strict=False)
            if a <= window.seq_first and row < b
        ]  # fmt: skip
        of.append(inside[0] if inside else "")
    return np.array(of)


def run(job: tuple[Experiment, int, dict[str, Any]]) -> dict[str, Any]:
    """One experiment with one seed: flags of its test rows, by file."""
    experiment, seed, given = job
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    import tensorflow as tf  # noqa: PLC0415 - in a process of its own

    from benchmarks.judging import scorer  # noqa: PLC0415
    from fieldloop_models.conversion import convert, representative_windows  # noqa: PLC0415
    from fieldloop_models.recipe import Examples, Scores, load_recipe  # noqa: PLC0415
    from fieldloop_scoring.normalisation import normalise  # noqa: PLC0415
    from fieldloop_training.datasets import plain_input  # noqa: PLC0415

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    recipe: Any = load_recipe(given["recipe"], given["settings"])
    plan, rows = recipe.window_plan(), int(given["train_rows"])
    channels = [Channel(name=n, unit=u) for n, u in CHANNELS.items()]
    spec = plain_input("rig", channels, given["rate_hz"], plan)
    cut = windows_by_row(spec, frames(experiment))
    use = parts(cut, rows, (recipe.validation_share, recipe.calibration_share))
    taken = np.nonzero(use != "")[0]
    samples, used = _through_a_dataset(spec, [cut[i][1] for i in taken]), use[taken]
    nothing = np.zeros(len(samples), np.int64)
    trained = recipe.train(
        Examples(samples, nothing - 1, nothing, used == "validation", used == "calibration"),
        channels=channels, labels=[], rate_hz=spec.rate_hz, normalise=normalise, seed=seed,
        report=lambda _: None,
    )  # fmt: skip
    healthy = normalise(samples[used != "calibration"], trained.normalisation)
    result: dict[str, Any] = {"name": experiment.name, "seed": seed}
    result |= {"epochs": len(trained.history)}
    unseen = given["settings"].get("unscored", [])
    for variant in ("float32", "int8"):
        model = convert(
            trained, representative_windows(healthy, seed), list(CHANNELS), variant, unseen=unseen
        )
        judge = scorer(spec, trained, model)
        values = np.array([judge.score(w).score for w in samples[used == "calibration"]])
        nowhere = np.zeros(len(values), np.int64)
        decision = recipe.decide(Scores(values, nowhere, plan.window_samples, plan.hop_samples))
        flags = np.zeros(len(experiment.values), np.bool_)
        covered = np.zeros(len(experiment.values), np.bool_)
        for row, window in cut:
            if row >= rows:
                covered[row] = True
                flags[row] = judge.score(window.samples).score > decision.threshold
        result[variant] = flags[rows:]
        result[f"{variant} threshold"] = decision.threshold
        result["covered"] = float(covered[rows:].mean())
    return result


def _through_a_dataset(spec: Input, cut: list[Window]) -> NDArray[np.float32]:
    """Write the training windows as a dataset, and read them from it."""
    from fieldloop_training import datasets  # noqa: PLC0415 - with its file format
    from fieldloop_training.labels import Recording  # noqa: PLC0415

    whole = Recording("skab", "rig", cut[0].t0_ns, cut[-1].t1_ns, "healthy")
    places = [datasets.Place(0, w.epoch, w.seq_first, w.seq_last, w.t0_ns, w.t1_ns) for w in cut]
    made = datasets.Dataset(spec, [whole], places, np.stack([w.samples for w in cut]))
    with tempfile.TemporaryDirectory() as folder:
        return datasets.read(datasets.write(made, Path(folder), {})[1]).samples


def t2_flags(experiment: Experiment, rows: int, fit_rows: int = T2_LIMIT_FROM) -> NDArray[np.bool_]:
    """Hotelling's T squared on means and deviations of 30 rows, the temperatures left out.

    The threshold is twice the largest value of windows within the last 100 training rows; causal.

    Args:
        fit_rows: of the training rows, the first ones, that it is fitted on.
    """
    from fieldloop_models.hotelling import Hotelling, limits, severity  # noqa: PLC0415

    kept = [i for i, n in enumerate(CHANNELS) if n not in ("Temperature", "Thermocouple")]
    every = np.lib.stride_tricks.sliding_window_view(
        experiment.values[:, kept], T2_WINDOW, axis=0
    ).transpose(0, 2, 1)
    ends = np.arange(T2_WINDOW - 1, len(experiment.values))
    baseline = Hotelling.fit(every[ends < fit_rows])
    seen = baseline.statistics(every)
    calibration = (ends >= T2_LIMIT_FROM + T2_WINDOW - 1) & (ends < rows)
    return (severity(seen, limits(seen[calibration])) > 1)[ends >= rows]


@dataclass(frozen=True, slots=True)
class Figures:
    """What the protocol counts; shares in percent, delays in rows."""

    f1: float
    far: float
    mar: float
    recall: float
    delay: float
    far_before: float
    far_after: float


def figures(flags: list[NDArray[np.bool_]], anomalous: list[NDArray[np.bool_]]) -> Figures:
    """Score the test parts of all experiments as one.

    An event is a run of anomalous rows; it is found by a flag within it, and the delay is counted
    from its first row. FAR before is that of the normal rows before an experiment's first event,
    FAR after that of all later normal rows.
    """
    f, a = np.concatenate(flags), np.concatenate(anomalous)
    before, after, delays, events = [], [], [], 0
    for flagged, bad in zip(flags, anomalous, strict=True):
        first = int(np.argmax(bad)) if bad.any() else len(bad)
        before.append(flagged[:first][~bad[:first]])
        after.append(flagged[first:][~bad[first:]])
        edges = np.flatnonzero(np.diff(np.concatenate([[0], bad.astype(np.int8), [0]])))
        for begin, end in zip(edges[::2], edges[1::2], strict=True):
            events += 1
            hit = np.flatnonzero(flagged[begin:end])
            if len(hit):
                delays.append(int(hit[0]))
    hits = float((f & a).sum())
    return Figures(
        f1=2 * hits / (f.sum() + a.sum()) if hits else 0.0,
        far=100 * float(f[~a].mean()),
        mar=100 * float((~f[a]).mean()),
        recall=100 * len(delays) / events if events else 0.0,
        delay=float(np.median(delays)) if delays else float("nan"),
        far_before=_percent(before),
        far_after=_percent(after),
    )


def _percent(parts: list[NDArray[np.bool_]]) -> float:
    flags = np.concatenate(parts)
    return 100 * float(flags.mean()) if len(flags) else 0.0


def measure(*, quick: bool, data: Path | None = None, seeds: int | None = None) -> list[Any]:
    """One row for each file of the model and seed, and what they stand beside.

    Raises:
        FixConfiguration: no data was named.
    """
    if data is None:
        raise FixConfiguration("SKAB is not part of fieldloop", hint="name a copy with --data DIR")
    given = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    experiments = load(data)[: 2 if quick else None]
    rows = int(given["train_rows"])
    anomalous = [e.anomalous[rows:] for e in experiments]
    jobs = [
        (e, s, given) for s in range(1 if quick else seeds or given["seeds"]) for e in experiments
    ]
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(WORKERS, mp_context=context) as pool:
        results = list(pool.map(run, jobs))
    table = [_published(*row) for row in PUBLISHED]
    every = [np.ones(len(a), np.bool_) for a in anomalous]
    table.append(_row("every row flagged", figures(every, anomalous)))
    for fitted in T2_FIT_ROWS:
        t2 = figures([t2_flags(e, rows, fitted) for e in experiments], anomalous)
        table.append(_row(f"T2 on {T2_WINDOW}-row windows of {fitted} rows", t2))
    for variant, name in (("float32", "float"), ("int8", "int8")):
        by_seed = []
        for seed in sorted({r["seed"] for r in results}):
            mine = [r[variant] for r in results if r["seed"] == seed]
            by_seed.append(figures(mine, anomalous))
            table.append(_row(f"{name}, seed {seed}", by_seed[-1]))
        ordered = sorted(by_seed, key=lambda f: f.f1)
        table.append(_row(f"{name}, worst seed", ordered[0]))
        table.append(_row(f"{name}, median", ordered[(len(ordered) - 1) // 2]))
    covered = float(np.mean([r["covered"] for r in results]))
    table.append({**dict.fromkeys(table[0], ""), "what": _coverage(len(experiments), covered)})
    return table


def _coverage(count: int, covered: float) -> str:
    return f"{count} of {ALL_FILES} experiments; {covered:.1%} of the test rows end a window"


def closing(rows: list[dict[str, Any]]) -> list[str]:
    """The last lines: the median seed's figures."""
    by_name = {row["what"]: row for row in rows}
    lines = []
    for name in ("float", "int8"):
        row = by_name[f"{name}, median"]
        lines.append(f"{name} {row['F1']} {row['FAR %']} {row['MAR %']}")
    return lines


def _row(what: str, f: Figures) -> dict[str, Any]:
    return {
        "what": what, "F1": f"{f.f1:.3f}", "FAR %": f"{f.far:.1f}", "MAR %": f"{f.mar:.1f}",
        "events found %": f"{f.recall:.0f}", "delay, rows": f"{f.delay:.0f}",
        "FAR before %": f"{f.far_before:.1f}", "FAR after %": f"{f.far_after:.1f}",
    }  # fmt: skip


def _published(what: str, f1: float, far: float, mar: float) -> dict[str, Any]:
    nothing = dict.fromkeys(("events found %", "delay, rows", "FAR before %", "FAR after %"), "")
    return {
        "what": what,
        "F1": f"{f1:.3f}",
        "FAR %": f"{far:.1f}",
        "MAR %": f"{mar:.1f}",
        **nothing,
    }
