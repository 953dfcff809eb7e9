"""What has to go, and when input is refused."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fieldloop_buffer.retention import (
    Bounds,
    LogClock,
    Usage,
    Wal,
    bytes_to_free,
    enough,
    wal_verdict,
)

YEARS_NS = 10 * 366 * 86_400 * 10**9


@given(st.integers(4 << 20, 1 << 42), st.integers(0, 1 << 30))
def test_the_shares_of_the_bound_add_up_to_it_and_a_full_commit_always_fits(
    bytes_max: int, reserve: int
) -> None:
    bounds = Bounds.of(bytes_max, reserve)
    assert bounds.data_bytes_max + bounds.wal_bytes_max + bounds.reserve_bytes == bytes_max
    assert bounds.data_bytes_max > 0
    coming = bounds.buffer_bytes_max * 3 // 2 + 64 * 1024
    assert wal_verdict(0, 0, coming, bounds) is Wal.FINE
    assert bounds.buffer_bytes_max >= 200 * 1024


def test_nothing_is_freed_below_the_bound_and_slack_is_freed_at_it() -> None:
    bounds = Bounds.of(8 << 20, 1 << 20)
    pages = bounds.data_bytes_max // 4096
    assert bytes_to_free(Usage(4096, pages, 0, 0), bounds) == 0
    assert bytes_to_free(Usage(4096, pages + 10, 10, 0), bounds) == 0
    assert bytes_to_free(Usage(4096, pages + 10, 0, 0), bounds) > 9 * 4096


def test_a_write_ahead_log_is_checkpointed_and_at_its_bound_refuses() -> None:
    bounds = Bounds.of(8 << 20, 0)
    limit = bounds.checkpoint_bytes
    assert wal_verdict(limit, 0, 1, bounds) is Wal.FINE, "the file is used again as it is"
    assert wal_verdict(limit, limit, 1, bounds) is Wal.CHECKPOINT
    assert wal_verdict(limit + 1, 0, 1, bounds) is Wal.CHECKPOINT
    assert wal_verdict(bounds.wal_bytes_max, 0, 1, bounds) is Wal.PINNED


@given(st.lists(st.integers(0, 5000), max_size=50), st.integers(0, 100_000))
def test_no_more_rows_go_than_are_needed(sizes: list[int], target: int) -> None:
    rows = list(enumerate(sizes))
    keys = enough(rows, target)
    assert keys == list(range(len(keys)))
    freed = sum(sizes[k] + 32 for k in keys)
    if keys:
        assert freed - sizes[keys[-1]] - 32 < target
    if len(keys) < len(rows):
        assert freed >= target


@given(st.lists(st.integers(-YEARS_NS, YEARS_NS), max_size=20))
def test_jumps_of_the_clock_age_nothing_and_never_make_anything_younger(jumps: list[int]) -> None:
    clock = LogClock(100.0)
    now_ns = 0
    last = clock.feed(now_ns)
    for jump in jumps:
        now_ns += jump
        found = clock.feed(now_ns)
        assert last <= found <= last + 60
        last = found


def test_hours_in_use_count() -> None:
    clock = LogClock(0.0)
    for second in range(101):
        clock.feed(second * 10**9)
    assert clock.now_s == 100.0
