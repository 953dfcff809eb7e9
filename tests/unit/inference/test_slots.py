"""The slot machine: the whole cross product, and any sequence of events."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldloop_contract.messages import ModelRef
from fieldloop_inference import slots
from fieldloop_inference.persist import dump_slot, load_slot
from fieldloop_inference.slots import RESTING, TRANSITIONS, WALKING, Phase, Slot, step


def ref(version: int) -> ModelRef:
    return ModelRef(name="activity", version=version, digest=f"{version:064x}")


A, B, C = ref(1), ref(2), ref(3)


def example(phase: Phase) -> Slot:
    """A slot in this phase, with all it may hold."""
    slot = Slot(phase=phase, active=A, previous=None)
    if phase is Phase.EMPTY:
        return Slot()
    if phase in WALKING:
        slot = replace(slot, candidate=B, starts=1, needed=3, probation_windows=2)
    if phase is Phase.PROBATION:
        slot = replace(slot, active=B, previous=A, starts=1, needed=3)
    return slot


EVENTS: list[slots.Event] = [
    slots.Order(B),
    slots.Order(C),
    slots.Order(A),
    slots.Order(None),
    slots.Order(B, recalled=(B.digest,)),
    slots.Fetched(B),
    slots.FetchRefused(B, "not there"),
    slots.TrialBegun(),
    slots.TrialPassed(3, 5),
    slots.TrialPassed(0, 5),
    slots.Unfit("rate"),
    slots.Fault("broken"),
    slots.ShadowScored(True),
    slots.ServedWell(),
    slots.Unloadable("gone"),
    slots.Restarted(),
    slots.Restarted(rebooted=True),
    slots.Stopped(),
]


def check(slot: Slot) -> None:
    """What holds in every state."""
    assert (slot.candidate is not None) == (slot.phase in WALKING)
    if slot.phase in (Phase.ACTIVE, Phase.PROBATION):
        assert slot.active is not None
    if slot.phase is Phase.EMPTY:
        assert slot.active is None
    if slot.phase is Phase.SHADOW:
        assert slot.active is not None, "there is something to be a shadow of"
    if slot.active is not None:
        assert slot.active != slot.previous
        assert slot.active != slot.candidate
    assert slot.active is None or slot.active.digest not in slot.blacklist
    assert slot.candidate is None or slot.candidate.digest not in slot.blacklist
    assert 0 <= slot.starts <= slots.STARTS_MAX
    assert load_slot(dump_slot(slot)) == slot


@pytest.mark.parametrize(("phase", "event"), list(itertools.product(Phase, EVENTS)))
def test_every_pair_of_phase_and_event_is_in_the_table_or_changes_nothing(
    phase: Phase, event: slots.Event
) -> None:
    slot = example(phase)
    after, effects = step(slot, event, 7)
    check(after)
    if (phase, type(event)) not in TRANSITIONS:
        assert after is slot
        assert effects == []
    served = [e.ref for e in effects if isinstance(e, slots.Serve)]
    if after.active != slot.active:
        assert served
        assert served[-1] == after.active
    assert {p for p, _ in TRANSITIONS} == set(Phase)
    assert {e for _, e in TRANSITIONS} == set(slots.EVENTS)


def test_the_way_of_a_good_model() -> None:
    path = [
        (slots.Order(B), Phase.FETCHING),
        (slots.Fetched(B), Phase.VERIFIED),
        (slots.TrialBegun(), Phase.TRIAL),
        (slots.TrialPassed(2, 2), Phase.SHADOW),
        (slots.ShadowScored(True), Phase.SHADOW),
        (slots.ShadowScored(False), Phase.PROBATION),
        (slots.ServedWell(), Phase.PROBATION),
        (slots.ServedWell(), Phase.ACTIVE),
    ]
    slot = Slot(phase=Phase.ACTIVE, active=A)
    told = []
    for now, (event, phase) in enumerate(path):
        slot, effects = step(slot, event, now)
        assert slot.phase is phase, event
        told += [e.type for e in effects if isinstance(e, slots.Report)]
        check(slot)
    assert (slot.active, slot.previous) == (B, A)
    assert told == [
        "model.fetching",
        "model.verified",
        "model.shadow",
        "model.probation",
        "model.activated",
    ]


def test_fault_on_probation_brings_the_previous_model_back_and_blacklists_the_digest() -> None:
    slot, effects = step(example(Phase.PROBATION), slots.Fault("NaN"), 1)
    assert slot.phase is Phase.ROLLED_BACK
    assert slot.active == A
    assert slot.blacklist == {B.digest: "NaN"}
    assert effects == [slots.Serve(A), slots.Report("model.rolled-back", B, "NaN")]
    again, effects = step(slot, slots.Order(B), 2)
    assert (again, effects) == (slot, []), "the same order may come any number of times"
    other, effects = step(slot, slots.Order(C), 3)
    assert other.phase is Phase.FETCHING
    lifted, effects = step(slot, slots.Order(B, lift=(B.digest,)), 3)
    assert lifted.phase is Phase.FETCHING
    assert lifted.blacklist == {}


def test_a_model_that_takes_the_process_down_is_given_up_at_the_third_time() -> None:
    for phase, end in (
        (Phase.PROBATION, Phase.ROLLED_BACK),
        (Phase.SHADOW, Phase.REJECTED),
        (Phase.TRIAL, Phase.REJECTED),
    ):
        slot, phases = example(phase), []
        for _ in range(slots.STARTS_MAX):
            slot, _ = step(slot, slots.Restarted(), 0)
            slot, _ = step(slot, slots.TrialBegun(), 0)
            phases.append(slot.phase)
        assert phases == [phase, phase, end]
        assert B.digest in slot.blacklist
        assert slot.active == A


def test_power_cuts_are_not_held_against_a_model_but_not_for_ever() -> None:
    for phase, end in (
        (Phase.PROBATION, Phase.ROLLED_BACK),
        (Phase.SHADOW, Phase.REJECTED),
        (Phase.TRIAL, Phase.REJECTED),
    ):
        slot, phases = example(phase), []
        for _ in range(slots.REBOOTS_MAX + slots.STARTS_MAX):
            slot, _ = step(slot, slots.Restarted(rebooted=True), 0)
            slot, _ = step(slot, slots.TrialBegun(), 0)
            phases.append(slot.phase)
        assert phases == [phase] * (slots.REBOOTS_MAX + slots.STARTS_MAX - 1) + [end]
        assert slot.active == A
        assert slot.reboots == 0


def test_a_clean_stop_is_no_crash() -> None:
    slot = example(Phase.PROBATION)
    for _ in range(10):
        slot, _ = step(slot, slots.Stopped(), 0)
        slot, _ = step(slot, slots.Restarted(), 0)
    assert slot.phase is Phase.PROBATION


def test_the_cloud_can_take_back_what_is_on_probation_or_active() -> None:
    for phase in (Phase.PROBATION, Phase.ACTIVE):
        slot = replace(example(phase), active=B, previous=A)
        slot, effects = step(slot, slots.Order(A), 0)
        assert slot.phase is Phase.ROLLED_BACK
        assert slot.active == A
        assert slots.Serve(A) in effects
        assert B.digest not in slot.blacklist


def test_recall_of_the_active_and_of_both_models() -> None:
    slot = Slot(phase=Phase.ACTIVE, active=B, previous=A)
    one, effects = step(slot, slots.Order(B, recalled=(B.digest,)), 0)
    assert one.active == A
    assert slots.Serve(A) in effects
    both, effects = step(slot, slots.Order(C, recalled=(A.digest, B.digest)), 0)
    assert both.active is None
    assert slots.Serve(None) in effects
    assert both.phase is Phase.FETCHING


def test_a_shadow_whose_active_model_is_recalled_is_tried_again_and_then_serves() -> None:
    slot, effects = step(example(Phase.SHADOW), slots.Order(B, recalled=(A.digest,)), 0)
    assert slot.phase is Phase.VERIFIED
    assert slot.active is None
    assert slots.Try(B) in effects


def test_the_blacklist_is_bounded() -> None:
    slot = Slot(phase=Phase.ACTIVE, active=A)
    for version in range(10, 10 + slots.BLACKLIST_MAX + 5):
        slot = replace(slot, phase=Phase.TRIAL, candidate=ref(version))
        slot, _ = step(slot, slots.Fault("x" * 1000), 0)
    assert len(slot.blacklist) == slots.BLACKLIST_MAX
    assert ref(10).digest not in slot.blacklist
    assert len(dump_slot(slot)) < 64 * 1024


refs = st.sampled_from([A, B, C])
digests = st.lists(refs.map(lambda r: r.digest), max_size=2).map(tuple)
events: st.SearchStrategy[Any] = st.one_of(
    st.builds(slots.Order, st.one_of(st.none(), refs), digests, digests),
    st.builds(slots.Fetched, refs),
    st.builds(slots.FetchRefused, refs, st.just("no")),
    st.builds(slots.TrialPassed, st.integers(0, 2), st.integers(1, 2)),
    st.builds(slots.ShadowScored, st.booleans()),
    st.sampled_from(
        [
            slots.TrialBegun(),
            slots.Unfit("u"),
            slots.Fault("f"),
            slots.ServedWell(),
            slots.Unloadable("l"),
            slots.Restarted(),
            slots.Stopped(),
        ]
    ),
)


@given(st.lists(events, max_size=60))
@settings(max_examples=400)
def test_whatever_comes_the_owner_knows_what_to_serve(sequence: list[slots.Event]) -> None:
    slot, serving = Slot(), None
    for now, event in enumerate(sequence):
        before = slot
        slot, effects = step(slot, event, now)
        check(slot)
        for effect in effects:
            if isinstance(effect, slots.Serve):
                serving = effect.ref
        assert serving == slot.active
        if slot.active not in (None, before.active):
            # What serves now was tried here, or served before.
            assert slot.active in (before.candidate, before.previous)
            if slot.active == before.candidate:
                assert before.phase in (Phase.TRIAL, Phase.SHADOW)
                assert slot.phase is Phase.PROBATION
        if before.phase in RESTING and slot.phase not in (*RESTING, Phase.FETCHING):
            raise AssertionError("a walk begins with fetching")
