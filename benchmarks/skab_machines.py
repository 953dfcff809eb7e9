"""SKAB's experiments as machines: commissioned, armed, and run, by alarm events instead of rows.

Each experiment is a machine that joins a fleet: the experiments are dealt into four folds, and the
model of each fold is trained on the first 400 rows of the experiments of the other three, so it has
never seen this one. The machine is commissioned on its own first 400
rows by the machines service's own judgement (`fieldloop_machines.commissioning`), with the alarm
rule of the device (3 of 5 windows raise, 5 below clear) and a budget of one false alarm a day; what
is refused is not armed and finds nothing. Six minutes hold too few peaks to tell such a threshold
from, so each machine is commissioned a second time as one of a cohort: the peaks of the other
experiments' first 400 rows help it, as they do in the service where the others are in force. Then
the rest runs through the device's alarms, causally.

An event is a run of anomalous rows; it is found by an alarm that stands within it and was raised no
earlier than its first row, or still stands from before it began (which counts as a false event,
too). The delay is from its first row. A false event is an alarm that was raised at a normal row.
Beside it stand the row-wise figures of the same scores: rows above the threshold, and rows within
an alarm. Rule, budget and settings were fixed before the first run; the recipe's settings are those
of skab.json, with fewer epochs.

    python -m benchmarks skab_machines --data DIR
"""

from __future__ import annotations

import concurrent.futures
import json
import multiprocessing
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.skab import CHANNELS, Experiment, figures, frames, load, windows_by_row
from fieldloop_contract.errors import FixConfiguration
from fieldloop_contract.manifest import AlarmRule, Channel
from fieldloop_machines.commissioning import Assessment, Block, Peer, Plan, assess
from fieldloop_machines.tail import HIGH_SHARE, SECONDS_PER_WEEK, peaks_of, rule_levels
from fieldloop_scoring import alarms
from fieldloop_scoring.calibrating import MAD_TO_DEVIATION

WORKERS, FOLDS = 2, 4
EPOCHS = 40
RULE = AlarmRule(raise_count=3, raise_of=5, clear_count=5)
BUDGET_PER_WEEK = 7.0
DAY_S = 86_400.0


def run(job: tuple[list[Experiment], int, dict[str, Any]]) -> list[dict[str, Any]]:
    """One fold: the model of the others, and the scores of each machine of its own."""
    experiments, fold, given = job
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    import tensorflow as tf  # noqa: PLC0415 - in a process of its own

    from benchmarks.judging import scorer  # noqa: PLC0415
    from fieldloop_models.conversion import convert, representative_windows  # noqa: PLC0415
    from fieldloop_models.recipe import Examples, load_recipe  # noqa: PLC0415
    from fieldloop_scoring.normalisation import normalise  # noqa: PLC0415
    from fieldloop_training.datasets import plain_input  # noqa: PLC0415

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    settings = {**given["settings"], "epochs": EPOCHS}
    recipe: Any = load_recipe(given["recipe"], settings)
    rows = int(given["train_rows"])
    channels = [Channel(name=n, unit=u) for n, u in CHANNELS.items()]
    spec = plain_input("rig", channels, given["rate_hz"], recipe.window_plan())
    parts, of, place = [], [], []
    for index, other in enumerate(e for i, e in enumerate(experiments) if i % FOLDS != fold):
        windows = [w for row, w in windows_by_row(spec, frames(other)[:rows])]
        parts += [w.samples for w in windows]
        of += [index] * len(windows)
        place += [i / len(windows) for i in range(len(windows))]
    samples, share = np.stack(parts), np.array(place)
    held = share >= 1 - recipe.calibration_share
    watched = ~held & (share >= 1 - recipe.calibration_share - recipe.validation_share)
    trained = recipe.train(
        Examples(samples, np.full(len(of), -1), np.array(of), watched, held),
        channels=channels, labels=[], rate_hz=spec.rate_hz, normalise=normalise, seed=0,
        report=lambda _: None,
    )  # fmt: skip
    healthy = normalise(samples[~held], trained.normalisation)
    model = convert(
        trained, representative_windows(healthy, 0), list(CHANNELS), "int8",
        unseen=settings.get("unscored", []),
    )  # fmt: skip
    judge = scorer(spec, trained, model)
    found = []
    for mine in experiments[fold::FOLDS]:
        scores = np.full(len(mine.values), np.nan)
        for row, window in windows_by_row(spec, frames(mine)):
            scored = judge.score(window.samples)
            scores[row] = np.nan if scored.score is None else scored.score
        found.append({"name": mine.name, "scores": scores})
    return found


def judged(
    mine: Experiment, scores: NDArray[np.float64], rows: int, peers: Sequence[Peer] = ()
) -> dict[str, Any]:
    """Commission on the first `rows` rows and run the rest.

    Args:
        scores: float64[n], NaN where no window ends.
    """
    found = commission(mine, scores, rows, peers)
    threshold = np.inf if found.fitted is None else found.fitted.threshold
    standing = np.zeros(len(scores), np.bool_)
    raised = np.zeros(len(scores), np.bool_)
    state = alarms.Alarm()
    for row in range(rows, len(scores)):
        if np.isfinite(scores[row]):
            after = alarms.step(state, float(scores[row]), float(threshold), RULE)
            raised[row] = after.raised and not state.raised
            state = after
        standing[row] = state.raised
    with np.errstate(invalid="ignore"):
        above = scores > threshold
    return {
        "code": found.code, "words": found.words, "above": above[rows:],
        "standing": standing[rows:], "raised": raised[rows:],
        "days": float(mine.times_s[-1] - mine.times_s[rows]) / DAY_S,
    }  # fmt: skip


def commission(
    mine: Experiment, scores: NDArray[np.float64], rows: int, peers: Sequence[Peer]
) -> Assessment:
    """The machines service's judgement of the first rows."""
    usable = np.flatnonzero(np.isfinite(scores[:rows]))
    block = Block((mine.times_s[usable] * 1e9).astype(np.int64), scores[usable])
    hours = 0.8 * len(usable) / 3_600
    plan = Plan(hours, BUDGET_PER_WEEK, RULE, 1.0, 0.0, 1e9, far_is_meant=True)
    return assess(block, plan, peers)


def peer_of(name: str, scores: NDArray[np.float64], rows: int) -> Peer:
    """What a machine of the cohort showed in its first rows."""
    healthy = scores[:rows][np.isfinite(scores[:rows])]
    centre = float(np.median(healthy))
    scale = MAD_TO_DEVIATION * float(np.median(np.abs(healthy - centre)))
    levels = rule_levels((healthy - centre) / scale, RULE)
    high = float(np.quantile(levels, HIGH_SHARE))
    share = len(levels) / SECONDS_PER_WEEK
    return Peer(name, centre, scale, peaks_of([levels], high=high, apart=RULE.raise_of,
                                              week_share=share))  # fmt: skip


def events(
    results: list[dict[str, Any]], anomalous: list[NDArray[np.bool_]]
) -> tuple[int, list[int], int, float]:
    """Events, delays in rows of those that were found, false events, and days of normal rows."""
    count, delays, false, days = 0, [], 0, 0.0
    for result, bad in zip(results, anomalous, strict=True):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], bad.astype(np.int8), [0]])))
        for begin, end in zip(edges[::2], edges[1::2], strict=True):
            count += 1
            hit = np.flatnonzero(result["standing"][begin:end])
            if len(hit):
                delays.append(int(hit[0]))
        false += int((result["raised"] & ~bad).sum())
        days += result["days"] * float((~bad).mean())
    return count, delays, false, days


def measure(*, quick: bool, data: Path | None = None) -> list[Any]:
    """Events over all machines and over those that were armed, and the row-wise figures.

    Raises:
        FixConfiguration: no data was named.
    """
    if data is None:
        raise FixConfiguration("SKAB is not part of fieldloop", hint="name a copy with --data DIR")
    given = json.loads(Path(__file__).with_name("skab.json").read_text(encoding="utf-8"))
    experiments = load(data)[: 4 if quick else None]
    rows = int(given["train_rows"])
    jobs = [(experiments, fold, given) for fold in range(min(FOLDS, len(experiments)))]
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(WORKERS, mp_context=context) as pool:
        results = [result for fold in pool.map(run, jobs) for result in fold]
    scores = {r["name"]: r["scores"] for r in results}
    peers = [peer_of(name, found, rows) for name, found in scores.items()]
    table: list[Any] = []
    words = []
    for what, cohort in (("alone", False), ("with a cohort", True)):
        run_on = [
            judged(e, scores[e.name], rows, [p for p in peers if cohort and p.machine != e.name])
            for e in experiments
        ]
        table += _rows(what, run_on, [e.anomalous[rows:] for e in experiments])
        codes = Counter(r["code"] for r in run_on)
        words.append(f"{what}: " + ", ".join(f"{c} {n}" for c, n in sorted(codes.items())))
    table.append({**dict.fromkeys(table[0], ""), "what": "commissionings " + "; ".join(words)})
    return table


def _rows(
    what: str, results: list[dict[str, Any]], anomalous: list[NDArray[np.bool_]]
) -> list[dict[str, Any]]:
    """Figures over all machines, and over those that were armed."""
    armed = [i for i, r in enumerate(results) if r["code"] == "ready"]
    table = []
    for which, chosen in (("all", list(range(len(results)))), ("armed", armed)):
        some, bad = [results[i] for i in chosen], [anomalous[i] for i in chosen]
        if not some:
            continue
        count, delays, false, days = events(some, bad)
        for name, rows in (("above", "over threshold"), ("standing", "in alarm")):
            f = figures([r[name] for r in some], bad)
            table.append({
                "what": f"{what}, {which}, rows {rows}", "machines": len(some), "events": count,
                "found": len(delays), "delay s": f"{np.median(delays):.0f}" if delays else "",
                "false": false, "days": f"{days:.4f}",
                "false/day": f"{false / days:.1f}" if days else "",
                "F1": f"{f.f1:.3f}", "FAR %": f"{f.far:.1f}", "MAR %": f"{f.mar:.1f}",
            })  # fmt: skip
    return table


def closing(rows: list[dict[str, Any]]) -> list[str]:
    """How the commissionings ended."""
    return [str(rows[-1]["what"])]
