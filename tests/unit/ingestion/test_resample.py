"""A source of another rate fills its stream: the code that training uses, on the way to the log."""

from __future__ import annotations

import math
from array import array

import numpy as np
import pytest

from fieldloop_contract.errors import FixConfiguration, WrongStream
from fieldloop_contract.frames import Clock, Frame
from fieldloop_contract.profile import ResampleProfile, SourceProfile, StreamProfile
from fieldloop_ingestion.profile import check
from fieldloop_ingestion.resample import make_resampler, split
from fieldloop_ingestion.source import fit
from fieldloop_scoring.resampling import Resampler, Resampling, times_of

S = 1_000_000_000
T0 = 1_800_000_000 * S


def stream(rate_hz: float) -> StreamProfile:
    document = {"id": "vib", "rate_hz": rate_hz, "channels": [{"name": "a"}]}
    return StreamProfile.model_validate(document)


def signal(n: int, rate_hz: float, frame_samples: int) -> list[Frame]:
    values = [math.sin(2 * math.pi * 1.5 * i / rate_hz) for i in range(n)]
    frames = []
    for first in range(0, n, frame_samples):
        t_ns = T0 + round(first * S / rate_hz)
        samples = array("f", values[first : first + frame_samples]).tobytes()
        frames.append(Frame("vib", t_ns, t_ns, "0" * 32, Clock.HELD, rate_hz, 1, samples))
    return frames


@pytest.mark.parametrize(("method", "rate_hz"), [("decimate", 200.0), ("linear", 130.0)])
def test_the_stream_is_what_training_would_make_of_the_source(method, rate_hz):
    declared = ResampleProfile(method=method, rate_hz=rate_hz)
    resampler = make_resampler(declared, stream(50.0))
    frames = signal(1000, rate_hz, 37)
    made = [part for frame in frames for part in resampler.push(frame)]
    got = np.concatenate([part.array() for part in made])
    whole = Resampler(Resampling(method, rate_hz, 50.0), 1)
    values = np.concatenate([frame.array() for frame in frames])
    wanted = whole.push(times_of(T0, len(values), rate_hz), values)
    expected = np.concatenate([block.samples for block in wanted])
    assert got.shape == expected.shape
    assert np.allclose(got, expected, atol=1e-6)  # a frame's t0 is rounded to whole ns
    times = np.concatenate([times_of(part.t0_ns, part.n, 50.0) for part in made])
    expected = np.sin(2 * np.pi * 1.5 * (times - T0) / S)
    assert np.abs(got[:, 0] - expected).max() < 0.01
    assert {part.rate_hz for part in made} == {50.0}
    assert len(got) > 200


def test_a_frame_that_is_wrong_is_refused_and_the_next_one_passes():
    resampler = make_resampler(ResampleProfile(method="hold", rate_hz=10.0), stream(5.0))
    good, bad = signal(20, 10.0, 20)[0], signal(2, 10.0, 2)[0]
    spoilt = Frame(*[getattr(bad, f) for f in Frame.__slots__[:-2]], b"\x00\x00\xc0\x7f")
    with pytest.raises(WrongStream):
        resampler.push(spoilt)
    assert resampler.push(good)


def test_a_profile_whose_rates_do_not_divide_is_refused_with_its_place():
    document = {
        "streams": [{"id": "vib", "rate_hz": 50, "channels": [{"name": "a"}]}],
        "sources": [
            {
                "id": "x", "kind": "replay", "stream": "vib", "path": "x.csv",
                "resample": {"method": "decimate", "rate_hz": 120},
            }
        ],
    }  # fmt: skip
    profile, faults = check(document, fit)
    assert profile is None
    assert faults[0].path == ("sources", 0, "kind")
    assert "120 Hz" in faults[0].message


def test_a_source_is_made_for_its_own_rate():
    declared = {"method": "decimate", "rate_hz": 3200}
    source = SourceProfile.model_validate(
        {"id": "x", "kind": "replay", "stream": "vib", "resample": declared}
    )
    assert source.given(stream(50.0)).rate_hz == 3200


def test_a_long_frame_is_split_within_the_bounds():
    frame = signal(120_000, 1000.0, 120_000)[0]
    parts = split(frame)
    assert len(parts) > 1
    assert b"".join(part.samples for part in parts) == frame.samples
    assert parts[1].t0_ns == parts[0].t1_ns


def test_without_the_extra_the_fault_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "fieldloop_ingestion.resampled", None)
    with pytest.raises(FixConfiguration, match="resample"):
        make_resampler(ResampleProfile(method="hold", rate_hz=10.0), stream(5.0))
