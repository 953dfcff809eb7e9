"""The recipe `activity_cnn`: classifies windows of inertial and similar signals.

A few strided 1-D convolutions, batch normalisation, ReLU, mean over time, one dense layer and a
softmax: operators that every TFLite runtime has as built-in and as int8. TensorFlow is imported
when training begins, not before. One thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from fieldloop_contract.errors import RejectedInput
from fieldloop_contract.manifest import Channel, Limits, Output
from fieldloop_models import augmentation, card, fitting, weights
from fieldloop_models.fitting import freeze
from fieldloop_models.normalisation import fit_normalisation
from fieldloop_models.recipe import (
    Checkpoints,
    Examples,
    Normalise,
    RecipeSettings,
    Report,
    Reuse,
    Start,
    Task,
    Trained,
    WindowPlan,
)

WINDOWS_MIN = 16
Filters = Annotated[int, Field(ge=4, le=128)]


class ActivityCnnSettings(RecipeSettings):
    """Settings of `activity_cnn`. The defaults suit limbs and hand-held things at 50 Hz."""

    window_samples: int = Field(
        128, ge=16, le=4096, title="Window", description="Samples in a window."
    )
    hop_samples: int = Field(
        64, ge=1, le=4096, title="Hop",
        description="Samples from the start of one window to the start of the next.",
    )  # fmt: skip
    gap_tolerance_periods: float = Field(
        1.5, gt=0, le=10, title="Gap tolerance",
        description="Longest step between two samples that is no gap, in sample periods.",
    )  # fmt: skip
    filters: list[Filters] = Field(
        default=[24, 32, 48], min_length=1, max_length=6, title="Filters",
        description="Filters of each convolution; each halves the length.",
    )  # fmt: skip
    kernel_samples: int = Field(
        7, ge=3, le=31, title="Kernel", description="Samples that the first convolution sees."
    )
    dropout: float = Field(
        0.3, ge=0, le=0.8, title="Dropout", description="Share of features dropped in training."
    )
    epochs: int = Field(30, ge=1, le=500, title="Epochs", description="At most so many.")
    batch: int = Field(32, ge=8, le=1024, title="Batch", description="Windows in a step.")
    learning_rate: float = Field(
        3e-3, gt=0, le=0.1, title="Learning rate", description="At the start; it falls to zero."
    )
    weight_decay: float = Field(
        1e-3, ge=0, le=0.1, title="Weight decay", description="Pull of the weights towards zero."
    )
    label_smoothing: float = Field(
        0.1, ge=0, le=0.3, title="Label smoothing",
        description="Share of certainty spread over all labels.",
    )  # fmt: skip
    normalisation: Literal["standard", "robust"] = Field(
        "standard", title="Normalisation",
        description="Mean and standard deviation, or median and interquartile range.",
    )  # fmt: skip
    turn_deg: float = Field(
        15.0, ge=0, le=45, title="Turns",
        description="Windows are turned by this many degrees (deviation) in training.",
    )  # fmt: skip
    warp: float = Field(
        0.15, ge=0, le=0.5, title="Pace",
        description="Windows are played faster or slower by this share (deviation) in training.",
    )  # fmt: skip
    gain: float = Field(
        0.1, ge=0, le=0.5, title="Strength",
        description="Windows are made stronger or weaker by this share (deviation) in training.",
    )  # fmt: skip
    validation_share: float = Field(
        0.0, ge=0, le=0.5, title="Validation share",
        description="Share of each recording, at its end, that stops the training early.",
    )  # fmt: skip
    patience_epochs: int = Field(
        8, ge=1, le=100, title="Patience",
        description="Epochs without a better validation loss before the training stops.",
    )  # fmt: skip

    @model_validator(mode="after")
    def _hop_within_window(self) -> ActivityCnnSettings:
        if self.hop_samples > self.window_samples:
            raise ValueError("a hop longer than the window would leave samples out")
        return self


class ActivityCnn:
    """Classification with small 1-D convolutions."""

    name = "activity_cnn"
    task: Task = "classification"
    reuse = Reuse(warm_start=True, head=("logits",))
    calibration_share = 0.0
    settings_type = ActivityCnnSettings

    def __init__(self, settings: ActivityCnnSettings) -> None:
        self.settings = settings

    @property
    def validation_share(self) -> float:
        """Share of each training recording, at its end, that stops the training early; 0: none."""
        return self.settings.validation_share

    def window_plan(self) -> WindowPlan:
        """How the signal is to be cut."""
        s = self.settings
        return WindowPlan(s.window_samples, s.hop_samples, s.gap_tolerance_periods)

    def limits(self) -> Limits:
        """What the model may cost on a device."""
        return Limits(latency_ms_max=50.0, memory_bytes_max=64 << 20)

    def train(
        self,
        examples: Examples,
        *,
        channels: Sequence[Channel],
        labels: Sequence[str],
        rate_hz: float,  # noqa: ARG002 - in samples is enough
        normalise: Normalise,
        seed: int,
        report: Report,
        start: Start | None = None,
        checkpoints: Checkpoints | None = None,
    ) -> Trained:
        """Fit normalisation and network.

        Raises:
            RejectedInput: one class, too few windows, a value that is not finite, or a constant
                channel; said before any epoch.
        """
        fit = examples.fit
        samples, targets = examples.samples[fit], examples.labels[fit]
        check_classes(targets, labels)
        names = [c.name for c in channels]
        affine = (
            start.normalisation
            if start is not None
            else fit_normalisation(samples, names, method=self.settings.normalisation)
        )
        watched = None
        if examples.validation.any():
            watched = (
                normalise(examples.samples[examples.validation], affine),
                examples.labels[examples.validation],
            )
        starts = augmentation.triads(channels)
        import tensorflow as tf  # noqa: PLC0415 - only a process that trains pays for it

        tf.keras.utils.set_random_seed(seed)
        model = self._network(tf.keras, len(channels), len(labels))
        if start is not None:
            weights.unpack(model, start.weights)
            if start.head_only:
                freeze(model, self.reuse.head)

        def inputs(order: NDArray[np.int64], rng: np.random.Generator) -> list[NDArray[Any]]:
            windows = normalise(self._augment(samples[order], starts, rng), affine)
            return [windows, targets[order].astype(np.int32)]

        s = self.settings
        optimizer, step = self._step(tf, model, targets)
        history = fitting.fit(
            model, optimizer, step, inputs,
            count=len(targets),
            course=fitting.Course(s.epochs, s.batch, s.patience_epochs),
            seed=seed, report=report,
            watch=None if watched is None else lambda: validation(model, *watched),
            checkpoints=checkpoints,
            named=fitting.identity(self.name, s.model_dump_json(), seed, len(targets), start),
        )  # fmt: skip
        output = Output(name="activity", kind="probabilities", labels=list(labels))
        return Trained(model, affine, history, outputs=(output,))

    def _augment(
        self, samples: NDArray[np.float32], starts: list[int], rng: np.random.Generator
    ) -> NDArray[np.float32]:
        s = self.settings
        if s.turn_deg and starts:
            samples = augmentation.turn(samples, starts, s.turn_deg, rng)
        if s.warp:
            samples = augmentation.warp(samples, s.warp, rng)
        if s.gain:
            samples = augmentation.gain(samples, s.gain, rng)
        return samples

    def _network(self, keras: Any, channels: int, classes: int) -> Any:
        """float32[n, window_samples, channels] -> float32[n, classes], probabilities."""
        s, layers = self.settings, keras.layers
        inputs = keras.Input((s.window_samples, channels), name="window")
        x = inputs
        for index, filters in enumerate(s.filters):
            kernel = s.kernel_samples if index == 0 else max(3, s.kernel_samples - 2)
            name = f"convolution_{index}"
            x = layers.Conv1D(
                filters, kernel, strides=2, padding="same", use_bias=False, name=name
            )(x)
            x = layers.BatchNormalization(momentum=0.9, name=f"norm_{index}")(x)
            x = layers.ReLU(name=f"relu_{index}")(x)
        x = layers.GlobalAveragePooling1D(name="mean")(x)
        x = layers.Dropout(s.dropout, name="dropout")(x)
        x = layers.Dense(classes, name="logits")(x)
        return keras.Model(inputs, layers.Softmax(name="probabilities")(x), name=self.name)

    def _step(self, tf: Any, model: Any, targets: NDArray[np.int64]) -> tuple[Any, fitting.Step]:
        """The optimiser, and one step of it as a graph: (inputs, wanted) -> (loss, accuracy)."""
        s, keras, classes = self.settings, tf.keras, model.output.shape[-1]
        total = s.epochs * max(1, len(targets) // s.batch)
        schedule = keras.optimizers.schedules.CosineDecay(s.learning_rate, total)
        optimizer = keras.optimizers.AdamW(schedule, weight_decay=s.weight_decay)
        variables = model.trainable_variables
        optimizer.build(variables)
        logits_of = keras.Model(model.input, model.get_layer("logits").output)
        class_weights = tf.constant(_class_weights(targets))
        shape = (None, s.window_samples, model.input.shape[-1])

        def step(inputs: Any, wanted: Any) -> tuple[Any, Any]:
            target = tf.one_hot(wanted, classes) * (1 - s.label_smoothing)
            target += s.label_smoothing / classes
            with tf.GradientTape() as tape:
                logits = logits_of(inputs, training=True)
                each = tf.nn.softmax_cross_entropy_with_logits(target, logits)
                loss = tf.reduce_mean(each * tf.gather(class_weights, wanted))
            optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
            right = tf.equal(tf.argmax(logits, axis=1, output_type=tf.int32), wanted)
            return loss, tf.reduce_mean(tf.cast(right, tf.float32))

        signature = [tf.TensorSpec(shape, tf.float32), tf.TensorSpec((None,), tf.int32)]
        return optimizer, cast(fitting.Step, tf.function(step, input_signature=signature))

    def model_card(self, channels: Sequence[Channel], labels: Sequence[str]) -> str:
        """What the model is for, what it is made of and where it ends, as Markdown."""
        s = self.settings
        return card.write(
            does=f"Names one of {len(labels)} activities ({', '.join(labels)}) for each window of "
            f"{s.window_samples} samples, every {s.hop_samples} samples, from the channels "
            f"{card.names_of(channels)}.",
            made_of=f"Recipe `{self.name}`: 1-D convolutions with "
            f"{', '.join(str(f) for f in s.filters)} filters and stride 2, mean over time, "
            f"softmax. Trained with windows turned by {s.turn_deg:g} degrees, played {s.warp:.0%} "
            f"faster or slower and {s.gain:.0%} stronger or weaker (standard deviations).",
            ends="It always names one of its labels: anything else that happens is given the "
            "nearest one, often with a high probability. It has seen only the devices, places and "
            "people counted here; another mounting of the sensor is another signal.",
        )


def validation(
    model: Any, inputs: NDArray[np.float32], wanted: NDArray[np.int64]
) -> dict[str, float]:
    """Cross entropy and accuracy on windows that are not fitted."""
    probabilities = np.asarray(model(inputs, training=False))
    chosen = probabilities[np.arange(len(wanted)), wanted]
    return {
        "validation_loss": float(-np.log(np.maximum(chosen, 1e-7)).mean()),
        "validation_accuracy": float((probabilities.argmax(axis=1) == wanted).mean()),
    }


def check_classes(targets: NDArray[np.int64], labels: Sequence[str]) -> None:
    """Refuse what teaches no distinction.

    Raises:
        RejectedInput: fewer than two classes, a class without windows, or too few windows.
    """
    counts = np.bincount(targets, minlength=len(labels))
    if len(labels) < 2:
        raise RejectedInput(
            f"only one class is labelled: {', '.join(labels) or 'none'}",
            code="dataset.one-class",
            hint="a classifier needs two labels at least",
        )
    empty = [label for label, count in zip(labels, counts, strict=True) if count == 0]
    if empty:
        raise RejectedInput(
            f"no training window is labelled {', '.join(empty)}", code="dataset.empty-class"
        )
    if len(targets) < WINDOWS_MIN:
        raise RejectedInput(
            f"{len(targets)} training windows",
            code="dataset.too-few",
            hint=f"at least {WINDOWS_MIN} are needed",
        )


def _class_weights(targets: NDArray[np.int64]) -> NDArray[np.float32]:
    """Weights that make rare classes count as much as frequent ones, bounded by 5."""
    counts = np.bincount(targets)
    balanced = len(targets) / (len(counts) * np.maximum(counts, 1))
    weights: NDArray[np.float32] = np.minimum(balanced, 5.0).astype(np.float32)
    return weights
