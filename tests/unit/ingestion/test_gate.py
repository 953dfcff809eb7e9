"""A frame is taken only by the stream it fits."""

from __future__ import annotations

from array import array
from dataclasses import replace

import pytest

from fieldloop_contract.errors import RejectedInput
from fieldloop_contract.frames import Clock, Frame
from fieldloop_contract.profile import ChannelProfile, StreamProfile
from fieldloop_ingestion.gate import check_against

STREAM = StreamProfile(
    id="imu",
    rate_hz=50,
    channels=[ChannelProfile(name="a", min=-1, max=1), ChannelProfile(name="b", max=5)],
)


def frame(*values: float, channels: int = 2) -> Frame:
    samples = array("f", values).tobytes()
    return Frame("imu", 0, 0, "a" * 32, Clock.HELD, 50.0, channels, samples)


def test_a_frame_within_all_ranges_passes_unchanged() -> None:
    good = frame(-1, -1e30, 1, 5)
    assert check_against(good, STREAM) is good


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (frame(1.1, 0), "frame.range"),
        (frame(0, 0, -1.5, 0), "frame.range"),
        (frame(0, 5.5), "frame.range"),
        (frame(0, float("nan")), "frame.not-finite"),
        (frame(0, float("inf")), "frame.not-finite"),
        (frame(0, 0, 0, channels=3), "frame.channels"),
        (replace(frame(0, 0), rate_hz=100.0), "frame.rate"),
        (replace(frame(0, 0), stream="other"), "frame.stream"),
        (replace(frame(0, 0), samples=b"\0" * 9), "frame.ragged"),
        (replace(frame(0, 0), t0_ns=-1), "frame.time"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_reason(bad: Frame, code: str) -> None:
    with pytest.raises(RejectedInput) as caught:
        check_against(bad, STREAM)
    assert caught.value.code == code
