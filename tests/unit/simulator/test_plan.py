"""What is drawn for a fleet follows from the seed alone."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from fieldloop_contract.errors import FixConfiguration
from fieldloop_contract.frames import Clock
from fieldloop_contract.messages import ModelRef
from fieldloop_runtime.settings import load
from fieldloop_simulator.__main__ import main
from fieldloop_simulator.clock import VirtualClock
from fieldloop_simulator.fleet import Fleet, add_up, quantile
from fieldloop_simulator.line import SimulatedLine
from fieldloop_simulator.models import bundle
from fieldloop_simulator.plan import (
    PROFILES,
    ClockFault,
    Network,
    Span,
    device_plan,
    digest,
    network_of,
)
from fieldloop_simulator.settings import (
    DriftSettings,
    NetworkSettings,
    SignalSettings,
    SimulatorSettings,
)
from fieldloop_simulator.signals import STEP, Signal
from fieldloop_simulator.standins import Behaviour, StandInRunner, behaviour_of


def settings(**changes: Any) -> SimulatorSettings:
    return SimulatorSettings(
        **{
            "fleet": "acme",
            "seconds": 3600.0,
            "network": {"profile": "lte"},
            "faults": {"power_cuts_per_hour": 10, "clock_share": 0.5},
            "drift": {"share": 0.5},
            **changes,
        }
    )


def plans(**changes: Any) -> str:
    made = settings(**changes)
    return digest(device_plan(made, index) for index in range(50))


def test_the_same_seed_gives_the_same_plan_and_another_seed_another():
    assert plans() == plans()
    assert plans() != plans(seed=2)


def test_a_device_has_the_same_plan_in_a_fleet_of_any_size_and_with_other_faults_beside():
    few, many = settings(devices=10), settings(devices=1_000, processes=8)
    assert device_plan(few, 7) == device_plan(many, 7)
    other = settings(faults={"power_cuts_per_hour": 50})
    assert device_plan(other, 7).cuts == device_plan(few, 7).cuts


def test_spans_of_a_plan_follow_one_another_within_the_run():
    for index in range(50):
        plan = device_plan(settings(), index)
        for spans in (plan.cuts, plan.power):
            edges = [edge for span in spans for edge in (span.begin_s, span.end_s)]
            assert edges == sorted(edges)
            assert all(0 <= edge <= 3600 for edge in edges)


def test_faults_come_as_often_as_they_were_asked_for():
    made = [device_plan(settings(), index) for index in range(200)]
    assert 9 < sum(len(p.power) for p in made) / 200 < 11
    assert 0.4 < sum(p.clock is not None for p in made) / 200 < 0.6
    assert 0.4 < sum(p.drift_s is not None for p in made) / 200 < 0.6


def test_what_is_set_beside_a_profile_replaces_that_part_of_it():
    assert network_of(NetworkSettings(profile="lte")) == PROFILES["lte"]
    mixed = network_of(NetworkSettings(profile="lte", loss=0.2, rtt_ms=100))
    assert (mixed.loss, mixed.rtt_s, mixed.bytes_s) == (0.2, 0.1, PROFILES["lte"].bytes_s)


def test_signals_repeat_and_lie_at_the_level_of_their_state():
    one, two = (Signal(SignalSettings(), DriftSettings(), None, 5) for _ in range(2))
    for at in range(0, 200, 5):
        (a, state), (b, other) = one.frame(at), two.frame(at)
        assert state == other
        assert np.array_equal(a, b)
        assert a.shape == (50, 3)
        assert abs(a[:, 0].mean() - STEP * state) < 0.2


def test_drift_moves_every_channel_by_as_much_as_was_asked_for():
    drift = DriftSettings(shift=7.0, over_s=10.0)
    plain = Signal(SignalSettings(), DriftSettings(), None, 5)
    drifting = Signal(SignalSettings(), drift, 20.0, 5)
    for at, shift in ((0, 0.0), (20, 0.0), (25, 3.5), (100, 7.0)):
        moved = np.abs(drifting.frame(at)[0] - plain.frame(at)[0]).mean(axis=0)
        assert moved == pytest.approx([shift] * 3, abs=1e-4)


def test_a_line_is_down_in_its_cuts_and_calm_ends_them():
    line = SimulatedLine(Network(), (Span(1.0, 2.0), Span(5.0, 6.0)), 1, lambda now: now)
    assert [line.up(at) for at in (0.5, 1.0, 1.9, 2.0, 5.5, 6.0)] == [
        True, False, False, True, False, True,
    ]  # fmt: skip
    line.calm = True
    assert line.up(1.5)


def test_a_line_delays_by_half_a_round_trip_bandwidth_and_losses_and_keeps_the_order():
    line = SimulatedLine(Network(rtt_s=0.1, bytes_s=1_000), (), 1, lambda now: now)
    assert line.delay_s(500, 0.0) == pytest.approx(0.55)
    assert line.delay_s(500, 0.0) == pytest.approx(1.05)  # behind the first one
    lossy = SimulatedLine(Network(0.1, 0.05, 0.5, 0), (), 1, lambda now: now)
    arrivals = [at / 10 + lossy.delay_s(100, at / 10) for at in range(200)]
    assert all(b > a - 1e-9 for a, b in pairwise(arrivals))
    assert max(a - at / 10 for at, a in enumerate(arrivals)) > 0.2


def test_a_clock_is_wrong_as_long_as_its_fault_lasts_and_says_so_where_it_knows():
    at = [0.0]
    fault = ClockFault(10.0, 20.0, -1_790_000_000.0, True)
    clock = VirtualClock(fault, 1, lambda _: at[0])
    good = clock.now()
    assert good.clock is Clock.SYNCHRONISED
    at[0] = 15.0
    bad = clock.now()
    assert bad.clock is Clock.UNKNOWN
    assert bad.utc_ns < good.utc_ns - 10**18
    assert clock.boot == good.boot
    clock.reboot()
    assert clock.now().boot != good.boot


def test_a_simulated_model_says_in_its_file_how_it_behaves():
    wanted = Behaviour(accuracy=0.5, fault="nan", share=0.25)
    manifest, files = bundle(
        SignalSettings(), name="activity", version=3, size=1_000, behaviour=wanted
    )
    assert behaviour_of(files["model.tflite"]) == wanted
    assert len(files["model.tflite"]) == 1_000
    assert behaviour_of(b"TFL3 something else") == Behaviour()
    assert isinstance(manifest.ref(), ModelRef)


@pytest.mark.parametrize(("accuracy", "low", "high"), [(1.0, 1.0, 1.0), (0.7, 0.6, 0.8)])
def test_the_stand_in_finds_the_state_as_often_as_it_shall(
    accuracy: float, low: float, high: float
):
    signal = SignalSettings(state_s=20.0)
    manifest, _ = bundle(
        signal, name="activity", version=1, size=500, behaviour=Behaviour(), window_s=5.0
    )
    runner = StandInRunner(manifest, Behaviour(accuracy=accuracy), "virtual-00001")
    source = Signal(signal, DriftSettings(), None, 9)
    right = 0
    for at in range(0, 2_000, 5):
        samples, state = source.frame(at)
        (output,) = runner.run([samples[None]])
        right += int(output.argmax()) == state
    assert low <= right / 400 <= high


def test_a_fault_shows_on_its_share_of_the_devices():
    manifest, _ = bundle(SignalSettings(), name="a", version=1, size=500, behaviour=Behaviour())
    bad = Behaviour(fault="nan", share=0.3)
    window = np.zeros((1, 100, 3), np.float32)
    outputs = [
        StandInRunner(manifest, bad, f"virtual-{n:05d}").run([window])[0] for n in range(500)
    ]
    assert 0.2 < sum(not np.isfinite(o).all() for o in outputs) / 500 < 0.4


def test_figures_of_processes_add_up():
    total = add_up(
        [
            {"on": 2, "stored": 5, "dropped": {"size": 1}, "latencies_s": [3.0], "late_s": 0.1},
            {"on": 1, "stored": 7, "dropped": {"size": 2}, "latencies_s": [1.0], "late_s": 0.3},
        ]
    )
    assert (total["on"], total["stored"], total["late_s"]) == (3, 12, 0.3)
    assert total["dropped"] == {"size": 3}
    assert total["latencies_s"] == [1.0, 3.0]
    assert quantile([], 0.5) == 0.0


def test_plan_prints_what_will_happen_and_connects_to_nothing(capsys: pytest.CaptureFixture[str]):
    environ = {"FIELDLOOP_NETWORK_CUTS_PER_HOUR": "60"}
    assert main(["plan", "--fleet", "acme", "--devices", "3", "--seconds", "600"], environ) == 0
    shown = capsys.readouterr()
    lines = [json.loads(line) for line in shown.out.splitlines()]
    assert [line["device"] for line in lines] == ["virtual-00000", "virtual-00001", "virtual-00002"]
    assert any(line["network_cuts"] for line in lines)
    assert shown.err.startswith("plan ")


@pytest.mark.parametrize(
    ("environ", "word"),
    [
        ({"FIELDLOOP_DEVICES": "0"}, "FIELDLOOP_DEVICES"),
        ({"FIELDLOOP_NETWORK_PROFILE": "5g"}, "FIELDLOOP_NETWORK_PROFILE"),
        ({"FIELDLOOP_SIGNAL_CHANELS": "x:1"}, "did you mean FIELDLOOP_SIGNAL_CHANNELS"),
    ],
)
def test_wrong_settings_are_named(
    environ: dict[str, str], word: str, capsys: pytest.CaptureFixture[str]
):
    assert main(["plan", "--fleet", "acme"], environ) == 78
    assert word in capsys.readouterr().err


@pytest.mark.parametrize(
    ("environ", "word"),
    [
        ({"FIELDLOOP_SIGNAL_CHANNELS": "ax"}, "name:unit"),
        ({"FIELDLOOP_ROOT_FILE": "/nowhere/root.json"}, "trusted root"),
    ],
)
def test_what_only_a_run_needs_is_checked_before_it_begins(environ: dict[str, str], word: str):
    made = load(SimulatorSettings, {"FIELDLOOP_FLEET": "acme", **environ})
    with pytest.raises(FixConfiguration, match=word):
        Fleet(made, lambda _: None)
