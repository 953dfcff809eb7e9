"""Seeded fleets in virtual time, through the engine that runs in production."""

from __future__ import annotations

import pytest

from fieldloop_delivery import planning, simulation
from fieldloop_delivery.gatelimits import Gates
from fieldloop_delivery.policy import Plan, Wave
from fieldloop_delivery.simulation import HOUR, simulate, statement
from fieldloop_delivery.simworld import Fleet

PLAN = Plan(
    waves=[Wave(count=40), Wave(all=True)],
    gates=Gates(windows_min=60, soak_s=6 * HOUR, wait_s_max=24 * HOUR, failed_share_max=0.05),
    cohorts=["site"],
)
SMALL = Fleet(devices=80)


@pytest.mark.parametrize("seed", range(5))
def test_version_that_breaks_a_third_never_passes_the_first_wave(seed):
    run = simulate("broken", SMALL, seed, PLAN)
    assert (run.phase, run.wave, run.touched) == ("halted", 1, 40)
    assert run.gate == "installed"


def test_lost_telemetry_never_counts_as_success():
    run = simulate("mute", SMALL, 1, PLAN)
    assert (run.phase, run.wave) == ("halted", 1)
    assert run.verdict.startswith("halted: insufficient evidence: 0 of ")


def test_slow_version_is_caught_in_the_first_wave():
    run = simulate("slow", SMALL, 1, PLAN)
    assert (run.phase, run.wave, run.gate) == ("halted", 1, "latency")


def test_doubled_alarm_rate_is_caught():
    run = simulate("subtle", SMALL, 1, PLAN)
    assert run.phase == "halted"
    assert run.gate in ("alarms", "accuracy")


def test_version_that_is_better_reaches_everybody_who_is_there():
    run = simulate("better", SMALL, 1, PLAN)
    assert run.phase == "completed", run.verdict
    assert run.touched >= 0.9 * SMALL.devices


def test_same_seed_is_the_same_to_the_last_look_and_another_is_not():
    once, again = simulate("subtle", SMALL, 3, PLAN), simulate("subtle", SMALL, 3, PLAN)
    assert once.trace == again.trace
    assert simulate("subtle", SMALL, 4, PLAN).trace != once.trace


def test_what_it_takes_is_stated_beforehand_and_grows_as_it_should():
    gates = Gates()
    few, many = (planning.accuracy_needed(gates, 0.05, n) for n in (60, 240))
    assert few.each > 3 * many.each
    assert "not to be seen with 2 devices" in str(planning.accuracy_needed(gates, 0.05, 2))
    assert planning.missed_by_chance(Gates(failed_share_max=0.0), 0.3, 20) == pytest.approx(0.7**20)
    assert any("accuracy down 0.05" in line for line in statement(simulation.PLAN, Fleet()))
