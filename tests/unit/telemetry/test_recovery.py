"""What is asked for again: in bounds, in turn, more and more seldom without progress."""

from __future__ import annotations

from fieldloop_store.rows import LogKey
from fieldloop_telemetry.recovery import LOGS_AT_ONCE, Recovery

LOG = LogKey("demo", "subject-1", "ingestion", "ab" * 16)


def test_a_request_holds_no_more_rows_than_allowed_and_the_next_goes_on_behind_it() -> None:
    recovery = Recovery(rows_max=10, interval_s=60)
    assert recovery.look(LOG, 25, 0.0) == 1
    assert recovery.ask(LOG, [(3, 8), (20, 40)], 0.0) == [(3, 8), (20, 23)]
    assert recovery.look(LOG, 15, 59.0) is None
    assert recovery.look(LOG, 15, 60.0) == 24


def test_a_log_that_makes_no_progress_is_asked_more_and_more_seldom() -> None:
    recovery = Recovery(rows_max=10, interval_s=60)
    now_s, gaps, last = 0.0, [], 0.0
    while len(gaps) < 12:
        if recovery.look(LOG, 5, now_s) is not None:
            gaps.append(now_s - last)
            last = now_s
            recovery.ask(LOG, [], now_s)
        now_s += 10
    assert gaps == sorted(gaps)
    assert gaps[-1] == 3600


def test_progress_brings_the_first_interval_back() -> None:
    recovery = Recovery(rows_max=10, interval_s=60)
    for now_s in (0.0, 120.0):
        assert recovery.look(LOG, 5, now_s) is not None
        recovery.ask(LOG, [], now_s)
    assert recovery.look(LOG, 4, 360.0) == 1
    recovery.ask(LOG, [(1, 2)], 360.0)
    assert recovery.look(LOG, 3, 420.0) == 3


def test_a_log_that_lacks_nothing_is_forgotten() -> None:
    recovery = Recovery(rows_max=10, interval_s=60)
    assert recovery.look(LOG, 5, 0.0) == 1
    assert recovery.look(LOG, 0, 1.0) is None
    assert len(recovery) == 0


def test_few_logs_are_asked_at_once() -> None:
    recovery = Recovery(rows_max=10, interval_s=60)
    logs = [LogKey("demo", f"d{n}", "ingestion", "ab" * 16) for n in range(3 * LOGS_AT_ONCE)]
    asked = 0
    for log in logs:
        if recovery.look(log, 5, 0.0) is not None:
            recovery.ask(log, [(1, 5)], 0.0)
            asked += 1
    assert asked == LOGS_AT_ONCE
    assert recovery.look(logs[-1], 5, 130.0) == 1
