"""A retention policy: what it may say, and where a frame is cut."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldloop_contract.errors import FixConfiguration
from fieldloop_store.retention import load_policy, spans


@given(
    t0_ns=st.integers(0, 2**62),
    rate_hz=st.floats(0.01, 1e5),
    n=st.integers(1, 3_000),
    interval_ns=st.integers(10**6, 10**12),
)
def test_a_frame_is_cut_at_the_borders_of_intervals_and_nowhere_else(
    t0_ns: int, rate_hz: float, n: int, interval_ns: int
) -> None:
    found = list(spans(t0_ns, rate_hz, n, interval_ns))
    assert [s[1] for s in found] == [0, *(s[2] for s in found[:-1])]
    assert found[-1][2] == n
    for start_ns, first, _last in found:
        assert start_ns % interval_ns == 0
        at_ns = t0_ns + round(first * 1e9 / rate_hz)
        assert start_ns <= at_ns < start_ns + interval_ns


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"rules": [{"table": "devices", "older_than_days": 1}]}',
        '{"rules": [{"table": "frames", "older_than_days": 0}]}',
        '{"rules": [{"table": "results", "older_than_days": 1, "reduce_to_s": 60}]}',
        '{"rules": [{"table": "events", "stream": "imu", "older_than_days": 1}]}',
        '{"rules": [{"table": "frames", "older_then_days": 1}]}',
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "policy.json"
    path.write_text(text)
    with pytest.raises(FixConfiguration, match="retention policy"):
        load_policy(str(path))
