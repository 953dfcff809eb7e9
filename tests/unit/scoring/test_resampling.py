"""Resampling: the same in chunks as in one piece, nothing made up, and no aliases."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fieldloop_contract.errors import FixConfiguration, WrongStream
from fieldloop_scoring.resampling import (
    Block,
    Decimator,
    Resampler,
    Resampling,
    anti_alias,
    tick_ns,
    times_of,
)

T0_NS = 1_790_000_000 * 10**9 + 123_456_789
S = 10**9


def column(values: object) -> NDArray[np.float32]:
    return np.asarray(values, np.float32).reshape(-1, 1)


def joined(blocks: list[Block]) -> list[Block]:
    """Blocks whose ticks follow each other as one."""
    found: list[Block] = []
    for block in blocks:
        if found and found[-1].tick + len(found[-1].samples) == block.tick:
            both = np.concatenate([found[-1].samples, block.samples])
            found[-1] = Block(found[-1].tick, both)
        else:
            found.append(block)
    return found


def same(some: list[Block], others: list[Block]) -> None:
    one, two = joined(some), joined(others)
    assert [(b.tick, len(b.samples)) for b in one] == [(b.tick, len(b.samples)) for b in two]
    for a, b in zip(one, two, strict=True):
        assert a.samples.tobytes() == b.samples.tobytes(), "bit for bit"


# ---- hold and linear ----------------------------------------------------------------------------


def test_hold_gives_the_last_value_at_or_before_a_tick():
    resampler = Resampler(Resampling("hold", 1, 4), 1)
    [block] = resampler.push(np.array([10 * S, 11 * S, 12 * S]), column([1, 2, 3]))
    assert block.tick == 40
    assert block.samples[:, 0].tolist() == [1, 1, 1, 1, 2, 2, 2, 2]


def test_linear_gives_the_line_between_neighbours():
    resampler = Resampler(Resampling("linear", 1, 4), 1)
    [block] = resampler.push(np.array([10 * S, 11 * S, 12 * S]), column([0, 4, 0]))
    assert block.samples[:, 0].tolist() == [0, 1, 2, 3, 4, 3, 2, 1]


def test_a_tick_is_told_only_when_a_later_sample_has_come():
    resampler = Resampler(Resampling("hold", 1, 1), 1)
    assert resampler.push(np.array([10 * S]), column([1])) == []
    assert resampler.push(np.array([11 * S]), column([2]))[0].tick == 10


def test_ticks_between_samples_off_the_grid():
    resampler = Resampler(Resampling("linear", 10, 10), 1)
    t_ns = times_of(T0_NS, 20, 10)
    [block] = resampler.push(t_ns, column((t_ns - T0_NS) / 1e9))
    at = np.array([tick_ns(block.tick + i, 10) for i in range(len(block.samples))])
    assert len(block.samples) == 19
    assert block.samples[:, 0] == pytest.approx((at - T0_NS) / 1e9, abs=1e-6)


def test_no_tick_lies_in_a_gap():
    resampler = Resampler(Resampling("linear", 1, 2, 1.5), 1)
    blocks = resampler.push(np.array([10, 11, 20, 21]) * S, column([1, 2, 3, 4]))
    assert [(b.tick, len(b.samples)) for b in blocks] == [(20, 2), (40, 2)]


def test_a_step_back_of_the_clock_is_a_break_and_not_the_end():
    resampler = Resampler(Resampling("hold", 1, 1), 1)
    ahead = 10 * 365 * 86_400
    blocks = resampler.push(np.array([ahead, ahead + 1, 10, 11, 12]) * S, column(range(5)))
    assert [(b.tick, b.samples[:, 0].tolist()) for b in blocks] == [(ahead, [0]), (10, [2, 3])]


# ---- decimation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [2, 3, 8, 64])
def test_the_filter_passes_what_stays_and_stops_what_would_fold(factor: int):
    taps = anti_alias(factor)
    assert len(taps) % 2 == 1
    assert np.array_equal(taps, taps[::-1])
    frequencies = np.linspace(0, 1, 4_001)  # of the Nyquist frequency of the input
    n = np.arange(len(taps)) - len(taps) // 2
    gain = np.abs(taps @ np.exp(-1j * np.pi * np.outer(n, frequencies)))
    assert gain[0] == pytest.approx(1)
    assert gain[frequencies <= 0.8 / factor] == pytest.approx(1, abs=2e-3)
    assert gain[frequencies >= 1.2 / factor].max() < 1.3e-3


def test_a_slow_tone_passes_at_its_time_and_a_fast_one_is_gone():
    rate, factor = 3_200.0, 8
    t_ns = times_of(T0_NS, 6_400, rate)
    t_s = (t_ns - T0_NS) / 1e9
    slow, fast = np.sin(2 * np.pi * 40 * t_s), np.sin(2 * np.pi * 360 * t_s)
    samples = np.stack([slow, fast], axis=1).astype(np.float32)
    decimator = Decimator(Resampling("decimate", rate, rate / factor), 2)
    [out] = decimator.push(t_ns, samples)
    at_s = (out.t_ns - T0_NS) / 1e9
    assert np.diff(out.t_ns) == pytest.approx(S * factor / rate)
    assert np.abs(out.samples[:, 0] - np.sin(2 * np.pi * 40 * at_s)).max() < 3e-3
    assert np.abs(out.samples[:, 1]).max() < 3e-3
    plain = samples[::factor, 1]
    assert np.abs(plain).max() > 0.9, "without the filter it would be there, as an alias"


def test_a_constant_stays_what_it_is():
    decimator = Decimator(Resampling("decimate", 100, 10), 1)
    [out] = decimator.push(times_of(T0_NS, 500, 100), column([7.25] * 500))
    assert out.samples == pytest.approx(7.25, rel=1e-6)


def test_decimation_begins_anew_behind_a_gap():
    spec = Resampling("decimate", 100, 10)
    values = column(np.arange(600))
    t_ns = times_of(T0_NS, 600, 100)
    t_ns[300:] += S
    parts = Decimator(spec, 1).push(t_ns, values)
    alone = Decimator(spec, 1).push(t_ns[300:], values[300:])
    assert [p.begins for p in parts] == [True, True]
    assert np.array_equal(parts[1].samples, alone[0].samples)


def test_a_factor_of_one_changes_nothing():
    values = column([1, 5, 2, 8])
    [out] = Decimator(Resampling("decimate", 10, 10), 1).push(times_of(T0_NS, 4, 10), values)
    assert np.array_equal(out.samples, values)


# ---- chunks -------------------------------------------------------------------------------------


@st.composite
def streams(draw: st.DrawFn) -> tuple[NDArray[np.int64], NDArray[np.float32], list[int]]:
    """A stream with jitter, gaps and steps back, and where to cut it."""
    n = draw(st.integers(1, 250))
    seed = draw(st.integers(0, 2**32 - 1))
    random = np.random.default_rng(seed)
    steps = np.full(n, S // 100)
    steps += random.integers(-S // 400, S // 400, n)
    for at in draw(st.lists(st.integers(0, n - 1), max_size=3)):
        steps[at] = draw(st.sampled_from([S, -S // 2, 0, 3 * S // 200]))
    t_ns = T0_NS + np.cumsum(steps)
    samples = random.normal(size=(n, 2)).astype(np.float32)
    cuts = sorted(draw(st.lists(st.integers(0, n), max_size=12)))
    return t_ns.astype(np.int64), samples, cuts


@pytest.mark.parametrize(
    "spec",
    [
        Resampling("hold", 100, 30),
        Resampling("linear", 100, 333.3),
        Resampling("linear", 100, 20, 3.0),
        Resampling("decimate", 100, 25),
    ],
    ids=lambda spec: f"{spec.method}-{spec.rate_out_hz:g}",
)
@settings(max_examples=60, deadline=None)
@given(stream=streams())
def test_chunks_give_bit_for_bit_what_one_piece_gives(
    spec: Resampling, stream: tuple[NDArray[np.int64], NDArray[np.float32], list[int]]
):
    t_ns, samples, cuts = stream
    whole = Resampler(spec, 2).push(t_ns, samples)
    chunked = Resampler(spec, 2)
    parts: list[Block] = []
    for a, b in pairwise([0, *cuts, len(t_ns)]):
        parts += chunked.push(t_ns[a:b], samples[a:b])
    same(whole, parts)


@settings(max_examples=40, deadline=None)
@given(stream=streams())
def test_nothing_is_made_up(
    stream: tuple[NDArray[np.int64], NDArray[np.float32], list[int]],
):
    """Held values are values of the stream, and no tick is outside the times of the stream."""
    t_ns, samples, _ = stream
    known = set(samples[:, 0].tolist())
    for block in Resampler(Resampling("hold", 100, 70), 2).push(t_ns, samples):
        assert set(block.samples[:, 0].tolist()) <= known
        assert tick_ns(block.tick, 70) >= t_ns.min()
        assert tick_ns(block.tick + len(block.samples) - 1, 70) < t_ns.max()


# ---- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("decimate", 100, 30), "cannot be decimated"),
        (("decimate", 10, 100), "cannot be decimated"),
        (("decimate", 1e6, 1), "cannot be decimated"),
        (("hold", 0, 10), "positive"),
        (("linear", 10, math.inf), "positive"),
        (("linear", 10, 10, 0.5), "tolerance"),
    ],
)
def test_a_resampling_that_cannot_be_is_refused(arguments: tuple[object, ...], reason: str):
    with pytest.raises(FixConfiguration, match=reason):
        Resampling(*arguments)


def test_rates_that_are_nearly_whole_parts_are_taken():
    assert Resampling("decimate", 3_200, 3_200 / 7).factor == 7


def test_samples_of_another_shape_are_refused():
    resampler = Resampler(Resampling("hold", 1, 1), 2)
    with pytest.raises(WrongStream):
        resampler.push(np.array([S]), column([1]))
    with pytest.raises(WrongStream):
        resampler.push(np.array([S, 2 * S]), np.zeros((1, 2), np.float32))
    assert resampler.push(np.empty(0, np.int64), np.empty((0, 2), np.float32)) == []
