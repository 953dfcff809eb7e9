"""The recipe `forecaster`: does what comes next follow from what was?

A network foretells the last samples of a window from those before; the graph itself looks at the
first part only, so that a device needs no state. What came, minus what was foretold, is the
residual, and its whitened statistics are the score: large where dynamics change, even where each
value alone is an ordinary one. Output and middle are bounded, as in `autoencoder`. One thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from fieldloop_contract.manifest import Channel
from fieldloop_models import card
from fieldloop_models.anomaly import AnomalySettings, Parts, ResidualRecipe


class ForecasterSettings(AnomalySettings):
    """Settings of `forecaster`. The defaults suit some channels that follow each other."""

    window_samples: int = Field(
        40, ge=4, le=65_536, title="Window", description="Samples in a window, with those foretold."
    )
    horizon_samples: Annotated[int, Field(ge=1, le=1_024)] = Field(
        8, title="Horizon", description="Samples at the window's end that are foretold."
    )
    hidden: Annotated[int, Field(ge=4, le=512)] = Field(
        48, title="Width", description="Neurons of the hidden layer."
    )
    latent: Annotated[int, Field(ge=1, le=128)] = Field(
        12, title="Latent", description="Bounded numbers that the past is squeezed into."
    )
    bound: Annotated[float, Field(ge=1, le=8)] = Field(
        4.0, title="Bound of the output",
        description="Largest value it can foretell, in standard deviations of the channel.",
    )  # fmt: skip

    @model_validator(mode="after")
    def _past(self) -> ForecasterSettings:
        if 2 * self.horizon_samples > self.window_samples:
            raise ValueError("at least half of the window is past")
        return self


class Forecaster(ResidualRecipe):
    """The end of a window from its beginning."""

    name = "forecaster"
    settings_type = ForecasterSettings
    settings: ForecasterSettings
    against = "input_end"
    statistics = ("mean", "rms")

    def parts(
        self, keras: Any, inputs: NDArray[np.float32], rate_hz: float, scored: NDArray[np.bool_]
    ) -> Parts:
        """The body alone: float32[n, window, channels] -> float32[n, horizon, channels]."""
        del rate_hz
        s, layers = self.settings, keras.layers
        window, channels = inputs.shape[1:]
        given = keras.Input((window, channels), name="window")
        x = layers.Cropping1D((0, s.horizon_samples), name="past")(given)
        if not scored.all():
            x = layers.Rescaling(scored.astype(np.float32).tolist(), name="shown")(x)
        x = layers.Flatten(name="flat")(x)
        x = layers.Dense(s.hidden, activation="relu", name="encode")(x)
        x = layers.Dense(s.latent, activation="tanh", name="latent")(x)
        x = layers.Dense(s.horizon_samples * channels, name="says")(x)
        x = layers.Reshape((s.horizon_samples, channels), name="horizon")(x)
        x = layers.Activation("tanh", name="bounded")(x)
        said = layers.Rescaling(s.bound, name="bound")(x)
        return Parts(None, keras.Model(given, said, name=self.name))

    def wanted(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """The samples that are foretold."""
        return features[:, -self.settings.horizon_samples :]

    def model_card(self, channels: Sequence[Channel], labels: Sequence[str]) -> str:
        """What the model is for, what it is made of and where it ends, as Markdown."""
        del labels
        s = self.settings
        return card.write(
            does=f"Foretells the last {s.horizon_samples} of each {s.window_samples} samples of "
            f"{card.names_of(channels)} from those before, and says how far what came is from "
            "that. The score is about 1 for a healthy window.",
            made_of=f"Recipe `{self.name}`: a dense layer of {s.hidden}, {s.latent} bounded "
            "numbers, a bounded output. Mean and rms of what it missed, by channel, are whitened "
            "by their covariance in the healthy windows, in float after the tensor.",
            ends="What is random cannot be foretold, and counts as much as it did in the healthy "
            "windows. A fault that is there through the whole window, and slow, may be foretold "
            "well: a level that has shifted for good is seen while it shifts.",
        )
