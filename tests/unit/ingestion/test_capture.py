"""Capture schedules: exactly the planned samples are recorded, and planned pauses are told."""

from __future__ import annotations

from array import array
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fieldloop_contract.frames import Clock, Frame
from fieldloop_contract.profile import CaptureProfile
from fieldloop_ingestion.capture import CaptureGate

S = 1_000_000_000
BASE_S = 1_800_000_000


def frames(seconds: int, frame_samples: int, rate_hz: float = 10.0, start_s: float = BASE_S):
    """A signal whose value is the number of the sample, cut into frames."""
    n = int(seconds * rate_hz)
    for first in range(0, n, frame_samples):
        values = array("f", range(first, min(first + frame_samples, n)))
        t0_ns = round((start_s + first / rate_hz) * S)
        yield Frame("s", t0_ns, t0_ns, "0" * 32, Clock.HELD, rate_hz, 1, values.tobytes())


def values_of(parts) -> list[int]:
    found = array("f")
    for part in parts:
        found.frombytes(part.samples)
    return [int(v) for v in found]


def test_a_continuous_stream_is_let_through_as_it_is():
    gate = CaptureGate(CaptureProfile())
    given_ = list(frames(3, 7))
    assert [p for f in given_ for p in gate.admit(f)] == given_


@given(
    st.integers(1, 40), st.sampled_from([(2.0, 10.0), (0.5, 3.0), (1.0, 1.5), (3.3, 7.7)]),
    st.integers(0, 9),
)  # fmt: skip
def test_a_periodic_stream_records_its_stretches_however_frames_are_cut(size, plan, shift_s):
    length_s, every_s = plan
    profile = CaptureProfile(mode="periodic", length_s=length_s, every_s=every_s)
    gate = CaptureGate(profile)
    start_s = BASE_S + shift_s
    signal = list(frames(30, size, start_s=start_s))
    recorded = [p for f in signal for p in gate.admit(f)]
    every_ns, length_ns = round(every_s * S), round(length_s * S)
    wanted = [i for i in range(300) if (round((start_s + i / 10) * S) % every_ns) < length_ns]
    assert values_of(recorded) == wanted
    assert gate.passed_over == 300 - len(wanted)
    numbers = {p.t0_ns: p.planned_pause for p in recorded}
    for earlier, later in pairwise(recorded):
        paused = later.t0_ns - earlier.t1_ns > S // 20
        assert numbers[later.t0_ns] == paused


def test_a_request_records_from_now_on_and_then_stops():
    gate = CaptureGate(CaptureProfile(mode="on_request", length_s=2.0))
    signal = list(frames(10, 10))
    recorded = []
    for index, frame in enumerate(signal):
        if index == 3:
            recorded += gate.trigger(frame.t0_ns)
        recorded += gate.admit(frame)
    assert values_of(recorded) == list(range(30, 50))
    assert recorded[0].planned_pause
    assert gate.passed_over == 80


def test_an_alarm_brings_what_was_before_it():
    profile = CaptureProfile(mode="on_alarm", length_s=1.0, before_s=1.5)
    gate = CaptureGate(profile)
    recorded = []
    for index, frame in enumerate(frames(10, 4)):
        if index == 10:  # at sample 40
            recorded += gate.trigger(frame.t0_ns)
        recorded += gate.admit(frame)
    assert values_of(recorded) == list(range(25, 50))
    assert gate.passed_over == 75


def test_two_alarms_close_together_record_each_sample_once():
    gate = CaptureGate(CaptureProfile(mode="on_alarm", length_s=2.0, before_s=1.0))
    recorded = []
    for frame in frames(10, 5):
        if frame.t0_ns in ((BASE_S + 4) * S, (BASE_S + 5) * S):
            recorded += gate.trigger(frame.t0_ns)
        recorded += gate.admit(frame)
    assert values_of(recorded) == list(range(30, 70))


def test_what_is_kept_from_before_is_bounded(monkeypatch):
    monkeypatch.setattr("fieldloop_ingestion.capture.BEFORE_BYTES_MAX", 400)
    gate = CaptureGate(CaptureProfile(mode="on_alarm", before_s=60.0))
    signal = list(frames(60, 10))
    for frame in signal:
        assert gate.admit(frame) == []
    assert len(values_of(gate.trigger(signal[-1].t1_ns))) <= 100


def test_a_trigger_changes_nothing_where_the_stream_records_by_itself():
    for profile in (CaptureProfile(), CaptureProfile(mode="periodic", every_s=60)):
        gate = CaptureGate(profile)
        assert gate.trigger(BASE_S * S) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"mode": "periodic"},
        {"mode": "periodic", "length_s": 10, "every_s": 10},
        {"mode": "continuous", "every_s": 60},
        {"mode": "periodic", "every_s": 60, "before_s": 1},
        {"mode": "on_alarm", "length_s": 0},
        {"mode": "sometimes"},
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValidationError):
        CaptureProfile.model_validate(wrong)


def test_the_share_of_time_is_known_for_the_cost():
    assert CaptureProfile().share == 1.0
    assert CaptureProfile(mode="periodic", length_s=10, every_s=600).share == pytest.approx(1 / 60)
    assert CaptureProfile(mode="on_alarm").share == 0.0
