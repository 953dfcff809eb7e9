"""Several streams in one slot, streams of other rates, and models that remember."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fieldloop_buffer import STREAM_STATE, Kind, Reader, unpack_frame
from fieldloop_contract.frames import Frame
from fieldloop_contract.manifest import GOLDEN_FILE, MODEL_FILE, Manifest
from fieldloop_contract.messages import StreamState
from fieldloop_inference.slots import Phase
from fieldloop_scoring.drift import Policy
from fieldloop_scoring.golden import golden_outputs, make_golden
from fieldloop_scoring.joining import make_builder
from fieldloop_scoring.normalisation import Affine
from fieldloop_scoring.runners import open_runner
from fieldloop_scoring.scorer import Scorer
from fieldloop_scoring.sketch import Reference
from support.bundles import frame, make_bundle, make_input, make_manifest
from support.device import Bench, InstantTrial
from support.models import LABELS, PAIR_SLOW, RATE_HZ, model, windows

T0 = 1_790_000_000 * 10**9
SLOW_HZ = 2.0


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    device = Bench(tmp_path, begin_trial=InstantTrial).open()
    yield device
    device.close()
    device.input.close()


def pair(version: int = 1, **more: Any) -> tuple[Manifest, dict[str, bytes]]:
    """A model of two inputs and two outputs: motion of 100 Hz decimated, heat of 1 Hz read at 2."""
    data = model("pair")
    heat = make_input(
        ["t"],
        name="heat",
        rate_hz=SLOW_HZ,
        window_samples=PAIR_SLOW,
        hop_samples=1,
        resample="linear",
    )
    hop = round(RATE_HZ / SLOW_HZ)
    motion = make_input(name="motion", hop_samples=hop, resample="decimate")
    changes: dict[str, Any] = {
        "version": version,
        "inputs": [motion, heat],
        "outputs": [
            {"name": "class", "kind": "probabilities", "labels": LABELS, "tensor": "Identity"},
            {"name": "level", "kind": "value", "unit": "K", "tensor": "Identity_1"},
        ],
        **more,
    }
    warm = np.linspace(-1, 1, 4 * PAIR_SLOW, dtype=np.float32).reshape(4, PAIR_SLOW)
    inputs = np.concatenate([windows(4).reshape(4, -1), warm], axis=1)
    manifest = make_manifest(data, b"-", **changes)
    golden = make_golden(inputs, golden_outputs(manifest, inputs, open_runner(data)))
    return make_manifest(data, golden, **changes), {MODEL_FILE: data, GOLDEN_FILE: golden}


def both(length_s: int, first_s: int = 0) -> list[Frame]:
    """What two sensors give, in the order of the log."""
    rng = np.random.default_rng(first_s + 1)
    items = []
    for second in range(first_s, first_s + length_s):
        for part in range(4):
            samples = rng.normal(0, 1, (25, 3)).astype(np.float32)
            items.append(frame(samples, T0, 100 * second + 25 * part, "imu", rate_hz=100.0))
        at = np.full((1, 1), np.sin(second / 3), np.float32)
        items.append(frame(at, T0 + 300_000_000, second, "oil", rate_hz=1.0))
    return items


STREAMS = {"motion": "imu", "heat": "oil"}


def test_two_streams_of_other_rates_feed_one_model(bench: Bench) -> None:
    bench.put(both(30))
    manifest, files = pair()
    bench.source.order(bench.source.add(manifest, files), streams=STREAMS)
    bench.until(Phase.ACTIVE)
    bench.idle()
    results = bench.results()
    assert len(results) > 50
    steps = {b["t0_ns"] - a["t0_ns"] for a, b in pairwise(results)}
    assert steps == {500_000_000}
    assert {r["stream"] for r in results} == {"imu"}
    # What training makes of the same rows is the same to the last bit.
    builder, scorer = (
        make_builder(manifest.inputs, STREAMS),
        Scorer(manifest, open_runner(files[MODEL_FILE])),
    )
    wanted = []
    for seq, item in enumerate(both(30), 1):
        wanted += builder.push("e" * 32, seq, item)
    assert [w.t0_ns for w in wanted] == [r["t0_ns"] for r in results]
    for window, result in zip(wanted, results, strict=True):
        assert scorer.score(*window.arrays).probabilities == pytest.approx(result["probabilities"])
        assert (window.seq_first, window.seq_last) == (result["seq_first"], result["seq_last"])
    assert len({tuple(r["probabilities"].values()) for r in results}) > 10


def test_a_slot_of_two_streams_goes_on_after_kills_without_losing_a_window(bench: Bench) -> None:
    bench.put(both(10))
    bench.source.order(bench.source.add(*pair()), streams=STREAMS)
    bench.until(Phase.ACTIVE)
    for first_s in range(10, 60, 5):
        items = both(5, first_s)
        for part in range(0, len(items), 7):
            bench.put(items[part : part + 7])
            bench.turn()
        if first_s % 2:
            bench.log.commit(force=True)
        bench.close(cleanly=bool(first_s % 4))
        bench.open()
    bench.idle()
    starts = [r["t0_ns"] for r in bench.results()]
    assert {b - a for a, b in pairwise(starts)} == {500_000_000}
    assert len(starts) > 110


def test_drift_of_the_second_input_is_seen_and_named(bench: Bench) -> None:
    manifest, _ = pair()
    builder = make_builder(manifest.inputs, STREAMS)
    items = enumerate(both(40, 40), 1)
    cut = [w.arrays for seq, item in items for w in builder.push("e" * 32, seq, item)]
    motion, heat = (np.stack(each) for each in zip(*cut, strict=True))
    affines = [Affine(spec.normalisation) for spec in manifest.inputs]
    reference = Reference.of(affines[0](motion), affines[1](heat + np.float32(1.5)))
    stated = {**reference.to_object(), "policy": Policy(1, 10, 0.5, 2, 3).to_object()}
    bench.put(both(40))
    bench.source.order(bench.source.add(*pair(drift_reference=stated)), streams=STREAMS)
    bench.until(Phase.ACTIVE)
    bench.idle()
    events = [e for e in bench.rows(Kind.EVENT) if e["type"].startswith("drift.")]
    (found,) = [e["data"] for e in events if e["type"] == "drift.detected"]
    assert list(found["psi"]) == ["ax", "ay", "az", "heat.t"]
    assert max(found["psi"], key=found["psi"].get) == "heat.t"
    report = next(e["data"] for e in events if e["type"] == "drift.report")
    assert len(report["counts"]) == 3
    assert np.sum(report["further_counts"]) == 10 * PAIR_SLOW


def test_a_reference_of_the_first_input_alone_is_watched_as_before(bench: Bench) -> None:
    data = np.random.default_rng(8).normal(0, 1, (5_000, 3)).astype(np.float32)
    stated = {**Reference.of(data).to_object(), "policy": Policy(1, 10).to_object()}
    bench.put(both(20))
    bench.source.order(bench.source.add(*pair(drift_reference=stated)), streams=STREAMS)
    bench.until(Phase.ACTIVE)
    bench.idle()
    reports = [e["data"] for e in bench.rows(Kind.EVENT) if e["type"] == "drift.report"]
    assert reports
    assert all(len(r["psi"]) == 3 and "further_counts" not in r for r in reports)


def test_selected_samples_hold_the_rows_of_all_streams(bench: Bench) -> None:
    bench.close()
    bench.open(samples={"bytes_per_day": 10**7, "control": 1.0})
    bench.put(both(12))
    bench.source.order(bench.source.add(*pair()), streams=STREAMS)
    bench.until(Phase.ACTIVE)
    bench.idle()
    bench.log.commit(force=True)
    reader = Reader(str(bench.folder / "inference.sqlite"))
    rows = reader.read(None, kinds=(Kind.SAMPLE,), limit=10_000).rows
    reader.close()
    assert {row.stream for row in rows} == {"imu", "oil"}
    times = [(row.stream, unpack_frame(row.payload).t0_ns) for row in rows]
    assert len(set(times)) == len(times), "each row once"


def test_a_stream_of_another_rate_is_resampled_as_the_manifest_says(bench: Bench) -> None:
    bench.put([frame(f.array(), T0, 16 * i, rate_hz=200.0) for i, f in enumerate(many(60))])
    declared = make_input(resample="decimate")
    bench.source.order(bench.source.add(*make_bundle(inputs=[declared])))
    bench.until(Phase.ACTIVE)
    bench.idle()
    results = bench.results()
    assert len(results) > 10
    assert {r["t1_ns"] - r["t0_ns"] for r in results} == {round(32e9 / RATE_HZ)}


def many(count: int) -> list[Frame]:
    rng = np.random.default_rng(8)
    samples = rng.normal(0, 1, (count, 16, 3)).astype(np.float32)
    return [frame(s, T0, 16 * i) for i, s in enumerate(samples)]


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ([make_input()], "takes 50 Hz, the stream gives 70 Hz"),
        ([make_input(resample="decimate")], "cannot be decimated"),
        ([make_input(["ax", "ay"])], "takes 2 channels"),
        ([make_input(), make_input(["t"], name="oil")], "declares no `resample`"),
    ],
)
def test_a_model_that_the_streams_cannot_feed_is_refused_with_the_reason(
    bench: Bench, inputs: list[dict[str, Any]], reason: str
) -> None:
    bench.put([frame(f.array(), T0, 16 * i, rate_hz=70.0) for i, f in enumerate(many(5))])
    manifest, files = make_bundle()
    changed = manifest.model_validate({**manifest.model_dump(), "inputs": inputs})
    ref = bench.source.add(changed, files)
    bench.source.order(ref)
    bench.until(Phase.REJECTED)
    assert reason in bench.slot.slot.reason
    assert ref.digest not in bench.slot.slot.blacklist, "it is not the model's fault"


def test_names_and_units_that_ingestion_declares_have_to_be_the_models(bench: Bench) -> None:
    bench.put(many(12))
    state = StreamState(
        stream="imu", channels=["ax", "ay", "az"], units=["m/s2"] * 3, rate_hz=RATE_HZ
    )
    bench.input.set_state(STREAM_STATE + "imu", state.encode().decode())
    bench.input.commit(force=True)
    bench.source.order(bench.source.add(*make_bundle()))
    bench.until(Phase.REJECTED)
    assert "m/s2" in bench.slot.slot.reason
    right = state.model_copy(update={"units": ["g"] * 3})
    bench.input.set_state(STREAM_STATE + "imu", right.encode().decode())
    bench.input.commit(force=True)
    bench.source.order(bench.source.add(*make_bundle(version=2)))
    bench.until(Phase.ACTIVE)


def test_a_stateful_model_begins_anew_after_a_gap(bench: Bench) -> None:
    """The model counts its windows; across a gap it may not."""
    output = {"name": "count", "kind": "value", "unit": "1"}
    items = many(40)
    late = [
        Frame(**{**{n: getattr(f, n) for n in Frame.__slots__}, "t0_ns": f.t0_ns + 10**12})
        for f in items[20:]
    ]
    bench.put([*items[:20], *late])
    bundle = make_bundle("stateful", task="regression", outputs=[output])
    bench.source.order(bench.source.add(*bundle))
    bench.until(Phase.ACTIVE)
    bench.idle()
    counts = [r["values"]["count"] for r in bench.results()]
    assert counts == [float(n) for n in [*range(1, 20), *range(1, 20)]]
