"""The recipe `autoencoder`: is this process as it was when it was healthy?

For multivariate process data (pressures, currents, flows: some channels, slow). A network learns to
rebuild windows through a narrow, bounded middle; what it cannot rebuild is its residual. Latent and
output are bounded by tanh, so that a fault far outside of the training cannot be followed, and the
int8 file saturates nowhere that the float model does not. The residuals, their statistics and the
score are float, after the tensor. TensorFlow is imported when training begins. One thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from fieldloop_contract.manifest import Channel
from fieldloop_models import card
from fieldloop_models.anomaly import AnomalySettings, Parts, ResidualRecipe

CONVOLUTION_STRIDE = 4
"""Two strided convolutions halve the window twice."""


class AutoencoderSettings(AnomalySettings):
    """Settings of `autoencoder`. The defaults suit some channels at about 1 Hz."""

    architecture: Literal["dense", "convolutional"] = Field(
        "dense", title="Architecture",
        description="Dense for short windows of few channels; convolutional for longer ones, with "
        "fewer weights and smaller deltas.",
    )  # fmt: skip
    hidden: Annotated[int, Field(ge=4, le=512)] = Field(
        48, title="Width", description="Neurons of the hidden layers, or filters of the first."
    )
    latent: Annotated[int, Field(ge=1, le=128)] = Field(
        6, title="Latent", description="Numbers that a window is squeezed into."
    )
    bound: Annotated[float, Field(ge=1, le=8)] = Field(
        4.0, title="Bound of the output",
        description="Largest value it can rebuild, in standard deviations of the channel.",
    )  # fmt: skip

    @model_validator(mode="after")
    def _divides(self) -> AutoencoderSettings:
        if self.architecture == "convolutional" and self.window_samples % CONVOLUTION_STRIDE:
            raise ValueError(f"a convolutional window is a multiple of {CONVOLUTION_STRIDE}")
        return self


class Autoencoder(ResidualRecipe):
    """Reconstruction through a narrow middle."""

    name = "autoencoder"
    settings_type = AutoencoderSettings
    settings: AutoencoderSettings
    context = ("mean", "deviation")

    def parts(
        self, keras: Any, inputs: NDArray[np.float32], rate_hz: float, scored: NDArray[np.bool_]
    ) -> Parts:
        """The body alone: float32[n, window_samples, channels] -> the same."""
        del rate_hz
        s, layers = self.settings, keras.layers
        window, channels = inputs.shape[1:]
        given = keras.Input((window, channels), name="window")
        x = given
        if not scored.all():
            x = layers.Rescaling(scored.astype(np.float32).tolist(), name="shown")(x)
        encode = self._dense if s.architecture == "dense" else self._convolutional
        x = encode(layers, x, window, channels)
        x = layers.Activation("tanh", name="bounded")(x)
        said = layers.Rescaling(s.bound, name="bound")(x)
        return Parts(None, keras.Model(given, said, name=self.name))

    def _dense(self, layers: Any, x: Any, window: int, channels: int) -> Any:
        s = self.settings
        x = layers.Flatten(name="flat")(x)
        x = layers.Dense(s.hidden, activation="relu", name="encode")(x)
        x = layers.Dense(s.latent, activation="tanh", name="latent")(x)
        x = layers.Dense(s.hidden, activation="relu", name="decode")(x)
        x = layers.Dense(window * channels, name="says")(x)
        return layers.Reshape((window, channels), name="window_again")(x)

    def _convolutional(self, layers: Any, x: Any, window: int, channels: int) -> Any:
        s, short = self.settings, window // CONVOLUTION_STRIDE
        few = max(s.hidden // 2, 2)
        common = {"padding": "same", "activation": "relu"}
        x = layers.Conv1D(s.hidden, 5, strides=2, name="encode_1", **common)(x)
        x = layers.Conv1D(few, 5, strides=2, name="encode_2", **common)(x)
        x = layers.Flatten(name="flat")(x)
        x = layers.Dense(s.latent, activation="tanh", name="latent")(x)
        x = layers.Dense(short * few, activation="relu", name="widen")(x)
        x = layers.Reshape((short, few), name="short")(x)
        x = layers.Conv1DTranspose(s.hidden, 4, strides=2, name="decode_1", **common)(x)
        x = layers.Conv1DTranspose(few, 4, strides=2, name="decode_2", **common)(x)
        return layers.Conv1D(channels, 3, padding="same", name="says")(x)

    def model_card(self, channels: Sequence[Channel], labels: Sequence[str]) -> str:
        """What the model is for, what it is made of and where it ends, as Markdown."""
        del labels
        s = self.settings
        left_out = f" Not shown: {', '.join(s.unscored)}." if s.unscored else ""
        return card.write(
            does=f"Says how far each window of {s.window_samples} samples, every {s.hop_samples}, "
            f"is from what was healthy, in the channels {card.names_of(channels)}.{left_out} The "
            "score is about 1 for a healthy window and has no upper end; above the threshold it "
            "is a crossing.",
            made_of=f"Recipe `{self.name}`, {s.architecture}: rebuilds the window through "
            f"{s.latent} numbers. Mean and deviation of what it could not rebuild, and of the "
            "window itself, by channel, are whitened by their covariance in the healthy windows "
            "(Hotelling's T squared over their number), in float after the tensor. Trained on "
            f"healthy windows only, with noise of {s.noise:g} standard deviations added.",
            ends="It knows nothing of faults: what it flags is unlike the training, and may be a "
            "load, a speed or a season that was not in it. Slow wear that was in the training is "
            "healthy to it. What changes no channel's level, spread or company goes unseen.",
        )
