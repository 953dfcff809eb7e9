"""Splits: nothing leaks, and what was held out stays so."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldloop_training.splits import Labelled, Part, Span, Use, assign, use_of

DEVICES, LABELS = ("a", "b", "c"), ("rest", "walk")
recordings = st.lists(
    st.builds(
        lambda n, device, label: Labelled(f"{device}/imu/{n}", device, label),
        st.integers(0, 200),
        st.sampled_from(DEVICES),
        st.sampled_from(LABELS),
    ),
    max_size=60,
    unique_by=lambda r: r.key,
)


@given(recordings, st.randoms())
def test_every_recording_has_one_part_whatever_the_order(items: list[Labelled], rng: random.Random):
    shuffled = list(items)
    rng.shuffle(shuffled)
    parts = assign(items, {})
    assert parts == assign(shuffled, {})
    assert set(parts) == {r.key for r in items}


@given(recordings, st.integers(0, 60))
def test_a_recording_keeps_its_part_as_the_data_grow(items: list[Labelled], n: int):
    before = assign(items[:n], {})
    after = assign(items, before)
    assert {k: after[k] for k in before} == before


@given(recordings)
def test_no_device_loses_a_label_to_the_held_out_part(items: list[Labelled]):
    parts = assign(items, {})
    for group in {(r.device, r.label) for r in items}:
        mine = [parts[r.key] for r in items if (r.device, r.label) == group]
        assert any(p is not Part.HELD for p in mine)
        assert any(p is not Part.TRAIN for p in mine)


def test_one_in_four_recordings_is_held_out_where_a_device_has_enough():
    items = [Labelled(f"a/imu/{n}", "a", "walk") for n in range(16)]
    assert sum(p is Part.HELD for p in assign(items, {}).values()) == 4


def fleet(devices: int, takes: int, first: int = 0) -> list[Labelled]:
    return [
        Labelled(f"d-{d}/imu/{label}-{take}", f"d-{d}", label)
        for d in range(first, devices)
        for label in LABELS
        for take in range(takes)
    ]


def apart(parts: dict[str, Part]) -> set[str]:
    """Devices of which everything is held out or sealed."""
    by_device: dict[str, set[Part]] = {}
    for key, part in parts.items():
        by_device.setdefault(key.split("/")[0], set()).add(part)
    return {d for d, seen in by_device.items() if seen <= {Part.HELD, Part.SEALED}}


@pytest.mark.parametrize(("devices", "whole"), [(11, 0), (12, 1), (16, 2), (40, 5)])
@pytest.mark.parametrize("takes", [1, 6])
def test_of_many_devices_one_in_eight_is_held_out_whole(devices: int, whole: int, takes: int):
    parts = assign(fleet(devices, takes), {})
    assert len(apart(parts)) == whole
    assert apart(assign(fleet(devices, takes), {}, whole_devices=False)) == set()


def test_a_device_that_is_apart_stays_so_and_one_that_taught_never_becomes_it():
    before = assign(fleet(16, 2), {})
    old = apart(before)
    more = assign(fleet(16, 6), before)
    assert apart(more) == old, "its new recordings are held out too, and no other device's all"
    grown = assign(fleet(32, 6), more)
    assert old <= apart(grown)
    assert len(apart(grown)) == 4
    assert all(int(d[2:]) >= 16 for d in apart(grown) - old), "only of the new devices"
    # A fleet that has taught from all its devices keeps them.
    taught = assign(fleet(11, 6), {})
    assert apart(assign(fleet(11, 8), taught)) == set()
    assert len(apart(assign([*fleet(11, 6), *fleet(12, 6, 11)], taught))) == 1


def test_no_label_is_lost_with_a_device():
    rare = [Labelled(f"d-{d}/imu/own", f"d-{d}", f"label-{d}") for d in range(20)]
    assert apart(assign(rare, {})) == set()


WINDOW_NS, HOP_NS, LENGTH_NS = 128, 64, 1_750


def uses(part: Part, share: float) -> list[tuple[int, int, Use]]:
    spans = [(t, t + WINDOW_NS) for t in range(0, LENGTH_NS - WINDOW_NS + 1, HOP_NS)]
    last = spans[-1][1]
    return [(t0, t1, use_of(part, Span(t0, t1, 0, last), share)) for t0, t1 in spans]


def test_windows_of_two_uses_never_share_a_sample():
    for part in Part:
        for share in (0.0, 0.2):
            used = [u for u in uses(part, share) if u[2] is not Use.NONE]
            for a0, a1, a in used:
                for b0, b1, b in used:
                    assert a is b or a1 <= b0 or b1 <= a0


def test_a_tail_holds_out_the_last_quarter_and_keeps_most_for_training():
    counts = [use for _, _, use in uses(Part.TAIL, 0.0)]
    assert counts.count(Use.HELD) == 5
    assert counts.count(Use.FIT) > 2 * counts.count(Use.HELD)
    assert counts[0] is Use.FIT
    assert counts[-1] is Use.HELD


def test_validation_lies_at_the_end_of_the_training_time_and_never_in_the_held_out():
    kinds = [use for _, _, use in uses(Part.TAIL, 0.2)]
    order = [k for k in dict.fromkeys(kinds) if k is not Use.NONE]
    assert order == [Use.FIT, Use.VALIDATION, Use.HELD]


def test_a_recording_held_out_whole_has_no_other_use():
    assert {use for _, _, use in uses(Part.HELD, 0.2)} == {Use.HELD}
