"""Normalisation by channel."""

from __future__ import annotations

import numpy as np

from fieldloop_contract.manifest import Normalisation
from fieldloop_scoring.normalisation import fit, normalise


def test_each_channel_has_its_own_centre_and_scale_and_is_clipped() -> None:
    spec = Normalisation(centre=[1.0, -2.0], scale=[2.0, 0.5], clip=3.0)
    out = normalise(np.array([[1, -2], [3, -1], [99, -99]], np.float32), spec)
    assert out.dtype == np.float32
    assert out.tolist() == [[0, 0], [1, 2], [3, -3]]


def test_fitted_normalisation_centres_and_scales_and_survives_a_constant_channel() -> None:
    data = np.random.default_rng(0).normal([5, 0, 7], [2, 0, 0.1], (1000, 3)).astype(np.float32)
    out = normalise(data, fit(data))
    assert np.allclose(out.mean(axis=0), 0, atol=1e-3)
    assert np.allclose(out.std(axis=0), [1, 0, 1], atol=1e-2)
