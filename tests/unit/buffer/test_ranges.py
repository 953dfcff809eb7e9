"""The arithmetic of ranges agrees with sets of integers."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from fieldloop_buffer.ranges import contains, count, intersect, normalise, runs, subtract

RANGES = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=8)


def members(ranges: list[tuple[int, int]]) -> set[int]:
    return {n for first, last in ranges for n in range(first, last + 1)}


@given(RANGES)
def test_normalised_ranges_hold_the_same_integers_and_do_not_touch(
    ranges: list[tuple[int, int]],
) -> None:
    found = normalise(ranges)
    assert members(found) == members(ranges)
    assert all(a[1] + 1 < b[0] for a, b in pairwise(found))
    assert count(found) == len(members(ranges))


@given(RANGES, RANGES)
def test_intersection_and_difference_are_those_of_sets(
    a: list[tuple[int, int]], b: list[tuple[int, int]]
) -> None:
    a, b = normalise(a), normalise(b)
    assert members(intersect(a, b)) == members(a) & members(b)
    assert members(subtract(a, b)) == members(a) - members(b)
    assert normalise(subtract(a, b)) == subtract(a, b)


@given(st.sets(st.integers(0, 60)), st.integers(0, 60))
def test_runs_and_membership(values: set[int], probe: int) -> None:
    found = runs(sorted(values))
    assert members(found) == values
    assert normalise(found) == found
    assert contains(found, probe) == (probe in values)
