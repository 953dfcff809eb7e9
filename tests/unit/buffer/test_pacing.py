"""When batches are sent, sent again, and forgotten."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from fieldloop_buffer.pacing import IGNORED_TO_HALVE, Flight, Lanes, TokenBucket, Verdict, Window
from fieldloop_buffer.ranges import count, halves, normalise

EPOCH, OTHER = "a" * 32, "b" * 32


def window(flights_max: int = 8) -> Window:
    return Window(flights_max, 10.0, 300.0, Random(1))


def flight(first: int, last: int, epoch: str = EPOCH) -> Flight:
    return Flight(1, epoch, "frames", False, [(first, last)], 0.0)


def test_a_batch_is_forgotten_only_when_all_its_rows_are_acknowledged() -> None:
    w = window()
    w.launch(flight(1, 10), 0.0)
    assert w.acknowledge(EPOCH, [(1, 4), (6, 10)], 1.0) == 9
    assert w.holds(1, 5)
    assert not w.holds(1, 4)
    assert w.acknowledge(EPOCH, [(5, 5)], 1.0) == 1
    assert w.flights == []


def test_answers_repeated_out_of_order_of_another_epoch_or_never_sent_change_nothing() -> None:
    w = window()
    w.launch(flight(5, 8), 0.0)
    assert w.acknowledge(OTHER, [(5, 8)], 1.0) == 0
    assert w.acknowledge(EPOCH, [(100, 200)], 1.0) == 0
    assert w.acknowledge(EPOCH, [(7, 8), (1, 6)], 1.0) == 4
    assert w.acknowledge(EPOCH, [(1, 8)], 1.0) == 0


def test_silence_makes_a_batch_due_with_growing_back_off() -> None:
    w = window()
    f = flight(1, 2)
    w.launch(f, 0.0)
    assert w.due(7.4) == []
    assert w.due(12.6) == [f]
    w.launch(f, 12.6)
    assert w.due(12.6 + 14.9) == []
    assert w.due(12.6 + 25.1) == [f]
    for _ in range(50):
        w.launch(f, 100.0)
    assert w.due(100.0 + 375.1) == [f]


def test_an_answer_shows_that_the_cloud_is_back_and_shortens_the_wait_of_the_others() -> None:
    w = window()
    silent = flight(1, 2)
    for _ in range(10):
        w.launch(silent, 0.0)
    w.launch(flight(3, 4), 0.0)
    w.acknowledge(EPOCH, [(3, 4)], 50.0)
    assert w.due(60.1) == [silent]


def test_the_window_keeps_a_quarter_for_live_data() -> None:
    w = window(8)
    for n in range(6):
        assert w.open_for_backlog
        w.launch(flight(n * 10 + 1, n * 10 + 2), 0.0)
    assert not w.open_for_backlog
    assert w.open
    w.launch(flight(71, 72), 0.0)
    w.launch(flight(81, 82), 0.0)
    assert not w.open


def test_one_batch_of_samples_is_in_flight_and_one_that_is_never_answered_holds_no_other_back() -> (
    None
):
    w = window(4)
    assert w.open_for_samples
    silent = flight(1, 2)
    silent.channel = "samples"
    w.launch(silent, 0.0)
    assert not w.open_for_samples
    assert w.open_for_backlog
    w.launch(silent, 10.0)
    w.launch(silent, 30.0)
    assert w.open_for_samples
    w.land(silent)
    for n in range(3):
        w.launch(flight(n * 10 + 1, n * 10 + 2), 0.0)
    assert not w.open_for_samples, "the window's last quarter is for live data"


def test_even_a_window_of_one_lets_backlog_through() -> None:
    assert window(1).open_for_backlog


@given(st.lists(st.tuples(st.floats(0, 2), st.floats(0, 5000)), max_size=60))
def test_a_bucket_never_lets_more_through_than_its_rate_a_burst_and_one_batch(
    steps: list[tuple[float, float]],
) -> None:
    bucket = TokenBucket(1000.0)
    now = taken = largest = 0.0
    for wait, n in steps:
        now += wait
        if bucket.ready(now):
            bucket.take(n)
            taken += n
            largest = max(largest, n)
    assert taken <= 1000.0 * (now + 1) + largest + 1e-6


def test_lanes_begin_with_everything_as_backlog_and_sweep_behind_the_live_position() -> None:
    lanes = Lanes()
    lanes.restart(100)
    assert (lanes.live, lanes.backlog, lanes.floor) == (100, 0, 100)
    lanes.backlog = 100
    lanes.live = 150
    assert lanes.backlog_done
    lanes.sweep()
    assert (lanes.backlog, lanes.floor) == (0, 150)
    assert not lanes.backlog_done


def test_a_batch_is_halved_only_where_others_are_answered_in_the_meantime() -> None:
    w = window()
    poison, other = flight(1, 8), flight(9, 9)
    w.launch(poison, 0.0)
    assert [w.judge(poison) for _ in range(20)] == [Verdict.RESEND] * 20
    verdicts = []
    for _ in range(IGNORED_TO_HALVE):
        w.launch(poison, 0.0)
        w.launch(other, 0.0)
        assert w.acknowledge(EPOCH, [(9, 9)], 0.0) == 1
        other.seqs = [(9, 9)]
        verdicts.append(w.judge(poison))
    assert verdicts == [Verdict.RESEND] * (IGNORED_TO_HALVE - 1) + [Verdict.HALVE]


def test_a_channel_that_is_denied_makes_no_row_unreadable() -> None:
    w = window()
    denied, other = flight(1, 8), flight(9, 9)
    other.channel = "events"
    for _ in range(20):
        w.launch(denied, 0.0)
        w.launch(other, 0.0)
        assert w.acknowledge(EPOCH, [(9, 9)], 0.0) == 1
        other.seqs = [(9, 9)]
        assert w.judge(denied) is Verdict.RESEND


def test_batches_that_are_never_answered_leave_room_for_others_up_to_a_bound() -> None:
    w = window(4)
    for n in range(4):
        w.launch(flight(n, n), 0.0)
    assert not w.open
    for one in list(w.flights):
        w.launch(one, 1.0)
        w.launch(one, 2.0)
    assert w.open
    while w.open:
        w.launch(flight(9, 9), 3.0)
        for _ in range(5):
            w.launch(w.flights[-1], 4.0)
    assert len(w.flights) == 8


def test_what_was_ignored_stays_apart_after_a_new_connection() -> None:
    w = window(4)
    poison, other = flight(3, 5), flight(6, 9)
    for one in (poison, other):
        w.launch(one, 0.0)
    poison.ignored = 1
    w.clear()
    assert w.suspicion(1, 4) is poison
    assert w.suspicion(1, 6) is None
    assert w.suspicion(2, 4) is None


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50)), min_size=1, max_size=9))
def test_halves_are_all_of_it_and_equal_but_for_one(pairs: list[tuple[int, int]]) -> None:
    ranges = normalise((min(p), max(p)) for p in pairs)
    lower, upper = halves(ranges)
    assert normalise([*lower, *upper]) == ranges
    assert count(lower) - count(upper) in (0, 1)
    assert not upper or lower[-1][1] < upper[0][0]
