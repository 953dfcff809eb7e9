"""Drift reports and selected samples on a real log, across restarts and kills."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fieldloop_buffer import Kind, Reader, unpack_frame
from fieldloop_contract.frames import Frame
from fieldloop_inference.slots import Phase
from fieldloop_scoring.drift import Policy, Report, merge
from fieldloop_scoring.sketch import Reference
from support.bundles import frame, make_bundle
from support.device import Bench, InstantTrial

SAMPLES = {"bytes_per_day": 100_000, "chance": 1.0, "control": 1.0, "margin": 0.0}
RUNNING = {"feature": "deviation", "above": 0.3}


def noise(level: float, count: int, first: int) -> list[Frame]:
    rng = np.random.default_rng(first + 1)
    samples = rng.normal(0, level, (count, 16, 3)).astype(np.float32)
    return [frame(s, 10**18, 16 * (first + i)) for i, s in enumerate(samples)]


REFERENCE = Reference.of(np.random.default_rng(9).normal(0, 1, (20_000, 3)).astype(np.float32))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    device = Bench(tmp_path, begin_trial=InstantTrial).open()
    yield device
    device.close()
    device.input.close()


def serve(bench: Bench, **changes: Any) -> Any:
    bench.put(noise(1.0, 20, 0))
    ref = bench.source.add(*make_bundle("float", **changes))
    bench.source.order(ref)
    bench.until(Phase.ACTIVE)
    bench.idle()
    return ref


def events(bench: Bench, what: str) -> list[dict[str, Any]]:
    return [e["data"] for e in bench.rows(Kind.EVENT) if e["type"] == what]


def document(policy: Policy) -> dict[str, Any]:
    return {**REFERENCE.to_object(), "policy": policy.to_object()}


def test_drift_is_reported_detected_and_ended(bench: Bench) -> None:
    policy = Policy(2, 20, limit=0.5, raise_count=2, raise_of=3)
    ref = serve(bench, drift_reference=document(policy))
    bench.put(noise(1.0, 180, 20))
    bench.idle()
    assert len(events(bench, "drift.report")) == 199 // 40
    assert events(bench, "drift.detected") == []
    bench.put(noise(3.0, 120, 200))
    bench.idle()
    (told,) = events(bench, "drift.detected")
    assert told["model"]["digest"] == ref.digest
    assert max(told["psi"].values()) > told["limit"] == 0.5
    assert told["confirmed"] == "2 of 3 reports"
    assert bench.slot.report().counts["drifting"] == 1
    bench.put(noise(1.0, 120, 320))
    bench.idle()
    assert len(events(bench, "drift.ended")) == 1
    reports = [Report.from_object(d, REFERENCE) for d in events(bench, "drift.report")]
    total = merge(reports)
    assert total.windows == 20 * len(reports)
    assert sum(total.labels.values()) == total.windows
    assert total.sketch.counts.sum() == total.windows * 32 * 3


def test_counts_outlive_a_clean_stop_and_idle_windows_do_not_count(bench: Bench) -> None:
    serve(bench, drift_reference=document(Policy(1, 100)), running_when=RUNNING)
    for part in range(4):
        bench.put(noise(1.0, 15, 20 + 30 * part))
        bench.put(noise(0.01, 15, 35 + 30 * part))
        bench.idle()
        bench.close()
        bench.open()
    running = sum(r["running"] for r in bench.results())
    assert 75 <= running <= 100
    assert events(bench, "drift.report") == []
    bench.put(noise(1.0, 120 - running, 140))
    bench.idle()
    (report,) = events(bench, "drift.report")
    assert report["windows"] == 100


def test_a_reference_of_other_channels_is_said_and_the_model_serves(bench: Bench) -> None:
    other = Reference.of(np.random.default_rng(9).normal(0, 1, (500, 2)).astype(np.float32))
    stated = {**other.to_object(), "policy": Policy(1, 10).to_object()}
    serve(bench, drift_reference=stated)
    assert events(bench, "drift.unfit")[0]["reason"]
    assert len(bench.results()) == 19


def samples(bench: Bench) -> list[Frame]:
    bench.log.commit(force=True)
    reader = Reader(str(bench.folder / "inference.sqlite"))
    chunk = reader.read(None, kinds=(Kind.SAMPLE,), limit=10_000)
    reader.close()
    return [unpack_frame(row.payload) for row in chunk.rows]


def test_samples_are_the_very_frames_once_each_and_say_why(bench: Bench) -> None:
    bench.close()
    bench.open(samples=SAMPLES)
    ref = serve(bench)
    given = noise(1.0, 20, 0)
    taken = samples(bench)
    assert [f.t0_ns for f in taken] == [f.t0_ns for f in given]
    assert [f.samples for f in taken] == [f.samples for f in given]
    told = events(bench, "sample.selected")
    assert all(t["reasons"] == ["control"] and t["probability"] == 1.0 for t in told)
    assert {t["model"]["digest"] for t in told} == {ref.digest}
    first = told[0]
    assert (first["seq_first"], first["seq_last"]) == (1, 2)
    assert first["rows"][0] == bench.log.epoch
    assert sum(t["rows"][2] - t["rows"][1] + 1 for t in told) == 20
    assert bench.slot.report().counts["samples"] == len(told)


def test_the_daily_budget_holds_across_restarts_and_kills(bench: Bench) -> None:
    budget = {**SAMPLES, "bytes_per_day": 5_000, "control_share": 0.0}
    bench.close()
    bench.open(samples=budget)
    serve(bench)
    for part in range(1, 6):
        bench.put(noise(1.0, 20, 20 * part))
        bench.idle()
        bench.log.commit(force=True)
        bench.close(cleanly=part % 2 == 0)
        bench.open(samples=budget)
    sizes = sum(t["bytes"] for t in events(bench, "sample.selected"))
    assert 4_000 < sizes <= 5_000
    assert len(bench.results()) == 119, "results do not wait for samples"


def test_without_a_budget_nothing_is_selected(bench: Bench) -> None:
    serve(bench)
    assert samples(bench) == []
