"""Windows on a grid: streams side by side, and stopping, framing and order change nothing."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldloop_contract.errors import FixConfiguration, WrongStream
from fieldloop_contract.frames import Frame
from fieldloop_contract.manifest import Input
from fieldloop_scoring import joining
from fieldloop_scoring.joining import GridBuilder, carry, make_builder
from fieldloop_scoring.windows import Position, Window, WindowBuilder
from support.bundles import BOOT, frame

EPOCH, OTHER = "e" * 32, "f" * 32
T0 = 1_790_000_000 * 10**9 + 123_456_789
S = 10**9


def channel(name: str, stream: str | None = None) -> dict[str, Any]:
    return {"name": name, "unit": "g", "stream": stream}


def spec(*channels: dict[str, Any], name: str = "motion", **changes: Any) -> Input:
    document = {
        "name": name,
        "channels": list(channels),
        "rate_hz": 10.0,
        "window_samples": 20,
        "hop_samples": 10,
        "resample": "linear",
        "normalisation": {"centre": [0.0] * len(channels), "scale": [1.0] * len(channels)},
        **changes,
    }
    return Input.model_validate(document)


BOTH = [spec(channel("a", "fast"), channel("t", "slow"), channel("b", "fast"))]
"""Channels of two streams in one input, not side by side."""
TWO = [
    spec(channel("a"), channel("b"), name="fast", resample="decimate"),
    spec(channel("t"), name="slow", rate_hz=2.0, window_samples=6, hop_samples=2),
]
"""Two inputs, of other rates and lengths."""


def seconds(stream: str, rate_hz: float, first: int, n: int, begin_ns: int = T0) -> Frame:
    """Samples whose value is their time in seconds after T0; a second channel has the negative."""
    at = (begin_ns - T0) / 1e9 + np.arange(first, first + n) / rate_hz
    columns = [at, -at] if stream == "fast" else [at]
    values = np.stack(columns, axis=1).astype(np.float32)
    return frame(values, begin_ns, first, stream, rate_hz=rate_hz)


def run(builder: Any, items: list[Frame], seq: int = 1, epoch: str = EPOCH) -> list[Window]:
    return [w for n, item in enumerate(items, seq) for w in builder.push(epoch, n, item)]


def log(length: int = 12) -> list[Frame]:
    """What a log of both streams holds: 100 Hz in frames of 7, and 1 Hz of its own phase."""
    fast = [seconds("fast", 100.0, i, 7) for i in range(0, 100 * length, 7)]
    slow = [seconds("slow", 1.0, i, 1, T0 + 3 * S // 10) for i in range(length)]
    return sorted([*fast, *slow], key=lambda f: f.t1_ns)


def same(some: list[Window], others: list[Window]) -> None:
    def key(w: Window) -> Any:
        return (w.epoch, w.seq_first, w.seq_last, w.t0_ns, w.t1_ns, w.offset)

    assert [key(w) for w in some] == [key(w) for w in others]
    for one, other in zip(some, others, strict=True):
        assert len(one.arrays) == len(other.arrays)
        assert one.same_samples(other)


def test_channels_of_two_streams_lie_side_by_side_in_one_input() -> None:
    windows = run(GridBuilder(BOTH, {}), log())
    assert len(windows) >= 8
    for window in windows:
        at = (window.t0_ns - T0) / 1e9 + np.arange(20) / 10
        wanted = np.stack([at, at, -at], axis=1)
        assert window.samples == pytest.approx(wanted, abs=1e-3)
        assert window.t1_ns - window.t0_ns == 2 * S
        assert window.t1_ns % S == 0, "windows end at ticks of the grid, not where a stream began"
    steps = {b.t0_ns - a.t0_ns for a, b in pairwise(windows)}
    assert steps == {S}


def test_inputs_of_other_rates_end_at_one_instant() -> None:
    windows = run(GridBuilder(TWO, {}), log())
    assert len(windows) >= 7
    for window in windows:
        fast, slow = window.arrays
        assert (fast.shape, slow.shape) == ((20, 2), (6, 1))
        end = (window.t1_ns - T0) / 1e9
        assert fast[-1, 0] == pytest.approx(end - 0.1, abs=2e-2)
        assert slow[-1, 0] == pytest.approx(end - 0.5, abs=1e-3)


def test_one_stream_of_another_rate_is_resampled_as_declared() -> None:
    for method, rate_hz in (("decimate", 100.0), ("linear", 37.0), ("hold", 25.0)):
        builder = make_builder(
            [spec(channel("a"), channel("b"), resample=method)], {"motion": "fast"}
        )
        windows = run(builder, [seconds("fast", rate_hz, i, 5) for i in range(0, 800, 5)])
        assert len(windows) > 3
        for window in windows:
            at = (window.t0_ns - T0) / 1e9 + np.arange(20) / 10
            assert window.samples[:, 0] == pytest.approx(at, abs=0.05)


def test_a_model_that_declares_nothing_is_cut_from_its_one_stream_as_ever() -> None:
    plain = spec(channel("a"), channel("b"), resample=None)
    assert isinstance(make_builder([plain], {}), WindowBuilder)


@given(
    order=st.lists(st.tuples(st.booleans(), st.integers(1, 60)), min_size=1, max_size=40),
    inputs=st.sampled_from([BOTH, TWO]),
)
@settings(max_examples=40, deadline=None)
def test_framing_and_the_order_of_streams_change_no_sample(
    order: list[tuple[bool, int]], inputs: list[Input]
) -> None:
    wanted = run(GridBuilder(inputs, {}), log(8))
    items, at = [], [0, 0]
    for slow, wish in [*order, (False, 2_000), (True, 2_000)]:
        which = int(slow)
        n = min(wish, (798, 8)[which] - at[which])
        if n > 0:
            made = (
                seconds("slow", 1.0, at[1], n, T0 + 3 * S // 10)
                if slow
                else seconds("fast", 100.0, at[0], n)
            )
            items.append(made)
            at[which] += n
    got = run(GridBuilder(inputs, {}), items)
    assert [w.t0_ns for w in got] == [w.t0_ns for w in wanted][: len(got)]
    assert len(wanted) - len(got) <= 1, "the log's last frame of 7 goes a little further"
    # The time of a frame is rounded to ns, so that a sample's own can differ by one.
    for one, other in zip(got, wanted, strict=False):
        for a, b in zip(one.arrays, other.arrays, strict=True):
            assert a == pytest.approx(b, abs=1e-5)


@given(
    cuts=st.lists(st.integers(1, 40), min_size=20, max_size=60),
    pauses=st.lists(st.sampled_from([0] * 12 + [1, 3, 40, -30]), min_size=60, max_size=60),
    stops=st.sets(st.integers(0, 130), max_size=8),
    inputs=st.sampled_from([BOTH, TWO]),
)
@settings(max_examples=150, deadline=None)
def test_a_builder_resumed_at_its_position_makes_the_same_windows(
    cuts: list[int], pauses: list[int], stops: set[int], inputs: list[Input]
) -> None:
    items, at = [], 0
    for n, pause in zip(cuts, pauses, strict=False):
        at = max(0, at + pause)
        items.append(seconds("fast", 100.0, at, n))
        at += n
        slow = range((at - n) // 100, at // 100)
        items += [seconds("slow", 1.0, i, 1, T0 + 3 * S // 10) for i in slow]
    wanted = run(GridBuilder(inputs, {}), items)
    builder, got, seq = GridBuilder(inputs, {}), [], 0
    left = set(stops)
    while seq < len(items):
        seq += 1
        got += builder.push(EPOCH, seq, items[seq - 1])
        if seq in left:
            left.remove(seq)
            position = builder.position()
            assert position is not None
            builder = GridBuilder(inputs, {})
            builder.resume(position)
            seq = position.seq - 1
    same(got, wanted)


def test_each_window_says_where_to_begin_to_make_it_again() -> None:
    items = log(9)
    for inputs in (BOTH, TWO):
        windows = run(GridBuilder(inputs, {}), items)
        assert len(windows) > 4
        for index, window in enumerate(windows):
            position = window.position()
            builder = GridBuilder(inputs, {})
            builder.resume(position)
            again = run(builder, items[position.seq - 1 :], position.seq)
            same(again, windows[index:])


def test_a_gap_in_one_stream_is_in_no_window() -> None:
    items = [f for f in log(20) if f.stream == "slow" or not 6 < (f.t0_ns - T0) / 1e9 < 7]
    builder = GridBuilder(BOTH, {})
    windows = run(builder, items)
    assert builder.gaps == 1
    holes = [(w.t0_ns - T0) / 1e9 for w in windows]
    assert all(not (t < 7.07 and t + 2 > 6.1) for t in holes)
    assert any(t > 7 for t in holes)
    assert any(t < 5 for t in holes)


def test_nothing_crosses_an_epoch_or_a_boot() -> None:
    items = log(10)
    half = len(items) // 2
    for change in ("epoch", "boot"):
        builder = GridBuilder(BOTH, {})
        first = run(builder, items[:half])
        boot = "c" * 32 if change == "boot" else BOOT
        rest = [
            Frame(**{**{n: getattr(f, n) for n in Frame.__slots__}, "boot": boot})
            for f in items[half:]
        ]
        second = run(builder, rest, half + 1, OTHER if change == "epoch" else EPOCH)
        at_ns = items[half].t0_ns
        assert first
        assert second
        assert all(w.t1_ns <= at_ns for w in first)
        assert all(w.t0_ns >= at_ns for w in second)
        assert builder.gaps == 1


def test_streams_join_again_after_their_clock_stepped_back() -> None:
    builder = GridBuilder(BOTH, {})
    shifted = [
        Frame(**{**{n: getattr(f, n) for n in Frame.__slots__}, "t0_ns": f.t0_ns + 3_600 * S})
        for f in log(6)
    ]
    before = run(builder, shifted)
    after = run(builder, log(12), len(shifted) + 1)
    assert before
    assert len(after) >= 5
    assert after[0].t0_ns < before[0].t0_ns


def test_a_silent_stream_does_not_make_the_other_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "TICKS_AHEAD_MAX", 100)
    builder = GridBuilder(BOTH, {})
    run(builder, [seconds("fast", 100.0, i, 50) for i in range(0, 10_000, 50)])
    assert 800 < builder.waited_out < 1_000
    fast = builder._all[0]
    assert sum(len(r.samples) for r in fast.runs) <= 120
    slow = [seconds("slow", 1.0, i, 1, T0 + 3 * S // 10) for i in range(100)]
    windows = run(builder, slow, 300)
    assert windows
    assert (windows[0].t0_ns - T0) / 1e9 > 85


def test_frames_that_cannot_feed_the_model_are_refused_and_leave_nothing() -> None:
    builder = GridBuilder(TWO, {})
    with pytest.raises(WrongStream, match="2 channels"):
        builder.push(EPOCH, 1, frame(np.zeros((5, 3), np.float32), T0, 0, "fast", rate_hz=100.0))
    with pytest.raises(WrongStream, match="cannot be decimated"):
        builder.push(EPOCH, 1, seconds("fast", 33.0, 0, 5))
    assert builder.position() is None


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ([spec(channel("a"), resample=None), spec(channel("b"), name="other")], "declares no"),
        ([spec(channel("a", "x"), channel("b", "y"), resample=None)], "declares no"),
        ([spec(channel("a")), spec(channel("b"), name="other", hop_samples=9)], "hop by other"),
    ],
)
def test_inputs_that_cannot_be_aligned_are_refused(inputs: list[Input], reason: str) -> None:
    with pytest.raises(FixConfiguration, match=reason):
        make_builder(inputs, {})


def test_another_windowing_goes_on_where_the_next_window_would_have_begun() -> None:
    items = log(14)
    old = GridBuilder(BOTH, {})
    done = run(old, items[:90])
    longer = [BOTH[0].model_copy(update={"window_samples": 30})]
    position = carry(old.position(), BOTH, longer)
    assert position is not None
    new = GridBuilder(longer, {})
    new.resume(position)
    windows = run(new, items[position.seq - 1 :], position.seq)
    assert windows[0].t0_ns >= done[-1].t0_ns + S
    assert windows[0].t0_ns <= done[-1].t0_ns + 2 * S
    plain = [spec(channel("a"), resample=None)]
    assert carry(Position(EPOCH, 5, 3), plain, plain) == Position(EPOCH, 5, 3)
    assert carry(Position(EPOCH, 5, 3), plain, longer) == Position(EPOCH, 5, 0)
