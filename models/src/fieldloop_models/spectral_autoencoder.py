"""The recipe `spectral_autoencoder`: does this machine sound as it did when it was healthy?

For vibration. The graph computes logarithmic band powers of each channel in float32 (`spectrum`); a
bounded autoencoder learns how they move together with speed and load; a fault puts power where that
does not explain it. The score is the largest or the mean squared residual of a band, in float.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fieldloop_contract.manifest import Channel
from fieldloop_models import card
from fieldloop_models.anomaly import AnomalySettings, Parts, ResidualRecipe
from fieldloop_models.fitting import through
from fieldloop_models.spectrum import CLIP, log_powers, standardised

NOISE_FLOOR = 1e-6
"""Of the normalised signal's power: 60 dB below a channel's own."""


class SpectralAutoencoderSettings(AnomalySettings):
    """Settings of `spectral_autoencoder`. The defaults suit bearings at some kHz."""

    window_samples: int = Field(
        2_048, ge=64, le=65_536, title="Window",
        description="Samples in a window; a power of two. More resolve lower frequencies.",
    )  # fmt: skip
    hop_samples: int = Field(
        2_048, ge=1, le=65_536, title="Hop",
        description="Samples from the start of one window to the start of the next.",
    )  # fmt: skip
    bands: Annotated[int, Field(ge=4, le=128)] = Field(
        32, title="Bands", description="Logarithmic frequency bands of each channel."
    )
    hidden: Annotated[int, Field(ge=4, le=512)] = Field(
        48, title="Width", description="Neurons of the hidden layers."
    )
    latent: Annotated[int, Field(ge=1, le=64)] = Field(
        4, title="Latent", description="Bounded numbers that speed, load and the like come to."
    )
    aggregate: Literal["mean", "max"] = Field(
        "mean", title="Score",
        description="The mean over bands, or the largest: sharper for a fault in one band.",
    )  # fmt: skip


class SpectralAutoencoder(ResidualRecipe):
    """Band powers through a narrow middle."""

    name = "spectral_autoencoder"
    settings_type = SpectralAutoencoderSettings
    settings: SpectralAutoencoderSettings
    against = "output"
    statistics = ("mean",)

    def __init__(self, settings: SpectralAutoencoderSettings) -> None:
        super().__init__(settings)
        self.aggregate = settings.aggregate

    def parts(
        self, keras: Any, inputs: NDArray[np.float32], rate_hz: float, scored: NDArray[np.bool_]
    ) -> Parts:
        """Front float32[n, window, channels] -> float32[n, features], and the body on these."""
        del rate_hz
        s, layers = self.settings, keras.layers
        window, channels = inputs.shape[1:]
        powers = log_powers(keras, window, channels, s.bands, NOISE_FLOOR)
        front = standardised(keras, powers, through(powers, inputs))
        size = channels * s.bands
        given = keras.Input((size,), name="features")
        x = given
        if not scored.all():
            shown = np.repeat(scored.astype(np.float32), s.bands)
            x = layers.Rescaling(shown.tolist(), name="shown")(x)
        x = layers.Dense(s.hidden, activation="relu", name="encode")(x)
        x = layers.Dense(s.latent, activation="tanh", name="latent")(x)
        x = layers.Dense(s.hidden, activation="relu", name="decode")(x)
        x = layers.Dense(size, name="says")(x)
        x = layers.Activation("tanh", name="bounded")(x)
        said = layers.Rescaling(CLIP, name="bound")(x)
        return Parts(front, keras.Model(given, said, name=self.name))

    def model_card(self, channels: Sequence[Channel], labels: Sequence[str]) -> str:
        """What the model is for, what it is made of and where it ends, as Markdown."""
        del labels
        s = self.settings
        return card.write(
            does=f"Says how far the sound of each window of {s.window_samples} samples, every "
            f"{s.hop_samples}, is from what was healthy, in the channels "
            f"{card.names_of(channels)}. The score is about 1 for a healthy window.",
            made_of=f"Recipe `{self.name}`: the log power in {s.bands} logarithmic bands of each "
            f"channel, computed in float32 in the graph, rebuilt through {s.latent} bounded "
            f"numbers. The {s.aggregate} of the squared residuals of the bands, each in units of "
            "its deviation in the healthy windows, in float after the tensor.",
            ends="It has heard the speeds and loads that were in the training, and flags others "
            "as readily as faults. It does not name the fault; a defect much weaker than the "
            "noise in its band goes unheard until it grows.",
        )
