"""Sets of integers as sorted, disjoint, inclusive ranges: the arithmetic of seq. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Range = tuple[int, int]


def normalise(ranges: Iterable[Range]) -> list[Range]:
    """Sorted and merged; adjacent ranges become one, empty ones vanish.

    >>> normalise([(7, 9), (1, 3), (4, 5), (8, 12), (3, 2)])
    [(1, 5), (7, 12)]
    """
    merged: list[Range] = []
    for first, last in sorted(r for r in ranges if r[0] <= r[1]):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return merged


def runs(sorted_values: Iterable[int]) -> list[Range]:
    """The ranges of ascending integers.

    >>> runs([1, 2, 3, 7, 9, 10])
    [(1, 3), (7, 7), (9, 10)]
    """
    found: list[Range] = []
    first = last = None
    for value in sorted_values:
        if last is not None and first is not None and value == last + 1:
            last = value
            continue
        if first is not None and last is not None:
            found.append((first, last))
        first = last = value
    if first is not None and last is not None:
        found.append((first, last))
    return found


def count(ranges: Iterable[Range]) -> int:
    """How many integers."""
    return sum(last - first + 1 for first, last in ranges)


def intersect(a: Sequence[Range], b: Sequence[Range]) -> list[Range]:
    """What is in both normalised sets.

    >>> intersect([(1, 5), (8, 9)], [(4, 8)])
    [(4, 5), (8, 8)]
    """
    found: list[Range] = []
    i = j = 0
    while i < len(a) and j < len(b):
        first, last = max(a[i][0], b[j][0]), min(a[i][1], b[j][1])
        if first <= last:
            found.append((first, last))
        if a[i][1] < b[j][1]:
            i += 1
        else:
            j += 1
    return found


def subtract(a: Sequence[Range], b: Sequence[Range]) -> list[Range]:
    """What is in `a` and not in `b`, both normalised.

    >>> subtract([(1, 10)], [(3, 4), (9, 12)])
    [(1, 2), (5, 8)]
    """
    found: list[Range] = []
    j = 0
    for first, last in a:
        at = first
        while j < len(b) and b[j][1] < at:
            j += 1
        k = j
        while k < len(b) and b[k][0] <= last:
            if b[k][0] > at:
                found.append((at, b[k][0] - 1))
            at = max(at, b[k][1] + 1)
            k += 1
        if at <= last:
            found.append((at, last))
    return found


def halves(ranges: Sequence[Range]) -> tuple[list[Range], list[Range]]:
    """The lower and the upper half of a normalised set; the lower one has at most one more.

    >>> halves([(1, 4), (9, 9)])
    ([(1, 3)], [(4, 4), (9, 9)])
    """
    left = (count(ranges) + 1) // 2
    for first, last in ranges:
        if left <= last - first + 1:
            lower = (ranges[0][0], first + left - 1)
            return intersect(ranges, [lower]), subtract(ranges, [lower])
        left -= last - first + 1
    return list(ranges), []


def contains(ranges: Sequence[Range], value: int) -> bool:
    """Whether `value` is in a normalised set."""
    low, high = 0, len(ranges)
    while low < high:
        middle = (low + high) // 2
        if ranges[middle][1] < value:
            low = middle + 1
        else:
            high = middle
    return low < len(ranges) and ranges[low][0] <= value
