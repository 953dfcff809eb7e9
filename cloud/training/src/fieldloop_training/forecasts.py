"""How well a model foretells: its error in each healthy held-out window, by recording. Pure.

Only of models whose residuals are against the end of their input (`forecaster`). Errors are in the
challenger's units for all candidates, so that a champion with another normalisation is compared on
the same signal; one that foretells another number of samples is not compared.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fieldloop_contract.manifest import Manifest
from fieldloop_models.whitening import UNSCORED
from fieldloop_training.gates import PERSISTENCE
from fieldloop_training.statistics import Trials


def forecast_errors(
    samples: NDArray[np.float32],
    recordings: NDArray[np.int64],
    said: Mapping[str, tuple[Manifest, NDArray[np.float32]]],
) -> Trials | None:
    """Root mean square error of each window, in deviations of the challenger's normalisation.

    Args:
        samples: float32[n, window_samples, channels], physical units.
        recordings: int64[n].
        said: manifest and output by candidate, `int8` among them: float32[n, ...], normalised.

    Returns:
        Errors by candidate, with that of the forecast that nothing changes; None where the
        challenger foretells nothing.
    """
    challenger, own = said["int8"]
    rule = challenger.outputs[0].residuals
    if rule is None or rule.against != "input_end" or not len(samples):
        return None
    channels = samples.shape[2]
    horizon = own[0].size // channels
    scale = np.asarray(challenger.inputs[0].normalisation.scale, np.float64)
    counted = np.asarray(rule.scale[:channels]) < UNSCORED
    came = samples[:, -horizon:].astype(np.float64)

    def error(foretold: NDArray[np.float64]) -> NDArray[np.float64]:
        off = ((foretold - came) / scale)[..., counted]
        root: NDArray[np.float64] = np.sqrt(np.square(off).mean(axis=(1, 2)))
        return root

    errors = {PERSISTENCE: error(np.repeat(samples[:, -horizon - 1, None], horizon, axis=1))}
    for name, (manifest, output) in said.items():
        theirs = manifest.outputs[0].residuals
        alike = output[0].size == own[0].size and theirs is not None
        if alike and theirs is not None and theirs.against == "input_end":
            affine = manifest.inputs[0].normalisation
            raw = output.reshape(came.shape).astype(np.float64)
            errors[name] = error(raw * np.asarray(affine.scale) + np.asarray(affine.centre))
    return Trials(recordings, errors)
