"""One budget a month for all traffic of a device."""

from __future__ import annotations

import calendar
import json
from pathlib import Path

import pytest

from fieldloop_contract.frames import Clock
from fieldloop_runtime.clock import Now
from fieldloop_runtime.link import (
    UNLIMITED,
    LinkMeter,
    LinkSettings,
    Use,
    month_of,
    wire_bytes,
)

MB = 1_000_000


class Calendar:
    """A clock that a test sets."""

    def __init__(self, year: int, month: int, clock: Clock = Clock.SYNCHRONISED) -> None:
        self.set(year, month, clock)

    def set(self, year: int, month: int, clock: Clock = Clock.SYNCHRONISED) -> None:
        seconds = calendar.timegm((year, month, 15, 0, 0, 0))
        self.now = Now(seconds * 10**9, 0, "0" * 32, clock)

    def __call__(self) -> Now:
        return self.now


def meter(folder: Path, clock: Calendar, service: str = "ingestion", budget: int = MB) -> LinkMeter:
    return LinkMeter(LinkSettings(bytes_per_month=budget), str(folder), service, clock)


def test_raw_data_stops_first_and_small_rows_last(tmp_path: Path) -> None:
    found = meter(tmp_path, Calendar(2031, 7))
    assert (found.room(Use.RAW), found.room(Use.ROWS)) == (900_000, 980_000)
    found.spend(950_000)
    assert (found.room(Use.RAW), found.room(Use.ROWS)) == (0, 30_000)
    assert found.counters()["link.raw_held"] == 1
    assert found.counters()["link.rows_held"] == 0
    found.spend(50_000)
    assert found.room(Use.ROWS) == 0
    assert found.counters()["link.budget_bytes"] == MB


def test_without_a_budget_all_is_counted_and_nothing_held(tmp_path: Path) -> None:
    found = meter(tmp_path, Calendar(2031, 7), budget=0)
    found.spend(1 << 40)
    assert found.room(Use.RAW) == UNLIMITED
    assert found.spent == 1 << 40
    assert "link.raw_held" not in found.counters()


def test_a_restart_forgets_nothing_and_a_kill_counts_too_much_rather_than_too_little(
    tmp_path: Path,
) -> None:
    clock = Calendar(2031, 7)
    first = meter(tmp_path, clock)
    for _ in range(300):
        first.spend(1_000)
    again = meter(tmp_path, clock)  # the first one was never told to stop
    assert 300_000 <= again.spent <= 300_000 + 65_536 + 1_000


def test_services_share_one_budget(tmp_path: Path) -> None:
    clock = Calendar(2031, 7)
    other = meter(tmp_path, clock, "inference")
    other.spend(500_000)
    own = meter(tmp_path, clock)
    own.spend(450_000)
    assert own.spent >= 950_000
    assert own.room(Use.RAW) == 0


def test_a_new_month_begins_anew_and_last_month_of_others_counts_no_more(tmp_path: Path) -> None:
    clock = Calendar(2031, 12)
    other = meter(tmp_path, clock, "inference")
    other.spend(990_000)
    own = meter(tmp_path, clock)
    own.spend(10_000)
    clock.set(2032, 1)
    own.spend(5)
    assert own.spent == 5


@pytest.mark.parametrize(
    ("year", "month", "clock"),
    [
        (2031, 6, Clock.SYNCHRONISED),
        (1970, 1, Clock.UNKNOWN),
        (2041, 7, Clock.UNKNOWN),
        (2031, 8, Clock.HELD),
    ],
)
def test_a_clock_that_goes_back_or_is_not_in_step_gives_no_new_budget(
    tmp_path: Path, year: int, month: int, clock: Clock
) -> None:
    calendar_ = Calendar(2031, 7)
    found = meter(tmp_path, calendar_)
    found.spend(990_000)
    calendar_.set(year, month, clock)
    found.spend(1)
    assert found.spent == 990_001
    assert meter(tmp_path, calendar_).room(Use.RAW) == 0


@pytest.mark.parametrize("content", ["", "{", "[]", '{"month": 7}', '{"month": "2031-07"}', "\xff"])
def test_a_damaged_count_is_none_and_the_service_goes_on(tmp_path: Path, content: str) -> None:
    (tmp_path / "link-ingestion.json").write_bytes(content.encode("latin-1"))
    found = meter(tmp_path, Calendar(2031, 7))
    found.spend(10)
    assert found.spent == 10
    assert json.loads((tmp_path / "link-ingestion.json").read_text())["month"] == "2031-07"


def test_a_folder_that_cannot_be_written_is_counted_in_memory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    found = LinkMeter(
        LinkSettings(bytes_per_month=MB), str(tmp_path / "file" / "x"), "a", Calendar(2031, 7)
    )
    found.spend(950_000)
    assert found.room(Use.RAW) == 0


def test_reports_become_rare_where_the_budget_is_small(tmp_path: Path) -> None:
    clock = Calendar(2031, 7)
    assert meter(tmp_path, clock, budget=0).status_interval_s(2_000, 1.0) == 1.0
    assert meter(tmp_path, clock, budget=1 << 50).status_interval_s(2_000, 1.0) == 1.0
    wait_s = meter(tmp_path, clock, budget=100 * MB).status_interval_s(2_000, 1.0)
    assert pytest.approx(wire_bytes(2_000) * 30 * 86_400 / wait_s, rel=0.01) == 10 * MB
    assert meter(tmp_path, clock, budget=1_000).status_interval_s(2_000, 1.0) == 3_600


def test_the_month_is_of_utc() -> None:
    last = calendar.timegm((2031, 12, 31, 23, 59, 59))
    assert month_of(Now(last * 10**9, 0, "0" * 32, Clock.SYNCHRONISED)) == "2031-12"
    assert month_of(Now((last + 1) * 10**9, 0, "0" * 32, Clock.SYNCHRONISED)) == "2032-01"
