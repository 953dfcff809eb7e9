"""Alarms, idle machines and top-k on a real log, with real models."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fieldloop_buffer import Kind
from fieldloop_contract.frames import Frame
from fieldloop_contract.manifest import Manifest
from fieldloop_contract.messages import Event, Result, decode
from fieldloop_inference.slots import Phase
from support.bundles import frame, make_bundle
from support.device import Bench, InstantTrial

RULE = {"clear_below": 0.01, "raise_count": 2, "raise_of": 3, "clear_count": 2}
RUNNING = {"feature": "deviation", "above": 0.3, "idle_below": 0.2}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    device = Bench(tmp_path, begin_trial=InstantTrial).open()
    yield device
    device.close()
    device.input.close()


def autoencoder(**changes: Any) -> tuple[Manifest, dict[str, bytes]]:
    """Its score is 0.01 times the mean square of the window: 0.01 for a deviation of 1."""
    output = {"name": "residual", "kind": "reconstruction", "threshold": 0.03, "alarm": RULE}
    fields = {"task": "anomaly", "outputs": [output], **changes}
    return make_bundle("autoencoder", **fields)


def signal(levels: Sequence[float], first: int = 0) -> list[Frame]:
    """Frames of 16 samples of noise; a window is two of them."""
    rng = np.random.default_rng(7)
    return [
        frame(rng.normal(0, level, (16, 3)).astype(np.float32), 10**18, 16 * (first + index))
        for index, level in enumerate(levels)
    ]


def told(bench: Bench, what: str) -> list[dict[str, Any]]:
    rows = [r for r in bench.rows(Kind.EVENT) if r["type"].startswith(what)]
    return [decode(Event, json.dumps({"seq": 1, **r}).encode()).model_dump() for r in rows]


def test_an_alarm_is_raised_once_outlives_a_kill_and_is_cleared_once(bench: Bench) -> None:
    bench.put(signal([0.9] * 20))
    ref = bench.source.add(*autoencoder())
    bench.source.order(ref)
    bench.until(Phase.ACTIVE)
    bench.put(signal([3.0] * 20, 20))
    bench.idle()
    bench.log.commit(force=True)
    bench.close(cleanly=False)
    bench.open()
    bench.put(signal([3.0] * 10 + [0.8] * 20, 40))
    bench.idle()
    events = told(bench, "alarm.")
    assert [e["type"] for e in events] == ["alarm.raised", "alarm.cleared"]
    data = events[0]["data"]
    assert data["model"]["digest"] == ref.digest
    assert (data["slot"], data["stream"], data["threshold"]) == ("main", "imu", 0.03)
    rows = bench.results()
    (at,) = [i for i, r in enumerate(rows) if r["t0_ns"] == data["t_ns"]]
    assert [r["alarm"] for r in rows[at - 1 : at + 1]] == [False, True]
    assert 20 <= at + 1 <= 23
    assert rows[-1]["alarm"] is False
    assert sum(r["alarm"] for r in rows) >= 28, "the alarm stood across the kill"
    result = decode(Result, json.dumps({"seq": 1, **rows[at]}).encode())
    assert result.alarm


def test_a_stopped_machine_raises_nothing_and_counts_for_nothing(bench: Bench) -> None:
    bench.put(signal([0.01] * 200))
    limits = {"probation_windows": 30}
    # An idle window scores high here: the rule of the model, not its score, says that it is idle.
    spec = {"threshold": -1.0, "name": "residual", "kind": "reconstruction"}
    one = autoencoder(running_when=RUNNING, limits=limits, outputs=[spec])
    bench.source.order(bench.source.add(*one))
    bench.until(Phase.PROBATION)
    bench.idle()
    (state,) = bench.service.reported().slots
    assert state.state == "PROBATION"
    assert state.reason == "waiting: 0 of 30 running windows"
    assert state.counts["idle"] == 199
    assert [r["running"] for r in bench.results()] == [False] * 199
    assert not any(r["alarm"] for r in bench.results())
    bench.put(signal([1.0] * 20, 200))
    bench.idle()
    (state,) = bench.service.reported().slots
    assert state.reason == f"waiting: {state.counts['running']} of 30 running windows"
    assert 15 <= state.counts["running"] <= 20
    assert len(told(bench, "alarm.raised")) == 1
    bench.put(signal([1.0] * 20, 220))
    bench.until(Phase.ACTIVE)


def test_idle_windows_are_no_evidence_in_the_shadow_either(bench: Bench) -> None:
    bench.put(signal([1.0] * 30))
    bench.source.order(bench.source.add(*autoencoder(running_when=RUNNING)))
    bench.until(Phase.ACTIVE)
    bench.idle()
    bench.source.order(bench.source.add(*autoencoder(running_when=RUNNING, version=2)))
    bench.until(Phase.SHADOW)
    bench.put(signal([0.01] * 100, 30))
    bench.idle()
    assert bench.slot.slot.phase is Phase.SHADOW
    assert len(bench.results("shadow")) <= 2
    bench.put(signal([1.0] * 40, 130))
    bench.until(Phase.ACTIVE)
    assert all(r["running"] for r in bench.results("shadow"))


def test_idle_windows_are_skipped_where_the_model_says_so(bench: Bench) -> None:
    levels = [1.0] * 10 + [0.01] * 30 + [1.0] * 10
    bench.put(signal(levels))
    rule = {**RUNNING, "idle": "skip", "regimes": [{"name": "load", "above": 0.35}]}
    bench.source.order(bench.source.add(*autoencoder(running_when=rule)))
    bench.until(Phase.ACTIVE)
    bench.idle()
    rows = bench.results()
    assert all(r["running"] for r in rows)
    assert {r["regime"] for r in rows} == {"load"}
    counts = bench.slot.report().counts
    assert counts["running"] == len(rows)
    assert counts["running"] + counts["idle"] == 49
    bench.close(cleanly=False)
    bench.open()
    bench.put(signal([1.0] * 5, 50))
    bench.idle()
    starts = bench.starts()
    assert starts == sorted(set(starts)), "skipped windows are behind us after a restart too"


def test_a_classifier_names_as_many_labels_as_asked_and_a_regression_its_unit(
    bench: Bench,
) -> None:
    bench.put(signal([1.0] * 20))
    output = {"name": "c", "kind": "probabilities", "labels": ["rest", "walk", "run"], "top_k": 2}
    bench.source.order(bench.source.add(*make_bundle(outputs=[output])))
    bench.until(Phase.ACTIVE)
    bench.idle()
    for row in bench.results():
        probabilities = list(row["probabilities"].values())
        assert len(probabilities) == 2
        assert probabilities == sorted(probabilities, reverse=True)
        assert row["label"] == next(iter(row["probabilities"]))
    value = {"name": "speed", "kind": "value", "labels": ["vx", "vy"], "unit": "m/s"}
    manifest, files = make_bundle("regression", version=2, task="regression", outputs=[value])
    bench.source.order(bench.source.add(manifest, files))
    bench.until(Phase.SHADOW)
    bench.put(signal([1.0] * 30, 20))
    bench.until(Phase.ACTIVE)
    assert set(bench.results()[-1]["values"]) == {"vx", "vy"}
    assert manifest.outputs[0].unit == "m/s"
