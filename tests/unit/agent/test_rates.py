"""Rates of sources as the doctor measures them, from frames of a real log."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlite_utils  # noqa: F401 - the log is then made in this process, which is quicker

from fieldloop_agent.rates import SPANS_MIN, look_at_rates, measured_hz
from fieldloop_buffer import Entry, Kind, Log, LogSettings, pack_frame
from fieldloop_contract.frames import Clock, Frame

S = 1_000_000_000
BOOT = "0" * 32


def frame(at_s: float, *, n: int = 50, boot: str = BOOT, pause: bool = False) -> Frame:
    return Frame(
        stream="imu", t0_ns=int(at_s * S), mono_ns=int(at_s * S), boot=boot,
        clock=Clock.SYNCHRONISED,
        rate_hz=50.0, channels=1, samples=bytes(4 * n), planned_pause=pause,
    )  # fmt: skip


def test_a_steady_source_has_the_rate_of_its_samples() -> None:
    assert measured_hz(frame(t) for t in range(10)) == pytest.approx(50)
    assert measured_hz(frame(2 * t) for t in range(10)) == pytest.approx(25)


def test_a_planned_pause_and_a_reboot_are_left_out_and_a_stall_is_not() -> None:
    steady = [frame(t) for t in range(100, 105)]
    planned = [frame(t) for t in range(5)] + [frame(99, pause=True), *steady]
    assert measured_hz(planned) == pytest.approx(50)
    assert measured_hz([frame(5, boot="1" * 32), *steady]) == pytest.approx(50)
    stalled = measured_hz([frame(0), frame(1), *steady])
    assert stalled is not None
    assert stalled < 5


def test_too_little_is_not_judged() -> None:
    assert measured_hz([]) is None
    assert measured_hz(frame(t) for t in range(SPANS_MIN)) is None
    assert measured_hz(frame(7) for _ in range(9)) is None  # a clock that stands still


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    settings = LogSettings(path=str(tmp_path / "ingestion.sqlite"))
    made = Log.open(settings, fleet="demo", device="pump-1", service="ingestion")
    yield made
    made.close()


@pytest.mark.parametrize(("step_s", "fine"), [(1.0, True), (1.04, True), (1.5, False)])
def test_the_doctor_says_the_rate_of_each_stream_and_the_remedy(
    log: Log, tmp_path: Path, step_s: float, fine: bool
) -> None:
    for number in range(20):
        one = frame(number * step_s)
        log.append(Entry(Kind.FRAME, "imu", one.t0_ns, pack_frame(one)))
    log.commit(force=True)
    [found] = look_at_rates(str(tmp_path / "ingestion.sqlite"))
    assert (found.what, found.fine, bool(found.remedy)) == ("rate of imu", fine, not fine)
    assert found.seen == f"{50 / step_s:.4g} Hz, stated 50 Hz"


def test_a_log_without_frames_or_no_log_at_all_says_nothing(log: Log, tmp_path: Path) -> None:
    assert list(look_at_rates(str(tmp_path / "ingestion.sqlite"))) == []
    assert list(look_at_rates(str(tmp_path / "none.sqlite"))) == []
