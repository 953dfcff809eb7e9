"""Thresholds, whitening, the plain baseline and packed weights: what needs no TensorFlow."""

from __future__ import annotations

import io

import numpy as np
import pytest

from fieldloop_contract.errors import RejectedInput
from fieldloop_contract.manifest import Output, Residuals
from fieldloop_models.hotelling import Hotelling, limits, severity, window_statistics
from fieldloop_models.recipe import Scores
from fieldloop_models.thresholds import (
    check_saturation,
    decide,
    effective_windows,
    largest_score,
)
from fieldloop_models.weights import pack, unpack, unpack_arrays
from fieldloop_models.whitening import fit_residuals, statistics_of
from fieldloop_scoring import calibrating, residuals

RNG = np.random.default_rng(1)


def scores(values: np.ndarray, window: int = 32, hop: int = 32) -> Scores:
    return Scores(values, np.zeros(len(values), np.int64), window, hop)


def test_the_budget_holds_on_scores_with_an_exponential_tail():
    rates = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        found = decide(scores(1 + rng.exponential(size=300)), budget=0.01, alarm=None,
                       commission=False)  # fmt: skip
        rates.append(float((1 + rng.exponential(size=20_000) > found.threshold).mean()))
    assert 0.002 < np.median(rates) < 0.02


def test_one_bad_window_among_a_hundred_hardly_moves_the_threshold():
    good = 1 + RNG.exponential(size=100)
    spoilt = good.copy()
    spoilt[50] = 1_000.0
    a, b = (decide(scores(x), budget=0.001, alarm=None, commission=False).threshold
            for x in (good, spoilt))  # fmt: skip
    assert b == pytest.approx(a, rel=0.5)


def test_windows_that_overlap_count_once():
    one = np.zeros(69, np.int64)
    assert effective_windows(one, 32, 1) == pytest.approx(1 + 68 / 32)
    assert effective_windows(one, 32, 32) == 69
    assert effective_windows(np.repeat([0, 1], 10), 32, 8) == pytest.approx(2 * (1 + 9 / 4))


def test_a_machine_that_scores_alike_finds_the_same_threshold_itself():
    values = 1 + RNG.exponential(size=400)
    found = decide(scores(values), budget=0.001, alarm=None, commission=True)
    assert found.calibration is not None
    assert calibrating.fit(values.tolist(), found.calibration).threshold == pytest.approx(
        found.threshold, rel=0.01
    )
    far = calibrating.fit((values * 1e6).tolist(), found.calibration).threshold
    assert far == pytest.approx(10 * found.threshold, rel=1e-6)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.empty(0), "no finite scores"),
        (np.array([1.0, np.nan, 2.0]), "no finite scores"),
        (np.array([1.0]), r"count as 1\.0 independent"),
        (np.ones(100), "all calibration windows have one score"),
    ],
)
def test_scores_that_cannot_carry_a_threshold_are_refused(values: np.ndarray, said: str):
    with pytest.raises(RejectedInput, match=said):
        decide(scores(values), budget=0.01, alarm=None, commission=False)


def test_a_score_near_saturation_is_refused():
    plain = Output(name="s", kind="score")
    top = largest_score(plain, clip=8.0, tensor_max=2.0)
    check_saturation(0.9, top)
    with pytest.raises(RejectedInput, match="near 2"):
        check_saturation(1.9, top)
    rule = Residuals(statistics=["mean"], centre=[0.0, 0.0], scale=[1.0, 4.0])
    far = largest_score(Output(name="d", kind="residual", residuals=rule), clip=8.0)
    assert far == pytest.approx((64 + 4) / 2)


def test_statistics_are_those_of_the_device():
    windows = RNG.normal(size=(5, 20, 3)).astype(np.float32)
    names = ("mean", "deviation", "rms")
    ours = statistics_of(windows, names)
    for row, window in zip(ours, windows, strict=True):
        assert np.allclose(row, residuals.statistics_of(window, names), rtol=1e-12)


def test_whitened_scores_are_about_one_in_health_and_leave_out_what_is_unscored():
    mixing = RNG.normal(size=(4, 4))
    happened = (RNG.normal(size=(3_000, 16, 4)) @ mixing).astype(np.float32)
    said = np.zeros_like(happened)
    scored = np.array([True, True, False, True])
    rule = fit_residuals(happened, said, ("mean",), scored, effective=3_000, context=("deviation",))
    score = residuals.ResidualScore(rule)
    values = [score(h, s) for h, s in zip(happened[:500], said[:500], strict=True)]
    assert np.mean(values) == pytest.approx(1.0, abs=0.1)
    strange = happened[0].copy()
    strange[:, 2] += 1e3
    assert score(strange, said[0]) == pytest.approx(score(happened[0], said[0]))


def test_a_residual_that_never_varies_is_refused():
    still = np.zeros((50, 8, 2), np.float32)
    with pytest.raises(RejectedInput, match="never varies"):
        fit_residuals(still, still, ("mean",), np.ones(2, np.bool_), effective=50)


def test_t_squared_with_all_components_is_the_mahalanobis_distance():
    windows = (RNG.normal(size=(200, 30, 3)) @ RNG.normal(size=(3, 3))).astype(np.float32)
    seen = window_statistics(windows)
    inverse = np.linalg.inv(np.cov(seen.T))
    off = seen - seen.mean(axis=0)
    wanted = np.einsum("ij,jk,ik->i", off, inverse, off)
    got = Hotelling.fit(windows).statistics(windows)
    assert np.allclose(got[:, 0], wanted, rtol=0.01)
    assert np.allclose(got[:, 1], 0, atol=1e-6)


def test_q_sees_what_leaves_the_components():
    level = RNG.normal(size=(300, 1, 1))
    together = (level + 0.1 * RNG.normal(size=(300, 20, 2))).astype(np.float32)
    baseline = Hotelling.fit(together[:200], explained=0.6)
    at = limits(baseline.statistics(together[200:]))
    apart = together[200:].copy()
    apart[..., 0] += 12
    assert (severity(baseline.statistics(together[200:]), at) <= 0.5).all()
    assert (severity(baseline.statistics(apart), at) > 1).all()
    assert (baseline.statistics(apart)[:, 1] > at[1]).all()


class Variable:
    def __init__(self, path: str, value: np.ndarray) -> None:
        self.path, self.value, self.shape = path, value, value.shape

    def numpy(self) -> np.ndarray:
        return self.value

    def assign(self, value: np.ndarray) -> None:
        self.value = value


class Model:
    def __init__(self, *values: np.ndarray) -> None:
        self.weights = [Variable(f"layer/{i}", v) for i, v in enumerate(values)]


def test_weights_are_packed_the_same_each_time_and_unpacked_as_they_were():
    model = Model(np.ones((2, 3), np.float32), np.arange(3, dtype=np.float32))
    data = pack(model)
    assert data == pack(model)
    other = Model(np.zeros((2, 3), np.float32), np.zeros(3, np.float32))
    unpack(other, data)
    assert np.array_equal(other.weights[1].value, [0, 1, 2])


def test_weights_of_another_architecture_or_none_are_refused():
    model = Model(np.ones((2, 3), np.float32))
    with pytest.raises(RejectedInput, match="another architecture"):
        unpack(model, pack(Model(np.ones((3, 2), np.float32))))
    with pytest.raises(RejectedInput, match="no weights"):
        unpack_arrays(b"PK\x03\x04 not")
    out = io.BytesIO()
    np.savez(out, a=np.array([{"b": 1}], dtype=object))  # a pickle
    with pytest.raises(RejectedInput, match="no weights"):
        unpack_arrays(out.getvalue())
