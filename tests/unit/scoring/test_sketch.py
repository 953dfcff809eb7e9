"""Drift sketches: bins of equal probability, that add up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldloop_contract.errors import MalformedMessage
from fieldloop_scoring.sketch import BINS, Reference, Sketch

RANDOM = np.random.default_rng(5)
DATA = RANDOM.normal(0, 1, (3200, 2)).astype(np.float32)
REFERENCE = Reference.of(DATA)


def sketch(data: np.ndarray) -> Sketch:  # type: ignore[type-arg]
    made = Sketch(REFERENCE)
    made.add(data.astype(np.float32))
    return made


def test_the_reference_itself_fills_each_bin_alike_and_has_no_drift() -> None:
    made = sketch(DATA)
    assert made.counts[:, 1 : BINS + 1].min() >= 98
    assert made.counts[:, 1 : BINS + 1].max() <= 102
    assert made.counts[:, [0, BINS + 1, BINS + 2]].sum() == 0
    assert made.psi().max() < 0.001


def test_a_shift_of_one_channel_shows_in_that_channel() -> None:
    psi = sketch(DATA + np.array([0.0, 1.0])).psi()
    assert psi[0] < 0.001
    # Two normals one deviation apart have a divergence of 1 in each direction, half of it each.
    assert 0.8 < psi[1] < 1.2


def test_what_is_outside_or_missing_is_counted_there() -> None:
    made = sketch(np.array([[-1e9, 0], [1e9, np.nan], [np.nan, np.inf]]))
    assert made.counts[0, 0] == 1
    assert made.counts[0, BINS + 1] == 1
    assert made.counts[0, BINS + 2] == 1
    assert made.counts[1, BINS + 1] == 1
    assert made.counts[1, BINS + 2] == 1
    assert made.counts.sum() == 6


@given(st.lists(st.integers(0, 3200), min_size=0, max_size=5))
def test_parts_merge_to_the_whole(cuts: list[int]) -> None:
    parts = [sketch(p) for p in np.split(DATA, sorted(cuts))]
    assert np.array_equal(parts[0].merge(parts[1:]).counts, sketch(DATA).counts)


def test_ties_in_the_reference_do_not_look_like_drift() -> None:
    data = np.where(RANDOM.random((4000, 1)) < 0.5, 0.0, RANDOM.random((4000, 1)))
    reference = Reference.of(data.astype(np.float32))
    made = Sketch(reference)
    made.add(data.astype(np.float32))
    assert made.psi()[0] < 0.001


@pytest.mark.parametrize("moves_to", [-0.5, 0.5])
def test_a_channel_that_was_constant_drifts_when_it_starts_to_move(moves_to: float) -> None:
    still = np.full((3200, 1), 0.25, np.float32)
    reference = Reference.from_object(Reference.of(still).to_object())
    seen = Sketch(reference)
    seen.add(still)
    assert seen.psi()[0] == 0
    # One sample in a hundred has hardly any weight; all of them are certain.
    seen.add(np.full((32, 1), moves_to, np.float32))
    assert 0.01 < seen.psi()[0] < 0.1
    moved = Sketch(reference)
    moved.add(np.full((3200, 1), moves_to, np.float32))
    assert moved.psi()[0] > 5


def test_what_lies_beyond_a_tied_end_is_drift_and_within_an_open_one_is_as_before() -> None:
    # A valve that is shut half of the time: zero is one value, the upper end is not.
    shut = np.where(np.arange(4000) % 2 == 0, 0.0, RANDOM.random(4000)).astype(np.float32)
    reference = Reference.of(shut[:, None])
    leaks, opens = shut.copy(), shut.copy()
    leaks[::20] = -0.1
    opens[1::40] = 1.1
    psi = []
    for live in (leaks, opens):
        seen = Sketch(reference)
        seen.add(live[:, None])
        psi.append(seen.psi()[0])
    assert psi[0] > 0.1 > psi[1]


def test_reference_survives_json_and_refuses_nonsense() -> None:
    again = Reference.from_object(REFERENCE.to_object())
    assert np.array_equal(again.edges, REFERENCE.edges)
    backwards = {**REFERENCE.to_object(), "edges": REFERENCE.edges[:, ::-1].tolist()}
    for wrong in (None, {}, {"kind": "equal-probability", "edges": [[1, 2]]}, backwards):
        with pytest.raises(MalformedMessage):
            Reference.from_object(wrong)
    with pytest.raises(MalformedMessage):
        Sketch(REFERENCE).merge([Sketch(Reference.of(DATA * 2))])
