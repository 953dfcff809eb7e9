"""Rollouts in virtual time: silence never passes, waves hold, a failed gate returns everybody."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldloop_contract.messages import ModelRef
from fieldloop_delivery.policy import Gates, Wave
from fieldloop_delivery.rollout import (
    Assign,
    Evidence,
    Observation,
    Phase,
    Rollout,
    Tally,
    figures,
    step,
)

OLD = ModelRef(name="activity", version=1, digest="1" * 64)
NEW = ModelRef(name="activity", version=2, digest="2" * 64)
WAVES = [Wave(count=1), Wave(percent=30), Wave(percent=100)]
GATES = Gates(windows_min=20, quorum=1.0, wait_s_max=1000)
START = Rollout(id="r" * 32, slot="main", target=NEW)
IDLE = Evidence(online=True)
GOOD = Evidence(online=True, installed=True, new=Tally(windows=20, latency_us=100))


def fleet(n: int, evidence: Evidence = IDLE) -> dict[str, Evidence]:
    return dict.fromkeys([f"d{i}" for i in range(n)], evidence)


def look(state: Rollout, devices: dict[str, Evidence], now_s: float, **gates: object):
    seen = Observation(devices, dict.fromkeys(devices, OLD))
    return step(state, WAVES, GATES.model_copy(update=gates), seen, now_s)


def walk(n: int, **gates: object) -> tuple[Rollout, dict[str, Evidence]]:
    """Devices that do well until the rollout ends."""
    state, devices = START, fleet(n)
    for now_s in range(50):
        state, effects = look(state, devices, float(now_s), **gates)
        for effect in effects:
            devices[effect.device] = GOOD if effect.model == NEW else IDLE
    return state, devices


def test_good_version_reaches_all_in_waves():
    state, _ = walk(10)
    assert state.phase is Phase.COMPLETED
    assert [sum(t.wave == w for t in state.touched) for w in range(3)] == [1, 2, 7]
    assert len(state.passed_s) == 3


@given(n=st.integers(1, 40), looks=st.lists(st.floats(0, 300), min_size=1, max_size=40))
def test_silence_never_passes(n, looks):
    state, devices, now_s = START, fleet(n), 0.0
    for wait_s in looks:
        now_s += wait_s
        state, _ = look(state, devices, now_s)
        assert state.phase is not Phase.COMPLETED
        assert len(state.touched) <= 1
        assert state.passed_s == ()


@given(
    n=st.integers(1, 30),
    windows=st.integers(0, 19),
    installed=st.booleans(),
)
def test_too_few_windows_never_pass(n, windows, installed):
    state, _ = look(START, fleet(n), 0.0)
    shown = replace(GOOD, installed=installed, new=Tally(windows=windows))
    devices = {**fleet(n), state.touched[0].device: shown}
    for now_s in (1.0, 500.0, 999.0):
        state, effects = look(state, devices, now_s)
        assert state.wave == 0
        assert effects == []


evidence = st.builds(
    Evidence,
    online=st.booleans(),
    installed=st.booleans(),
    failed=st.sampled_from(["", "", "", "REJECTED"]),
    new=st.builds(
        Tally,
        windows=st.integers(0, 200),
        invalid=st.integers(0, 3),
        latency_us=st.floats(1, 1e5),
        labelled=st.integers(0, 150),
        correct=st.integers(0, 0),
    ),
    old=st.builds(Tally, windows=st.integers(0, 200), latency_us=st.floats(1, 1e5)),
)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), n=st.integers(1, 10))
def test_touched_never_exceeds_the_wave_and_a_halt_returns_everyone(data, n):
    """Whatever devices show: waves hold, each is touched once, and a halt gives all of it back."""
    state, held = START, {f"d{i}": OLD for i in range(n)}
    for now_s in range(0, 2000, 250):
        shown = {f"d{i}": data.draw(evidence) for i in range(n)}
        before = state
        state, effects = step(state, WAVES, GATES, Observation(shown, held), float(now_s))
        for effect in effects:
            held[effect.device] = effect.model
        names = [t.device for t in state.touched]
        assert len(names) == len(set(names))
        assert len(names) <= WAVES[state.wave].size(n)
        assert state.touched[: len(before.touched)] == before.touched
        assert sum(ref == NEW for ref in held.values()) == (
            0 if state.phase is Phase.HALTED else len(names)
        )
        if before.phase is not Phase.RUNNING:
            assert state == before
            assert effects == []
        if state.phase is Phase.HALTED:
            assert set(held.values()) == {OLD}
            assert state.verdict.startswith("halted: ")


@given(n=st.integers(1, 12))
def test_the_same_look_twice_orders_nothing_twice(n):
    state, devices = START, fleet(n)
    state, first = look(state, devices, 0.0)
    again, second = look(state, devices, 0.0)
    assert len(first) == 1
    assert second == []
    assert again.touched == state.touched


@given(n=st.integers(1, 12), stop=st.integers(0, 20))
def test_state_survives_the_store_at_any_moment(n, stop):
    state, devices = START, fleet(n)
    for now_s in range(stop):
        state, effects = look(state, devices, float(now_s))
        for effect in effects:
            devices[effect.device] = GOOD
    assert Rollout.from_json(state.to_json()) == state


def test_no_evidence_in_time_halts_and_names_it():
    state, _ = look(START, fleet(5), 0.0)
    state, effects = look(state, fleet(5), 1001.0)
    assert state.phase is Phase.HALTED
    assert "insufficient evidence: 0 of 1 devices" in state.verdict
    assert effects == [Assign(state.touched[0].device, OLD)]


def test_fleet_without_devices_waits_without_end():
    state, effects = look(START, {}, 0.0)
    state, effects = look(state, {}, 1e6)
    assert (state.phase, effects) == (Phase.RUNNING, [])
    state, effects = look(state, fleet(3), 1e6 + 1)
    assert len(effects) == 1


def test_early_waves_take_devices_that_are_there():
    devices = {**fleet(6, Evidence(online=False)), "d6": IDLE}
    _, effects = look(START, devices, 0.0)
    assert [e.device for e in effects] == ["d6"]


def test_devices_that_are_away_catch_up_in_the_last_wave():
    devices = {**fleet(8, IDLE), "gone": Evidence(online=False)}
    state = START
    for now_s in range(50):
        state, effects = look(state, devices, float(now_s), quorum=0.8)
        for effect in effects:
            if effect.device != "gone":
                devices[effect.device] = GOOD
    assert state.phase is Phase.COMPLETED
    assert "gone" in {t.device for t in state.touched}


def test_soak_is_waited_for():
    state, _ = look(START, fleet(4), 0.0, soak_s=60)
    device = state.touched[0].device
    devices = {**fleet(4), device: GOOD}
    state, _ = look(state, devices, 10.0, soak_s=60)
    state, _ = look(state, devices, 69.0, soak_s=60)
    assert (state.wave, state.verdict) == (0, "wave 1 of 3: soaking")
    state, _ = look(state, devices, 70.0, soak_s=60)
    assert state.wave == 1


@pytest.mark.parametrize(
    ("shown", "named"),
    [
        (replace(GOOD, failed="ROLLED_BACK: crash loop"), "ROLLED_BACK: crash loop"),
        (replace(GOOD, new=Tally(windows=100, invalid=10)), "10 of 100 windows were invalid"),
        (
            replace(
                GOOD,
                new=Tally(windows=100, latency_us=30_000),
                old=Tally(windows=100, latency_us=9_000),
            ),
            "mean latency 30000 us, before 9000 us",
        ),
        (
            replace(
                GOOD,
                new=Tally(windows=1000, labelled=1000, correct=600),
                old=Tally(windows=1000, labelled=1000, correct=900),
            ),
            "accuracy 0.600 over 1000 windows, before 0.900 over 1000",
        ),
        (replace(GOOD, shadowed=100, agreed=40), "agreement in shadow 0.400 over 100 windows"),
    ],
)
def test_each_failed_gate_is_named_with_its_figures(shown, named):
    state, _ = look(START, fleet(3), 0.0)
    devices = {**fleet(3), state.touched[0].device: shown}
    state, effects = look(state, devices, 1.0, agreement_min=0.5)
    assert state.phase is Phase.HALTED
    assert named in state.verdict
    assert [e.model for e in effects] == [OLD]


@pytest.mark.parametrize(
    "shown",
    [
        replace(GOOD, new=Tally(windows=100, latency_us=400), old=Tally(100, 0, 100)),
        replace(
            GOOD,
            new=Tally(windows=50, labelled=50, correct=20),
            old=Tally(windows=50, labelled=50, correct=45),
        ),
        replace(
            GOOD,
            new=Tally(windows=400, labelled=400, correct=340),
            old=Tally(windows=400, labelled=400, correct=350),
        ),
    ],
)
def test_noise_and_trifles_do_not_halt(shown):
    state, _ = look(START, fleet(3), 0.0)
    devices = {**fleet(3), state.touched[0].device: shown}
    state, _ = look(state, devices, 1.0)
    assert state.phase is Phase.RUNNING


def test_recalled_version_halts_at_once():
    state, _ = look(START, fleet(3), 0.0)
    seen = Observation(fleet(3), {}, withdrawn="the version is recalled")
    state, effects = step(state, WAVES, GATES, seen, 1.0)
    assert state.verdict == "halted: the version is recalled"
    assert len(effects) == 1


def test_figures_count_touched_devices_only():
    state, _ = look(START, fleet(3), 0.0)
    f = figures(state, Observation(fleet(3, GOOD)))
    assert (f.touched, f.installed, f.windows) == (1, 1, 20)
