"""Every phase with every event: the table says it all, and what is not in it changes nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldloop_delivery.evidence import Evidence, Tally, Target
from fieldloop_delivery.gatelimits import Gates
from fieldloop_delivery.policy import Plan, Wave
from fieldloop_delivery.rollout import (
    ENDED,
    EVENTS,
    TRANSITIONS,
    Abort,
    Approve,
    Begin,
    Give,
    Look,
    Member,
    Observation,
    Pause,
    Phase,
    Resume,
    Return,
    Rollout,
    Tell,
    refusal,
    step,
    wanted,
)

OLD, NEW = Target("release", "edge", "1.0", "aa"), Target("release", "edge", "1.1", "bb")
PLAN = Plan(
    waves=[Wave(count=1), Wave(count=2, approval=True), Wave(all=True)],
    gates=Gates(windows_min=0, quorum=1.0, wait_s_max=100),
)
HERE = Evidence(online=True, holds=OLD, runs=OLD.key)
DONE = replace(HERE, installed=True, holds=NEW, runs=NEW.key)
DEVICES = dict.fromkeys("abcd", HERE)


def event_of(kind: type) -> object:
    return Look(Observation(DEVICES)) if kind is Look else kind()


def state_in(phase: Phase) -> Rollout:
    held = phase in (Phase.PAUSED, Phase.AWAITING)
    return Rollout(
        id="r", lane="edge", target=NEW, phase=phase, wave=1, wave_since_s=1.0,
        held_since_s=5.0 if held else None, approved=2, members={"a": Member(0, 1.0, OLD)},
    )  # fmt: skip


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("kind", EVENTS)
def test_every_pair_is_in_the_table_or_changes_nothing(phase, kind):
    state = state_in(phase)
    after, effects = step(state, PLAN, event_of(kind), 10.0)
    if (phase, kind) not in TRANSITIONS:
        assert after is state
        assert effects == []
        assert refusal(state, event_of(kind)).startswith("rollout r of edge 1.1 is")
        return
    assert refusal(state, event_of(kind)) == ""
    assert set(wanted(after)) >= {"a"}
    if phase in ENDED:
        assert after.phase is phase


def test_each_request_leads_where_it_says():
    legal = {
        (Phase.QUEUED, Begin): Phase.RUNNING,
        (Phase.QUEUED, Abort): Phase.ABORTED,
        (Phase.RUNNING, Pause): Phase.PAUSED,
        (Phase.RUNNING, Abort): Phase.ABORTED,
        (Phase.AWAITING, Approve): Phase.RUNNING,
        (Phase.AWAITING, Pause): Phase.PAUSED,
        (Phase.AWAITING, Abort): Phase.ABORTED,
        (Phase.PAUSED, Resume): Phase.RUNNING,
        (Phase.PAUSED, Abort): Phase.ABORTED,
    }
    assert {k for k in TRANSITIONS if k[1] is not Look} == set(legal)
    for (phase, kind), end in legal.items():
        after, effects = step(state_in(phase), PLAN, kind(), 10.0)
        assert after.phase is end
        assert [e for e in effects if isinstance(e, Tell)]
        returned = [e for e in effects if isinstance(e, Return)]
        assert returned == ([Return("a", OLD)] if end is Phase.ABORTED else [])


def test_second_wave_waits_for_approval_and_the_clock_stands_meanwhile():
    state = Rollout("r", "edge", NEW, phase=Phase.RUNNING)
    devices = dict(DEVICES)
    state, effects = step(state, PLAN, Look(Observation(devices)), 0.0)
    devices[next(e.device for e in effects if isinstance(e, Give))] = DONE
    state, _ = step(state, PLAN, Look(Observation(devices)), 1.0)
    state, effects = step(state, PLAN, Look(Observation(devices)), 2.0)
    assert state.phase is Phase.AWAITING
    assert state.verdict == "wave 2 of 3 waits for approval"
    for now_s in (50.0, 500.0):
        state, effects = step(state, PLAN, Look(Observation(devices)), now_s)
        assert (state.phase, effects) == (Phase.AWAITING, [])
    state, effects = step(state, PLAN, Approve("anna", "line 3 agrees"), 600.0)
    assert effects == [Tell("rollout.approved", "anna", "line 3 agrees")]
    state, effects = step(state, PLAN, Look(Observation(devices)), 601.0)
    assert sum(isinstance(e, Give) for e in effects) == 1


def test_time_in_pause_does_not_count_against_the_wave():
    state = Rollout("r", "edge", NEW, phase=Phase.RUNNING)
    state, _ = step(state, PLAN, Look(Observation(DEVICES)), 0.0)
    state, _ = step(state, PLAN, Pause("anna"), 90.0)
    state, _ = step(state, PLAN, Resume("anna"), 1_000.0)
    state, _ = step(state, PLAN, Look(Observation(DEVICES)), 1_009.0)
    assert state.phase is Phase.RUNNING
    state, _ = step(state, PLAN, Look(Observation(DEVICES)), 1_011.0)
    assert state.phase is Phase.HALTED


@pytest.mark.parametrize("phase", [Phase.PAUSED, Phase.AWAITING])
def test_gates_watch_while_nobody_new_is_touched(phase):
    failed = {**DEVICES, "a": replace(HERE, failed="crash loop")}
    after, effects = step(state_in(phase), PLAN, Look(Observation(failed)), 10.0)
    assert after.phase is Phase.HALTED
    assert Return("a", OLD) in effects
    assert "a: crash loop" in after.verdict


def test_return_is_told_once_the_last_device_is_back():
    state, _ = step(state_in(Phase.RUNNING), PLAN, Abort("anna"), 10.0)
    still = {"a": replace(HERE, runs=NEW.key)}
    state, effects = step(state, PLAN, Look(Observation(still)), 12.0)
    assert effects == []
    state, effects = step(state, PLAN, Look(Observation(DEVICES)), 17.5)
    assert effects == [Tell("rollout.returned", why="all 1 devices are back after 7.5 s")]
    assert step(state, PLAN, Look(Observation(DEVICES)), 18.0) == (state, [])


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_any_history_keeps_the_promises(data):
    """Whatever is asked and shown, in any order: no one is told twice, and an end is an end."""
    state, told = Rollout("r", "edge", NEW), dict.fromkeys(DEVICES, OLD)
    shown = st.sampled_from([HERE, DONE, replace(HERE, failed="x"), replace(HERE, online=False)])
    for now_s in range(30):
        kind = data.draw(st.sampled_from([*EVENTS, Look, Look, Look]))
        event = event_of(kind)
        if kind is Look:
            event = Look(
                Observation({d: replace(data.draw(shown), holds=told[d]) for d in DEVICES})
            )
        before = state
        state, effects = step(state, PLAN, event, float(now_s))
        for effect in effects:
            if isinstance(effect, Give):
                assert told[effect.device] == OLD
                assert before.phase is Phase.RUNNING
                told[effect.device] = NEW
            elif isinstance(effect, Return):
                assert told[effect.device] == NEW
                told[effect.device] = OLD
        assert {d: told[d] for d in state.members} == wanted(state)
        if before.phase in ENDED:
            assert state.phase is before.phase
    assert replace(state) == state


def test_enough_is_never_what_was_told_in_the_same_look():
    plan = PLAN.model_copy(update={"waves": [Wave(all=True)]})
    state = Rollout("r", "edge", NEW, phase=Phase.RUNNING)
    stale = {d: replace(DONE, new=Tally(windows=999)) for d in DEVICES}
    state, _ = step(state, plan, Look(Observation(stale)), 0.0)
    assert state.phase is Phase.RUNNING
