"""Slots on a real log, with real models: installs, swaps, faults, restarts."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fieldloop_buffer import Kind
from fieldloop_contract.manifest import FileRef
from fieldloop_contract.messages import Result, decode
from fieldloop_inference import budget
from fieldloop_inference.slots import Phase
from fieldloop_update import Bundle
from support.bundles import FolderSource, frame, frames, make_bundle, make_input
from support.device import HOP, Bench, InstantTrial, every_window
from support.models import WINDOW, model, windows


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A device whose trials run in this process."""
    device = Bench(tmp_path, begin_trial=InstantTrial).open()
    yield device
    device.close()
    device.input.close()


class Veteran:
    """A device that has its good model since long, and its trials in child processes."""

    def __init__(self, folder: Path) -> None:
        self.bench = Bench(folder).open()
        self.frames = frames(400)
        self.used = 0
        self.version = 1
        self.put(20)
        self.good = self.bench.source.add(*make_bundle())
        self.bench.source.order(self.good)
        self.bench.until(Phase.ACTIVE)

    def put(self, count: int) -> None:
        self.bench.put(self.frames[self.used : self.used + count])
        self.used += count


@pytest.fixture(scope="module")
def veteran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Veteran]:
    device = Veteran(tmp_path_factory.mktemp("veteran"))
    yield device
    device.bench.close()
    device.bench.input.close()


def test_first_model_scores_every_window_once(bench: Bench) -> None:
    bench.put(frames(40))
    ref = bench.source.add(*make_bundle())
    bench.source.order(ref)
    bench.until(Phase.ACTIVE)
    bench.idle()
    assert bench.starts() == every_window(40)
    assert bench.slot.slot.active == ref
    assert bench.events() == [
        "model.fetching",
        "model.verified",
        "model.probation",
        "model.activated",
    ]
    for row in bench.rows(Kind.RESULT):
        result = decode(Result, json.dumps({"seq": 1, **row}).encode())
        assert result.valid
        assert result.model == ref
        assert result.label in ("rest", "walk", "run")
        assert abs(sum((result.probabilities or {}).values()) - 1) < 0.02


def test_second_model_is_shadowed_then_swapped_without_losing_a_window(bench: Bench) -> None:
    bench.put(frames(60))
    first = bench.source.add(*make_bundle())
    second = bench.source.add(*make_bundle("better", version=2))
    bench.source.order(first)
    bench.until(Phase.ACTIVE)
    bench.source.order(second)
    bench.until(Phase.SHADOW)
    bench.put(frames(200)[60:])
    bench.until(Phase.ACTIVE)
    bench.idle()
    assert bench.starts() == every_window(200)
    versions = [r["model"]["version"] for r in bench.results()]
    assert versions == sorted(versions)
    assert set(versions) == {1, 2}
    shadow = bench.results("shadow")
    assert len(shadow) == 10
    assert {r["model"]["version"] for r in shadow} == {2}
    assert bench.slot.slot.previous == first
    assert bench.source.kept == {first.digest, second.digest}


def test_a_shadow_that_costs_too_much_is_passed_over_and_the_report_says_so(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "BURST_S", 1e-4)
    bench.put(frames(30))
    bench.source.order(bench.source.add(*make_bundle()))
    bench.until(Phase.ACTIVE)
    bench.idle()
    bench.close()
    bench.open(shadow_cpu_percent=0.001)
    bench.source.order(bench.source.add(*make_bundle("better", version=2)))
    bench.until(Phase.SHADOW)
    bench.put(frames(120)[30:])
    bench.idle()
    counts = bench.slot.report().counts
    assert bench.slot.slot.phase is Phase.SHADOW
    assert counts["shadow"] < 10
    assert counts["shadow_passed_over"] == 90 - counts["shadow"]
    assert counts["shadow"] >= 1
    assert len(bench.results("shadow")) == counts["shadow"]
    assert bench.starts() == every_window(120)


def test_the_swap_reports_how_far_the_models_agreed(bench: Bench) -> None:
    bench.put(frames(30))
    bench.source.order(bench.source.add(*make_bundle()))
    bench.until(Phase.ACTIVE)
    bench.source.order(bench.source.add(*make_bundle("float", version=2)))
    bench.until(Phase.SHADOW)
    bench.put(frames(90)[30:])
    bench.until(Phase.ACTIVE)
    swaps = [e["data"] for e in bench.rows(Kind.EVENT) if e["type"] == "model.probation"]
    assert "shadow" not in swaps[0]
    told = swaps[1]["shadow"]
    assert told["scored"] == 10
    assert told["agreed"] >= 8, "float and int8 of the same weights"
    assert told["shadow_passed_over"] == 0


@pytest.mark.parametrize(
    ("name", "changes", "why"),
    [
        ("constant", {}, "the same output"),
        ("nan", {}, "golden"),
        ("narrow", {"golden": "good"}, "the manifest says"),
        ("better", {"golden": "good"}, "golden"),
        ("unknown-op", {"golden": "good"}, "cannot load"),
        ("slow", {"limits": {"latency_ms_max": 5}}, "ms (p95)"),
        ("slow", {"limits": {"trial_seconds_max": 1}}, "CPU time"),
        ("hungry", {"golden": "good", "limits": {"memory_bytes_max": 32 << 20}}, ""),
    ],
)
def test_bad_model_is_refused_in_trial_while_the_old_one_scores(
    veteran: Veteran, name: str, changes: dict[str, Any], why: str
) -> None:
    bench = veteran.bench
    veteran.version += 1
    bad = bench.source.add(*make_bundle(name, version=veteran.version, **changes))
    bench.source.order(bad)
    bench.until(Phase.TRIAL)
    veteran.put(20)
    bench.until(Phase.REJECTED)
    bench.idle()
    assert why in bench.slot.slot.reason
    assert bad.digest in bench.slot.slot.blacklist
    assert bench.slot.slot.active == veteran.good
    assert bench.starts() == every_window(veteran.used)
    assert {r["model"]["version"] for r in bench.results()} == {1}
    events = bench.events().count("model.rejected")
    bench.source.order(bad)
    bench.idle()
    assert bench.slot.slot.phase is Phase.REJECTED, "a blacklisted model is not tried again"
    assert bench.events().count("model.rejected") == events


def test_truncated_model_is_refused_even_where_it_crashes_the_interpreter(
    veteran: Veteran,
) -> None:
    """tflite-runtime 2.14 ends with a segmentation fault here, litert with an error."""
    bench = veteran.bench
    veteran.version += 1
    manifest, files = make_bundle(version=veteran.version)
    cut = model("good")[:900]
    names = {**manifest.files, "model.tflite": FileRef.of(cut)}
    broken = manifest.model_copy(update={"files": names})
    ref = bench.source.add(broken, {**files, "model.tflite": cut})
    bench.source.order(ref)
    bench.until(Phase.TRIAL)
    bench.until(Phase.REJECTED)
    words = bench.slot.slot.reason
    assert "cannot load" in words or "signal 11" in words
    assert bench.slot.slot.active == veteran.good


def test_good_model_passes_a_trial_in_a_child_process(veteran: Veteran) -> None:
    bench = veteran.bench
    veteran.version += 1
    bench.source.order(bench.source.add(*make_bundle("better", version=veteran.version)))
    bench.until(Phase.SHADOW)
    veteran.put(30)
    bench.until(Phase.ACTIVE)
    bench.idle()
    assert bench.starts() == every_window(veteran.used)
    (swap,) = [e for e in bench.rows(Kind.EVENT) if e["type"] == "model.probation"][1:]
    figures = swap["data"]["figures"]
    assert 0 < figures["latency_us_p50"] <= figures["latency_us_p95"]
    assert 0 < figures["memory_bytes"] < 200 << 20


def test_model_that_turns_bad_on_probation_is_taken_back(bench: Bench) -> None:
    """Its output is constant on live data, though not on its golden vectors."""
    bench.put(frames(20))
    good = bench.source.add(*make_bundle())
    bench.source.order(good)
    bench.until(Phase.ACTIVE)
    # Channels scaled out of range: every live window saturates to the same tensor.
    spec = make_input(normalisation={"centre": [0.0] * 3, "scale": [1e-3] * 3, "clip": 0.02})
    limits = {"probation_windows": 100}
    bad = bench.source.add(*make_bundle("better", version=2, inputs=[spec], limits=limits))
    bench.source.order(bad)
    bench.until(Phase.SHADOW)
    flat = [frame(windows(1)[0][:16] * 0 + 1 + 0.01 * i, 10**18, 16 * i) for i in range(20, 90)]
    bench.put(flat)
    bench.until(Phase.ROLLED_BACK)
    bench.idle()
    assert "the same output" in bench.slot.slot.reason
    assert bench.slot.slot.active == good
    assert bad.digest in bench.slot.slot.blacklist
    assert bench.starts() == every_window(90)
    assert "model.rolled-back" in bench.events()


def test_restart_goes_on_where_it_was(bench: Bench) -> None:
    bench.put(frames(30, n=10))
    ref = bench.source.add(*make_bundle())
    bench.source.order(ref)
    bench.until(Phase.ACTIVE)
    bench.idle()
    for part in range(3, 8):
        bench.close(cleanly=part % 2 == 0)
        bench.open()
        assert bench.slot.slot.active == ref
        bench.put(frames(10 * part + 10, n=10)[10 * part :])
        bench.idle()
    assert bench.starts() == [HOP * i for i in range((800 - WINDOW) // HOP + 1)]


def test_damaged_active_bundle_falls_back_to_the_previous_model(bench: Bench) -> None:
    bench.put(frames(60))
    first = bench.source.add(*make_bundle())
    second = bench.source.add(*make_bundle("better", version=2))
    bench.source.order(first)
    bench.until(Phase.ACTIVE)
    bench.source.order(second)
    bench.until(Phase.SHADOW)
    bench.put(frames(120)[60:])
    bench.until(Phase.ACTIVE)
    bench.close()
    path = bench.source.folder / second.digest / "model.tflite"
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(bytes(data))
    bench.open()
    assert bench.slot.slot.active == first
    bench.put(frames(140)[120:])
    bench.idle()
    assert bench.results()[-1]["model"]["version"] == 1
    assert bench.starts() == every_window(140)


def test_recalled_model_stops_at_once(bench: Bench) -> None:
    bench.put(frames(20))
    ref = bench.source.add(*make_bundle())
    bench.source.order(ref)
    bench.until(Phase.ACTIVE)
    bench.source.order(ref, recalled=[ref.digest])
    bench.turn()
    assert bench.slot.slot.active is None
    bench.put(frames(40)[20:])
    bench.idle()
    assert len(bench.results()) == 19


def test_model_for_another_rate_is_refused_with_the_reason(bench: Bench) -> None:
    bench.put(frames(5))
    ref = bench.source.add(*make_bundle(inputs=[make_input(rate_hz=100.0)]))
    bench.source.order(ref)
    bench.until(Phase.REJECTED)
    assert "100 Hz" in bench.slot.slot.reason
    assert ref.digest not in bench.slot.slot.blacklist


def test_frames_that_stop_fitting_are_said_and_passed_over(bench: Bench) -> None:
    bench.put(frames(10))
    ref = bench.source.add(*make_bundle())
    bench.source.order(ref)
    bench.until(Phase.ACTIVE)
    odd = frame(windows(1)[0][:16, :2], 10**18, 160, channels=2)
    bench.put([odd, *frames(30)[11:]])
    bench.idle()
    assert [e["type"] for e in bench.rows(Kind.EVENT)].count("stream.unfit") == 1
    assert bench.starts() == [*every_window(10), *range(11 * HOP, 29 * HOP, HOP)]


def test_windows_do_not_cross_gaps_and_backlog_can_be_skipped(bench: Bench) -> None:
    bench.close()
    bench.open(backlog="skip_to_live", skip_rows_max=5)
    bench.put(frames(50))
    ref = bench.source.add(*make_bundle())
    bench.source.order(ref)
    bench.until(Phase.PROBATION)
    bench.idle()
    assert bench.starts() == []
    bench.put(frames(55)[50:])
    bench.idle()
    assert bench.starts() == [50 * HOP + HOP * i for i in range(4)]
    assert "window.skipped" in [e["type"] for e in bench.rows(Kind.EVENT)]


def test_crash_loop_on_probation_brings_the_previous_model_back(bench: Bench) -> None:
    bench.put(frames(20))
    first = bench.source.add(*make_bundle())
    second = bench.source.add(*make_bundle("better", version=2))
    bench.source.order(first)
    bench.until(Phase.ACTIVE)
    bench.source.order(second)
    bench.until(Phase.SHADOW)
    bench.put(frames(31)[20:])
    bench.until(Phase.PROBATION)
    for _ in range(2):
        bench.close(cleanly=False)
        bench.open()
        assert bench.slot.slot.active == second
    bench.close(cleanly=False)
    bench.open()
    assert bench.slot.slot.phase is Phase.ROLLED_BACK
    assert bench.slot.slot.active == first
    assert second.digest in bench.slot.slot.blacklist
    bench.source.order(second, lift=[second.digest])
    bench.until(Phase.SHADOW)


def test_power_cuts_on_probation_leave_the_model_and_crashes_after_them_do_not(
    bench: Bench,
) -> None:
    bench.put(frames(20))
    first = bench.source.add(*make_bundle())
    second = bench.source.add(*make_bundle("better", version=2))
    bench.source.order(first)
    bench.until(Phase.ACTIVE)
    bench.source.order(second)
    bench.until(Phase.SHADOW)
    bench.put(frames(31)[20:])
    bench.until(Phase.PROBATION)
    for cut in range(4):
        bench.close(cleanly=False)
        bench.boot = f"{cut:032x}"
        bench.open()
        assert bench.slot.slot.phase is Phase.PROBATION
    for _ in range(3):
        bench.close(cleanly=False)
        bench.open()
    assert bench.slot.slot.phase is Phase.ROLLED_BACK
    assert bench.slot.slot.active == first


def test_switching_to_another_windowing_neither_loses_nor_repeats_samples(bench: Bench) -> None:
    bench.put(frames(40))
    first = bench.source.add(*make_bundle())
    wide = bench.source.add(
        *make_bundle("better", version=2, inputs=[make_input(hop_samples=WINDOW)])
    )
    bench.source.order(first)
    bench.until(Phase.ACTIVE)
    bench.idle()
    bench.source.order(wide)
    bench.until(Phase.PROBATION)
    bench.put(frames(80)[40:])
    bench.until(Phase.ACTIVE)
    bench.idle()
    assert bench.starts() == [*range(0, 39 * HOP, HOP), *range(39 * HOP, 79 * HOP, WINDOW)]
    assert bench.results("shadow") == []


def test_swaps_under_load_lose_no_window_and_repeat_none(bench: Bench) -> None:
    swaps, items = 60, frames(1500)
    bench.put(items[:60])
    refs = [
        bench.source.add(*make_bundle(name, version=n, limits={"probation_windows": 1}))
        for n, name in ((1, "good"), (2, "better"))
    ]
    bench.source.order(refs[0])
    bench.until(Phase.ACTIVE)
    bench.source.order(refs[1])
    bench.until(Phase.SHADOW)
    bench.put(items[60:100])
    bench.until(Phase.ACTIVE)
    for n in range(swaps):
        bench.put(items[100 + 20 * n : 120 + 20 * n])
        bench.source.order(refs[n % 2])
        bench.turn()
        assert bench.slot.slot.active == refs[n % 2]
    bench.idle()
    count = 100 + 20 * swaps
    assert bench.starts() == every_window(count)
    versions = [r["model"]["version"] for r in bench.results()]
    changes = sum(a != b for a, b in itertools.pairwise(versions))
    assert changes == swaps + 1


def test_report_is_valid_and_tells_latency(bench: Bench) -> None:
    bench.put(frames(30))
    bench.source.order(bench.source.add(*make_bundle()))
    bench.until(Phase.ACTIVE)
    bench.idle()
    reported = bench.service.reported()
    assert reported.ledgers[0].balanced
    (state,) = reported.slots
    assert state.state == "ACTIVE"
    assert state.counts["windows"] == 29
    delegated = bench.slot._engine.runner.delegates == ["xnnpack"]
    assert state.counts["xnnpack"] == int(delegated)
    assert 0 < state.latency_us["p50"] <= state.latency_us["p99"]


def test_a_candidate_is_tried_on_the_delegate_that_it_would_serve_on(tmp_path: Path) -> None:
    bench = Bench(tmp_path).open(delegate="edgetpu")
    try:
        bench.put(frames(30))
        bench.source.order(bench.source.add(*make_bundle()))
        bench.until(Phase.REJECTED)
        bench.idle()
        (data,) = [e["data"] for e in bench.rows(Kind.EVENT) if e["type"] == "model.rejected"]
        assert "edgetpu" in data["reason"]
        assert "model.probation" not in bench.events()
    finally:
        bench.close()
        bench.input.close()


def test_bundle_type_is_the_one_of_update() -> None:
    """The source used here hands out what the real one does."""
    assert FolderSource.bundle.__annotations__["return"] == f"{Bundle.__name__} | None"
