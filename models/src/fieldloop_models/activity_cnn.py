"""The recipe `activity_cnn`: classifies windows of inertial and similar signals.

A few strided 1-D convolutions, batch normalisation, ReLU, mean over time, one dense layer and a
softmax: operators that every TFLite runtime has as built-in and as int8. TensorFlow is imported
when training begins, not before. One thread.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from fieldloop_contract.errors import RejectedInput
from fieldloop_contract.manifest import Channel, Limits, Output
from fieldloop_models import augmentation
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
Share = Annotated[float, Field(ge=0, le=0.5)]
Step = Callable[[Any, Any], tuple[Any, Any]]


class ActivityCnnSettings(RecipeSettings):
    """Settings of `activity_cnn`. The defaults suit limbs and hand-held things at 50 Hz."""

    window_samples: Annotated[int, Field(ge=16, le=4096)] = 128
    hop_samples: Annotated[int, Field(ge=1, le=4096)] = 64
    gap_tolerance_periods: Annotated[float, Field(gt=0, le=10)] = 1.5
    filters: list[Filters] = Field(default=[24, 32, 48], min_length=1, max_length=6)
    kernel_samples: Annotated[int, Field(ge=3, le=31)] = 7
    dropout: Annotated[float, Field(ge=0, le=0.8)] = 0.3
    epochs: Annotated[int, Field(ge=1, le=500)] = 30
    batch: Annotated[int, Field(ge=8, le=1024)] = 32
    learning_rate: Annotated[float, Field(gt=0, le=0.1)] = 3e-3
    weight_decay: Annotated[float, Field(ge=0, le=0.1)] = 1e-3
    label_smoothing: Annotated[float, Field(ge=0, le=0.3)] = 0.1
    normalisation: Literal["standard", "robust"] = "standard"
    turn_deg: Annotated[float, Field(ge=0, le=45)] = 15.0
    warp: Annotated[float, Field(ge=0, le=0.5)] = 0.15
    gain: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    validation_share: Share = 0.0
    patience_epochs: Annotated[int, Field(ge=1, le=100)] = 8

    @model_validator(mode="after")
    def _hop_within_window(self) -> ActivityCnnSettings:
        if self.hop_samples > self.window_samples:
            raise ValueError("a hop longer than the window would leave samples out")
        return self


class ActivityCnn:
    """Classification with small 1-D convolutions."""

    name = "activity_cnn"
    task: Task = "classification"
    reuse = Reuse()
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
        rate_hz: float,  # noqa: ARG002 - of the protocol
        normalise: Normalise,
        seed: int,
        report: Report,
        start: Start | None = None,  # noqa: ARG002 - of the protocol
        checkpoints: Checkpoints | None = None,  # noqa: ARG002 - of the protocol
    ) -> Trained:
        """Fit normalisation and network.

        Raises:
            RejectedInput: one class, too few windows, a value that is not finite, or a constant
                channel; said before any epoch.
        """
        fit = examples.fit
        samples, targets = examples.samples[fit], examples.labels[fit]
        check_classes(targets, labels)
        affine = fit_normalisation(
            samples, [c.name for c in channels], method=self.settings.normalisation
        )
        watched = None
        if examples.validation.any():
            watched = (
                normalise(examples.samples[examples.validation], affine),
                examples.labels[examples.validation],
            )
        starts = augmentation.triads(channels)

        def epoch_inputs(order: NDArray[np.int64], rng: np.random.Generator) -> Any:
            return normalise(self._augment(samples[order], starts, rng), affine)

        model, history = self._fit(
            epoch_inputs,
            targets=targets,
            classes=len(labels),
            channels=len(channels),
            watched=watched,
            seed=seed,
            report=report,
        )
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

    def _fit(
        self,
        epoch_inputs: Callable[[NDArray[np.int64], np.random.Generator], Any],
        *,
        targets: NDArray[np.int64],
        classes: int,
        channels: int,
        watched: tuple[NDArray[np.float32], NDArray[np.int64]] | None,
        seed: int,
        report: Report,
    ) -> tuple[Any, list[dict[str, float]]]:
        import tensorflow as tf  # noqa: PLC0415 - only a process that trains pays for it

        s, keras = self.settings, tf.keras
        keras.utils.set_random_seed(seed)
        rng = np.random.default_rng(seed)
        model = self._network(keras, channels, classes)
        steps = max(1, len(targets) // s.batch)
        weights = _class_weights(targets)
        step = self._make_step(tf, model, total_steps=s.epochs * steps, weights=weights)
        history: list[dict[str, float]] = []
        best, best_weights, waited = math.inf, None, 0
        for epoch in range(1, s.epochs + 1):
            order = rng.permutation(len(targets))
            inputs, wanted = epoch_inputs(order, rng), targets[order].astype(np.int32)
            sums = np.zeros(2)
            for k in range(steps):
                part = slice(k * s.batch, (k + 1) * s.batch)
                loss, right = step(inputs[part], wanted[part])
                sums += (float(loss), float(right))
            figures = {"loss": float(sums[0] / steps), "accuracy": float(sums[1] / steps)}
            if not math.isfinite(figures["loss"]):
                raise RejectedInput(
                    f"the loss is not finite in epoch {epoch}",
                    code="recipe.diverged",
                    hint="lower learning_rate",
                )
            if watched is not None:
                probabilities = model(watched[0], training=False).numpy()
                chosen = probabilities[np.arange(len(watched[1])), watched[1]]
                figures["validation_loss"] = float(-np.log(np.maximum(chosen, 1e-7)).mean())
                figures["validation_accuracy"] = float(
                    (probabilities.argmax(axis=1) == watched[1]).mean()
                )
            history.append(figures)
            report({"stage": "training", "epoch": epoch, "epochs": s.epochs, **figures})
            if watched is None:
                continue
            if figures["validation_loss"] < best:
                best, best_weights, waited = figures["validation_loss"], model.get_weights(), 0
            else:
                waited += 1
                if waited >= s.patience_epochs:
                    break
        if best_weights is not None:
            model.set_weights(best_weights)
        return model, history

    def _network(self, keras: Any, channels: int, classes: int) -> Any:
        """float32[n, window_samples, channels] -> float32[n, classes], probabilities."""
        s, layers = self.settings, keras.layers
        inputs = keras.Input((s.window_samples, channels), name="window")
        x = inputs
        for index, filters in enumerate(s.filters):
            kernel = s.kernel_samples if index == 0 else max(3, s.kernel_samples - 2)
            x = layers.Conv1D(filters, kernel, strides=2, padding="same", use_bias=False)(x)
            x = layers.BatchNormalization(momentum=0.9)(x)
            x = layers.ReLU()(x)
        x = layers.GlobalAveragePooling1D()(x)
        x = layers.Dropout(s.dropout)(x)
        x = layers.Dense(classes)(x)
        return keras.Model(inputs, layers.Softmax(name="probabilities")(x))

    def _make_step(
        self, tf: Any, model: Any, *, total_steps: int, weights: NDArray[np.float32]
    ) -> Step:
        """One optimiser step as a graph: (inputs, wanted) -> (loss, accuracy)."""
        s, keras, classes = self.settings, tf.keras, len(weights)
        schedule = keras.optimizers.schedules.CosineDecay(s.learning_rate, total_steps)
        optimizer = keras.optimizers.AdamW(schedule, weight_decay=s.weight_decay)
        variables = model.trainable_variables
        optimizer.build(variables)
        logits_of = keras.Model(model.input, model.layers[-2].output)
        class_weights = tf.constant(weights)
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
        return cast(Step, tf.function(step, input_signature=signature))

    def model_card(self, channels: Sequence[Channel], labels: Sequence[str]) -> str:
        """What the model is for, what it is made of and where it ends, as Markdown."""
        s = self.settings
        inputs = ", ".join(f"{c.name} ({c.unit})" for c in channels)
        return (
            f"## What it does\n\nNames one of {len(labels)} activities ({', '.join(labels)}) for "
            f"each window of {s.window_samples} samples, every {s.hop_samples} samples, from the "
            f"channels {inputs}.\n\n"
            f"## What it is made of\n\nRecipe `{self.name}`: 1-D convolutions with "
            f"{', '.join(str(f) for f in s.filters)} filters and stride 2, mean over time, softmax;"
            " weights, activations, input and output in int8. Trained with windows turned by "
            f"{s.turn_deg:g} degrees, played {s.warp:.0%} faster or slower and {s.gain:.0%} "
            "stronger or weaker (standard deviations).\n\n"
            "## Where it ends\n\nIt always names one of its labels: anything else that happens is "
            "given the nearest one, often with a high probability. It has seen only the devices, "
            "places and people counted here; another mounting of the sensor is another signal.\n"
        )


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
