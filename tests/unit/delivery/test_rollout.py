"""Rollouts in virtual time: silence never passes, waves hold, a failed gate returns everybody."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldloop_delivery.evidence import Beside, Evidence, Tally, Target
from fieldloop_delivery.figures import figures
from fieldloop_delivery.gatelimits import Gates
from fieldloop_delivery.policy import Maintenance, Plan, Wave
from fieldloop_delivery.records import from_json, member_rows, to_json
from fieldloop_delivery.rollout import (
    Give,
    Look,
    Observation,
    Phase,
    Return,
    Rollout,
    step,
    wanted,
)

OLD = Target("model", "activity", "1", "1" * 64)
NEW = Target("model", "activity", "2", "2" * 64)
WAVES = [Wave(count=1), Wave(percent=30), Wave(all=True)]
GATES = Gates(windows_min=20, quorum=1.0, wait_s_max=1000)
PLAN = Plan(waves=WAVES, gates=GATES)
START = Rollout(id="r" * 32, lane="main", target=NEW, phase=Phase.RUNNING)
IDLE = Evidence(online=True, holds=OLD, runs=OLD.key)
GOOD = replace(IDLE, installed=True, runs=NEW.key, new=Tally(windows=20, latency_us=100))


def fleet(n: int, evidence: Evidence = IDLE) -> dict[str, Evidence]:
    return dict.fromkeys([f"d{i}" for i in range(n)], evidence)


def look(
    state: Rollout, devices: dict[str, Evidence], now_s: float, plan: Plan = PLAN, **gates: object
) -> tuple[Rollout, list[Give | Return]]:
    """One look; effects on devices only."""
    changed = plan.model_copy(update={"gates": plan.gates.model_copy(update=gates)})
    state, effects = step(state, changed, Look(Observation(devices)), now_s)
    return state, [e for e in effects if isinstance(e, Give | Return)]


def first(state: Rollout) -> str:
    return next(iter(state.members))


def walk(n: int, **gates: object) -> tuple[Rollout, dict[str, Evidence]]:
    """Devices that do well until the rollout ends."""
    state, devices = START, fleet(n)
    for now_s in range(50):
        state, effects = look(state, devices, float(now_s), **gates)
        for effect in effects:
            devices[effect.device] = GOOD if isinstance(effect, Give) else IDLE
    return state, devices


def test_good_version_reaches_all_in_waves():
    state, _ = walk(10)
    assert state.phase is Phase.COMPLETED
    assert [sum(m.wave == w for m in state.members.values()) for w in range(3)] == [1, 2, 7]
    assert len(state.passed_s) == 3


@given(n=st.integers(1, 40), looks=st.lists(st.floats(0, 300), min_size=1, max_size=40))
def test_silence_never_passes(n, looks):
    state, devices, now_s = START, fleet(n), 0.0
    for wait_s in looks:
        now_s += wait_s
        state, _ = look(state, devices, now_s)
        assert state.phase is not Phase.COMPLETED
        assert len(state.members) <= 1
        assert state.passed_s == ()


@given(
    n=st.integers(1, 30),
    windows=st.integers(0, 19),
    installed=st.booleans(),
)
def test_too_few_windows_never_pass(n, windows, installed):
    state, _ = look(START, fleet(n), 0.0)
    shown = replace(GOOD, installed=installed, new=Tally(windows=windows))
    devices = {**fleet(n), first(state): shown}
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
        shown = {f"d{i}": replace(data.draw(evidence), holds=OLD) for i in range(n)}
        before = state
        state, effects = look(state, shown, float(now_s))
        for effect in effects:
            held[effect.device] = NEW if isinstance(effect, Give) else effect.previous
        assert len(state.members) <= WAVES[state.wave].size(n)
        assert list(state.members)[: len(before.members)] == list(before.members)
        assert {d: held[d] for d in state.members} == wanted(state)
        assert sum(target == NEW for target in held.values()) == (
            0 if state.phase is Phase.HALTED else len(state.members)
        )
        if before.phase is not Phase.RUNNING:
            assert (state.phase, effects) == (before.phase, [])
        if state.phase is Phase.HALTED:
            assert set(held.values()) == {OLD}
            assert state.verdict.startswith("halted: ")


@given(n=st.integers(1, 12))
def test_the_same_look_twice_orders_nothing_twice(n):
    state, devices = START, fleet(n)
    state, once = look(state, devices, 0.0)
    again, twice = look(state, devices, 0.0)
    assert len(once) == 1
    assert twice == []
    assert again.members == state.members


@given(n=st.integers(1, 12), stop=st.integers(0, 20))
def test_state_survives_the_store_at_any_moment(n, stop):
    state, devices = START, fleet(n)
    for now_s in range(stop):
        state, effects = look(state, devices, float(now_s))
        for effect in effects:
            devices[effect.device] = GOOD
    rows = member_rows(None, state)
    assert from_json(json.loads(json.dumps(to_json(state))), rows) == state


def test_no_evidence_in_time_halts_and_names_it():
    state, _ = look(START, fleet(5), 0.0)
    state, effects = look(state, fleet(5), 1001.0)
    assert state.phase is Phase.HALTED
    assert "insufficient evidence: 0 of 20 running windows, 0 of 1 devices" in state.verdict
    assert effects == [Return(first(state), OLD)]


def test_fleet_without_devices_waits_without_end():
    state, effects = look(START, {}, 0.0)
    state, effects = look(state, {}, 1e6)
    assert (state.phase, effects) == (Phase.RUNNING, [])
    state, effects = look(state, fleet(3), 1e6 + 1)
    assert len(effects) == 1


def test_early_waves_take_devices_that_are_there():
    devices = {**fleet(6, replace(IDLE, online=False)), "d6": IDLE}
    _, effects = look(START, devices, 0.0)
    assert [e.device for e in effects] == ["d6"]


def test_devices_that_are_away_are_touched_when_they_are_back():
    devices = {**fleet(8, IDLE), "gone": replace(IDLE, online=False)}
    state = START
    for now_s in range(50):
        state, effects = look(state, devices, float(now_s), quorum=1.0)
        for effect in effects:
            assert effect.device != "gone"
            devices[effect.device] = GOOD
    assert state.phase is Phase.RUNNING
    assert "8 of 9 devices have shown enough" in state.verdict
    devices["gone"] = IDLE
    state, effects = look(state, devices, 51.0)
    assert [e.device for e in effects] == ["gone"]
    state, _ = look(state, {**devices, "gone": GOOD}, 52.0)
    assert state.phase is Phase.COMPLETED


def test_devices_gone_for_long_are_not_waited_for():
    devices = {**fleet(4, GOOD), "gone": replace(IDLE, online=False, away_s=8 * 86_400.0)}
    state = START
    for now_s in range(20):
        state, _ = look(state, devices, float(now_s))
    assert state.phase is Phase.COMPLETED
    assert "gone" not in state.members


def test_stopped_machine_is_waited_for_with_the_count():
    state, _ = look(START, fleet(1), 0.0, windows_min=200)
    shown = replace(GOOD, new=Tally(windows=12), idle=3_400)
    state, _ = look(state, {"d0": shown}, 60.0, windows_min=200)
    assert "waiting: 12 of 200 running windows" in state.verdict
    assert "3400 windows of stopped machines count for nothing" in state.verdict


def test_nobody_is_touched_outside_maintenance_and_everybody_goes_back_at_once():
    night = Plan(waves=WAVES, gates=GATES, maintenance=[Maintenance(start="22:00", end="04:00")])
    noon, midnight = 12 * 3600.0, 24 * 3600.0
    state, effects = look(START, fleet(3), noon, night)
    assert effects == []
    assert "outside maintenance" in state.verdict
    state, effects = look(state, fleet(3), midnight, night)
    assert len(effects) == 1
    failed = {**fleet(3), first(state): replace(IDLE, failed="REJECTED: golden")}
    state, effects = look(state, failed, midnight + 12 * 3600, night)
    assert [type(e) for e in effects] == [Return]


def test_no_more_devices_are_at_work_than_allowed():
    plan = Plan(waves=[Wave(all=True)], gates=GATES, in_flight_max=2)
    state, devices, largest = START, fleet(7), 0
    for now_s in range(60):
        state, _effects = look(state, devices, float(now_s), plan)
        at_work = [d for d in state.members if not devices[d].installed]
        largest = max(largest, len(at_work))
        if now_s % 3 == 0 and at_work:
            devices[at_work[0]] = GOOD
    assert largest == 2
    assert state.phase is Phase.COMPLETED


def test_soak_is_waited_for():
    state, _ = look(START, fleet(4), 0.0, soak_s=60)
    device = first(state)
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
        (
            replace(GOOD, beside=Beside(windows=100, agreed=40)),
            "agreement in shadow 0.400 over 100 windows",
        ),
    ],
)
def test_each_failed_gate_is_named_with_its_figures(shown, named):
    state, _ = look(START, fleet(3), 0.0)
    devices = {**fleet(3), first(state): shown}
    state, effects = look(state, devices, 1.0, agreement_min=0.5)
    assert state.phase is Phase.HALTED
    assert named in state.verdict
    assert [e.previous for e in effects] == [OLD]


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
    devices = {**fleet(3), first(state): shown}
    state, _ = look(state, devices, 1.0)
    assert state.phase is Phase.RUNNING


def test_recalled_version_halts_at_once():
    state, _ = look(START, fleet(3), 0.0)
    seen = Observation(fleet(3), withdrawn="the version is recalled")
    state, effects = step(state, PLAN, Look(seen), 1.0)
    assert state.verdict == "halted: the version is recalled"
    assert sum(isinstance(e, Return) for e in effects) == 1


def test_figures_count_touched_devices_only():
    state, _ = look(START, fleet(3), 0.0)
    f = figures(state, fleet(3, GOOD))
    assert (f["touched"], f["installed"], f["windows"]) == (1, 1, 20)
