"""The simulated machine: its spectra stand where the formulas say."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from fieldloop_contract.errors import FixConfiguration
from fieldloop_ingestion.sources.machine import MachineOptions, MachineSource
from fieldloop_ingestion.sources.machinery import (
    DIRECTIONS,
    Bearing,
    Defect,
    Duty,
    Machine,
    Severity,
    Simulation,
    duty_at,
    load_zone,
)
from support.sources import FakeClock, Store, context_of, stream_of

RATE_HZ = 3_200.0
STEADY = {"drift": 0.0, "noise": 0.0, "imbalance": 0.0, "misalignment": 0.0, "shaft_hz": 25.0}
CWRU = Bearing(elements=9, element_mm=7.94, pitch_mm=39.04)


def signal(machine: Machine, seconds: float = 8.0, *, seed: int = 3) -> NDArray[np.float64]:
    """float64[n, 3]: horizontal, vertical, axial."""
    simulation = Simulation(machine, rate_hz=RATE_HZ, columns=DIRECTIONS, seed=seed)
    state, blocks = simulation.begin(), []
    for _ in range(int(seconds * RATE_HZ / 320)):
        state, values = simulation.block(state, 320)
        blocks.append(np.array(values).reshape(-1, 3))
    return np.concatenate(blocks).astype(np.float64)


def amplitudes(x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Frequencies in Hz and amplitudes, Hann window."""
    window = np.hanning(len(x))
    spectrum = np.abs(np.fft.rfft((x - x.mean()) * window)) * 2 / window.sum()
    return np.fft.rfftfreq(len(x), 1 / RATE_HZ), spectrum


def at(x: NDArray[np.float64], hz: float, within_hz: float = 0.5) -> float:
    frequencies, spectrum = amplitudes(x)
    return float(spectrum[np.abs(frequencies - hz) <= within_hz].max())


def envelope(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Magnitude of the analytic signal."""
    spectrum = np.fft.fft(x)
    spectrum[len(x) // 2 + 1 :] = 0
    spectrum[1 : len(x) // 2] *= 2
    return np.abs(np.fft.ifft(spectrum))


def defect(fault: str, **changes: object) -> Machine:
    return Machine.model_validate(
        {**STEADY, "defects": [{"fault": fault}], "slip": 0.01, **changes}
    )


# ---- the formulas -------------------------------------------------------------------------------


def test_bearing_frequencies_of_a_known_bearing():
    """SKF 6205 as the Case Western Reserve University bearing data centre states it, in orders."""
    assert CWRU.outer_orders == pytest.approx(3.5848, rel=1e-3)
    assert CWRU.inner_orders == pytest.approx(5.4152, rel=1e-3)
    assert CWRU.cage_orders == pytest.approx(0.39828, rel=1e-3)
    assert CWRU.impulse_orders("ball") == pytest.approx(4.7135, rel=1e-3)


def test_outer_and_inner_add_up_to_the_number_of_elements():
    bearing = Bearing(elements=12, element_mm=10, pitch_mm=60, contact_deg=25)
    assert bearing.outer_orders + bearing.inner_orders == pytest.approx(12)
    assert bearing.outer_orders == pytest.approx(12 * bearing.cage_orders)


def test_the_load_zone_is_where_the_load_is():
    assert load_zone(0.0, 0.4) == 1.0
    assert load_zone(math.pi, 0.4) == 0.0
    assert load_zone(1.7, 0.6) > load_zone(1.7, 0.4) == 0.0
    falling = [load_zone(a, 0.4) for a in np.linspace(0, math.pi, 20)]
    assert all(a >= b for a, b in itertools.pairwise(falling))


# ---- spectra ------------------------------------------------------------------------------------


def test_imbalance_stands_at_the_shaft_and_goes_with_the_square_of_speed():
    x = signal(Machine.model_validate({**STEADY, "imbalance": 1.0}))
    assert at(x[:, 0], 25) == pytest.approx(1.0, rel=0.02)
    assert at(x[:, 0], 50) < 0.01
    half = Machine.model_validate(
        {**STEADY, "imbalance": 1.0, "schedule": [{"for_s": 1000, "speed": 0.5}]}
    )
    assert at(signal(half)[:, 0], 12.5) == pytest.approx(0.25, rel=0.02)


def test_the_vertical_lags_the_horizontal_by_a_quarter_turn():
    x = signal(Machine.model_validate({**STEADY, "imbalance": 1.0}))
    crossed = np.fft.rfft(x[:, 0]) * np.conj(np.fft.rfft(x[:, 1]))
    angle = np.angle(crossed[round(25 * len(x) / RATE_HZ)])
    assert abs(angle) == pytest.approx(math.pi / 2, abs=0.02)


def test_misalignment_stands_at_two_and_three_times_the_shaft_most_of_it_axial():
    x = signal(Machine.model_validate({**STEADY, "misalignment": 1.0}))
    assert at(x[:, 2], 50) == pytest.approx(1.0, rel=0.02)
    assert at(x[:, 2], 75) == pytest.approx(0.35, rel=0.02)
    assert at(x[:, 2], 25) < 0.01
    assert at(x[:, 0], 50) < at(x[:, 2], 50)


@pytest.mark.parametrize("fault", ["outer", "inner", "ball", "cage"])
def test_the_envelope_spectrum_shows_the_frequency_of_the_fault(fault: str):
    machine = defect(fault)
    x = envelope(signal(machine, 10)[:, 1])
    wanted_hz = 25 * machine.bearing.impulse_orders(fault)
    peak = at(x, wanted_hz, 0.03 * wanted_hz)
    frequencies, spectrum = amplitudes(x)
    band = (frequencies > 2) & (frequencies < 500)
    assert peak > 8 * np.median(spectrum[band])
    others = {"outer", "inner", "ball"} - {fault}
    if fault != "cage":
        for other in others:
            assert peak > 1.5 * at(x, 25 * machine.bearing.impulse_orders(other))


def test_an_outer_race_fault_leads_the_envelope_spectrum():
    machine = defect("outer")
    frequencies, spectrum = amplitudes(envelope(signal(machine, 10)[:, 1]))
    band = (frequencies > 5) & (frequencies < 150)
    found_hz = frequencies[band][spectrum[band].argmax()]
    assert found_hz == pytest.approx(25 * machine.bearing.outer_orders, rel=0.01)


def test_an_inner_race_fault_is_modulated_by_the_shaft_and_an_outer_one_is_not():
    inner, outer = (envelope(signal(defect(f), 10)[:, 1]) for f in ("inner", "outer"))
    assert at(inner, 25) > 5 * at(outer, 25)
    bpfi_hz = 25 * CWRU.inner_orders
    assert at(inner, bpfi_hz - 25, 2) > 0.2 * at(inner, bpfi_hz, 2)


def test_impulses_ring_the_resonance():
    x = signal(defect("outer"))[:, 1]
    frequencies, spectrum = amplitudes(x)
    energy = spectrum**2
    near = np.abs(frequencies - 1_100) < 200
    assert energy[near].sum() > 0.6 * energy.sum()


def test_one_impulse_decays_as_the_damped_sinusoid_it_is():
    slow = defect(
        "outer", shaft_hz=1.0, damping=0.02, slip=0.0, bearing={"elements": 3, "element_mm": 1}
    )
    x = signal(slow, 4)[:, 1]
    peak = int(np.abs(x).argmax())
    omega = 2 * math.pi * 1_100
    later = round(0.02 * RATE_HZ)
    ring = np.abs(x[peak : peak + 2 * later])
    ratio = ring[later : later + 30].max() / ring[:30].max()
    assert ratio == pytest.approx(math.exp(-0.02 * omega * later / RATE_HZ), rel=0.15)


def test_slip_smears_the_higher_harmonics():
    exact, slipping = (envelope(signal(defect("outer", slip=s), 10)[:, 1]) for s in (0.0, 0.02))
    sixth_hz = 6 * 25 * CWRU.outer_orders
    assert at(slipping, sixth_hz, 1) < 0.5 * at(exact, sixth_hz, 1)


def test_the_noise_has_the_stated_deviation():
    x = signal(Machine.model_validate({**STEADY, "noise": 0.3}), 4)
    assert x.std(axis=0) == pytest.approx([0.3] * 3, rel=0.03)
    assert abs(np.corrcoef(x[:, 0], x[:, 1])[0, 1]) < 0.05


# ---- over time ----------------------------------------------------------------------------------


def test_severity_grows_from_its_onset_and_ends_at_its_bound():
    grows = Severity(kind="growth", level=0.5, onset_s=10, doubling_s=5, level_max=3)
    assert [grows.at(t) for t in (0, 9.9, 10, 15, 20, 1e9)] == [0, 0, 0.5, 1, 2, 3]
    assert Severity(kind="none").at(1e6) == 0
    assert Severity(kind="constant", level=2, onset_s=1).at(0.5) == 0


def test_a_growing_fault_is_heard_more_and_more():
    machine = defect("outer", defects=[
        {"fault": "outer", "severity": {"kind": "growth", "onset_s": 2, "doubling_s": 1}}
    ])  # fmt: skip
    x = signal(machine, 6)[:, 1]
    rms = [float(np.sqrt(np.mean(part**2))) for part in np.split(x, 6)]
    assert rms[0] == rms[1] == 0
    assert all(later > 1.6 * earlier for earlier, later in itertools.pairwise(rms[2:]))


def test_the_schedule_is_repeated():
    schedule = [Duty(for_s=10), Duty(for_s=5, speed=0, load=0)]
    speeds = [duty_at(schedule, t).speed for t in (0, 9.9, 10, 14.9, 15, 25, 30)]
    assert speeds == [1, 1, 0, 0, 1, 0, 1]
    assert duty_at([], 5) is None


def test_a_machine_that_stands_still_makes_noise_only():
    machine = Machine.model_validate(
        {
            "defects": [{"fault": "inner"}],
            "noise": 0.01,
            "ramp_s": 0.1,
            "schedule": [{"for_s": 2}, {"for_s": 100, "speed": 0, "load": 0}],
        }
    )
    x = signal(machine, 8)
    assert x[: int(RATE_HZ)].std() > 0.05
    assert x[int(5 * RATE_HZ) :].std() == pytest.approx(0.01, rel=0.1)


def test_the_speed_drifts_slowly():
    machine = Machine.model_validate(
        {**STEADY, "imbalance": 1.0, "drift": 0.02, "drift_period_s": 40}
    )
    x = signal(machine, 40)[:, 0]
    quarter = int(10 * RATE_HZ)
    ups, downs = (np.sum((p[1:] >= 0) & (p[:-1] < 0)) for p in (x[:quarter], x[-quarter:]))
    assert ups / 10 == pytest.approx(25 * (1 + 0.02 * 2 / math.pi), abs=0.15)
    assert downs / 10 == pytest.approx(25 * (1 - 0.02 * 2 / math.pi), abs=0.15)


def test_one_seed_makes_one_signal():
    machine = Machine(defects=[Defect(fault="ball")])
    assert np.array_equal(signal(machine, 1), signal(machine, 1))
    assert not np.array_equal(signal(machine, 1), signal(machine, 1, seed=4))


# ---- the source ---------------------------------------------------------------------------------


def source_on(clock: FakeClock, store: Store, **options: object) -> MachineSource:
    made = MachineOptions.model_validate(options)
    return MachineSource(made, context_of(store.stream, clock.now, store.recall))


def test_frames_follow_each_other_without_a_gap():
    clock, store = FakeClock(), Store(stream_of("x", "y", "z", rate_hz=3_200))
    source = source_on(clock, store)
    for _ in range(40):
        clock.s += 0.05
        source.poll(store, clock.s)
    assert len(store.frames) == 19
    for before, after in itertools.pairwise(store.frames):
        assert after.t0_ns == before.t1_ns


def test_a_service_that_was_stopped_goes_on_from_now_and_leaves_a_gap():
    clock, store = FakeClock(), Store(stream_of("x", "y", "z", rate_hz=3_200))
    source = source_on(clock, store)
    source.poll(store, clock.s)
    clock.s += 0.1
    source.poll(store, clock.s)
    clock.s += 3_600
    source.poll(store, clock.s)
    clock.s += 0.1
    source.poll(store, clock.s)
    assert len(store.frames) == 2
    assert store.frames[1].t0_ns - store.frames[0].t1_ns == pytest.approx(3_600e9, rel=1e-3)


def test_the_work_of_one_poll_is_bounded():
    clock, store = FakeClock(), Store(stream_of("x", rate_hz=3_200))
    source = source_on(clock, store, speed=0)
    assert source.poll(store, clock.s) == 0.0
    assert len(store.rows()) == 6_400


def test_a_sensor_saturates_at_its_range():
    clock, store = FakeClock(), Store(stream_of("x", rate_hz=3_200, min=-0.02, max=0.02))
    source = source_on(clock, store, speed=0)
    source.poll(store, clock.s)
    assert not store.letters
    top = max(value for (value,) in store.rows())
    assert top == pytest.approx(0.02)


def test_a_machine_with_other_defects_goes_on_where_the_old_one_stood():
    clock, store = FakeClock(), Store(stream_of("x", rate_hz=3_200))
    source_on(clock, store, speed=0).poll(store, clock.s)
    before = len(store.rows())
    other = source_on(clock, store, speed=0, machine={"defects": [{"fault": "outer"}]})
    other.poll(store, clock.s)
    assert len(store.rows()) == 2 * before
    assert not store.letters


@pytest.mark.parametrize(
    ("options", "rate_hz", "reason"),
    [
        ({"machine": {"defects": [{"fault": "outer"}]}}, 1_000, "resonance"),
        ({"machine": {"shaft_hz": 600}}, 3_200, "too fast"),
        ({"directions": ["axial", "axial"]}, 3_200, "directions"),
    ],
)
def test_a_machine_that_cannot_be_sampled_is_a_fault_of_the_profile(
    options: dict[str, object], rate_hz: float, reason: str
):
    store = Store(stream_of("x", rate_hz=rate_hz))
    with pytest.raises(FixConfiguration, match=reason):
        source_on(FakeClock(), store, **options)


@pytest.mark.parametrize(
    "machine",
    [
        {"shaft_hz": 0},
        {"bearing": {"element_mm": 50, "pitch_mm": 40}},
        {"defects": [{"fault": "gear"}]},
        {"damping": 1.5},
        {"noise": float("nan")},
        {"unknown": 1},
    ],
)
def test_impossible_machines_are_refused(machine: dict[str, object]):
    with pytest.raises(ValidationError):
        MachineOptions.model_validate({"machine": machine})
