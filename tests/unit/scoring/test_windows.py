"""Windowing: what a window may span, when it is, and that stopping changes nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldloop_contract.errors import WrongStream
from fieldloop_contract.frames import Frame
from fieldloop_contract.manifest import Input
from fieldloop_scoring.windows import Window, WindowBuilder
from support.bundles import frame, make_input

EPOCH, OTHER = "e" * 32, "f" * 32
T0 = 10**18
PERIOD = 20_000_000


def spec(window: int = 8, hop: int = 4, **changes: Any) -> Input:
    return Input.model_validate(make_input(window_samples=window, hop_samples=hop, **changes))


def ramp(first: int, n: int, **changes: Any) -> Frame:
    """Samples whose value is their index, on a perfect clock."""
    values = np.repeat(np.arange(first, first + n, dtype=np.float32)[:, None], 3, axis=1)
    return frame(values, T0, first, **changes)


def firsts(windows: list[Window]) -> list[float]:
    return [float(w.samples[0, 0]) for w in windows]


@given(
    cuts=st.lists(st.integers(1, 13), min_size=1, max_size=30),
    window=st.integers(1, 12),
    hop=st.integers(1, 12),
)
def test_windows_do_not_depend_on_how_samples_were_framed(
    cuts: list[int], window: int, hop: int
) -> None:
    builder = WindowBuilder(spec(window, min(hop, window)))
    at, windows = 0, []
    for seq, n in enumerate(cuts, start=1):
        windows += builder.push(EPOCH, seq, ramp(at, n))
        at += n
    step = min(hop, window)
    assert firsts(windows) == [float(i) for i in range(0, at - window + 1, step)]
    for w in windows:
        first = int(w.samples[0, 0])
        assert w.samples[:, 0].tolist() == [float(first + k) for k in range(window)]
        assert w.t0_ns == T0 + first * PERIOD
        assert w.t1_ns == T0 + (first + window) * PERIOD
    assert builder.gaps == 0


@given(
    cuts=st.lists(st.integers(1, 13), min_size=1, max_size=25),
    pauses=st.lists(st.sampled_from([0, 0, 0, 1, 2, 5, -3]), min_size=25, max_size=25),
    hop=st.integers(1, 8),
    fill=st.sampled_from(["none", "hold", "linear"]),
    stops=st.sets(st.integers(0, 24)),
)
@settings(max_examples=200)
def test_a_builder_resumed_at_its_position_makes_the_same_windows(
    cuts: list[int], pauses: list[int], hop: int, fill: str, stops: set[int]
) -> None:
    given_spec = spec(8, hop, fill=fill, gap_tolerance_periods=3.5)
    items, at = [], 100
    for n, pause in zip(cuts, pauses, strict=False):
        at = max(0, at + pause)
        items.append(ramp(at, n))
        at += n
    whole = WindowBuilder(given_spec)
    wanted = [w for seq, f in enumerate(items, 1) for w in whole.push(EPOCH, seq, f)]
    builder, got, seq = WindowBuilder(given_spec), [], 0
    stops = set(stops)
    while seq < len(items):
        seq += 1
        got += builder.push(EPOCH, seq, items[seq - 1])
        if seq in stops:
            stops.remove(seq)
            position = builder.position()
            assert position is not None
            builder = WindowBuilder(given_spec)
            builder.resume(position)
            seq = position.seq - 1
    assert [(w.t0_ns, w.t1_ns, w.seq_first, w.seq_last, w.offset) for w in got] == [
        (w.t0_ns, w.t1_ns, w.seq_first, w.seq_last, w.offset) for w in wanted
    ]
    assert all(np.array_equal(a.samples, b.samples) for a, b in zip(got, wanted, strict=True))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"epoch": OTHER}, "epoch"),
        ({"boot": "c" * 32}, "boot"),
        ({"first": 11}, "a sample is missing"),
        ({"first": 2}, "time steps back"),
        ({"first": 9}, "time stands still"),
    ],
)
def test_no_window_crosses_a_break(change: dict[str, Any], reason: str) -> None:
    builder = WindowBuilder(spec())
    assert len(builder.push(EPOCH, 1, ramp(0, 10))) == 1
    epoch = change.pop("epoch", EPOCH)
    first = change.pop("first", 10)
    windows = builder.push(epoch, 2, ramp(first, 8, **change))
    assert firsts(windows) == [float(first)], reason
    assert builder.gaps == 1
    assert builder.skipped_samples == 2


def test_one_and_a_half_periods_are_no_gap_and_a_bit_more_is() -> None:
    for distance, gaps in ((1.5, 0), (1.51, 1), (0.2, 0)):
        builder = WindowBuilder(spec())
        builder.push(EPOCH, 1, ramp(0, 4))
        late = frame(np.zeros((4, 3)), T0 + round((3 + distance) * PERIOD))
        builder.push(EPOCH, 2, late)
        assert builder.gaps == gaps, distance


@pytest.mark.parametrize(
    ("fill", "wanted"),
    [
        ("hold", [0, 1, 2, 3, 3, 3, 6, 7]),
        ("linear", [0, 1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_missing_samples_are_filled_as_declared(fill: str, wanted: list[float]) -> None:
    builder = WindowBuilder(spec(fill=fill, gap_tolerance_periods=3.5))
    builder.push(EPOCH, 1, ramp(0, 4))
    (window,) = builder.push(EPOCH, 2, ramp(6, 2))
    assert window.samples[:, 1].tolist() == pytest.approx(wanted)
    assert builder.push(EPOCH, 3, ramp(12, 8))[0].samples[0, 0] == 12
    assert builder.gaps == 1


def test_clock_that_steps_two_periods_every_twenty_rows_needs_a_tolerance() -> None:
    """The pattern of SKAB: 1 Hz, with 2 s between two rows every 20 rows."""
    counts = []
    for tolerance, fill in ((1.5, "none"), (2.5, "hold")):
        builder = WindowBuilder(spec(32, 32, gap_tolerance_periods=tolerance, fill=fill))
        windows = []
        for block in range(40):
            windows += builder.push(EPOCH, block + 1, ramp(21 * block, 20))
        counts.append(len(windows))
    assert counts == [0, 26]


@pytest.mark.parametrize(
    ("change", "code"), [({"rate_hz": 51.0}, "slot.rate"), ({"channels": 2}, "slot.channels")]
)
def test_frame_of_another_shape_is_refused_and_changes_nothing(
    change: dict[str, Any], code: str
) -> None:
    builder = WindowBuilder(spec())
    builder.push(EPOCH, 1, ramp(0, 6))
    odd = frame(np.zeros((6, change.get("channels", 3))), T0, 6, **change)
    with pytest.raises(WrongStream) as caught:
        builder.push(EPOCH, 2, odd)
    assert caught.value.code == code
    assert firsts(builder.push(EPOCH, 3, ramp(6, 2))) == [0.0]


def test_samples_are_copied_and_memory_is_bounded_by_window_and_frame() -> None:
    builder = WindowBuilder(spec())
    windows = [w for i in range(2000) for w in builder.push(EPOCH, i + 1, ramp(4 * i, 4))]
    assert firsts(windows) == [float(4 * i) for i in range(1999)]
    assert len(builder._data) <= 32
    assert len(builder._anchors) <= 3
