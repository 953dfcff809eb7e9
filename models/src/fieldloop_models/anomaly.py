"""What the anomaly recipes have in common: settings, checks, the training of a body, the decision.

A body says what its windows, or what is derived from them in a float32 front, should look like; its
residuals on healthy windows are whitened into a score, and the threshold comes from windows that
were not fitted. A recipe brings the front, the body and what the body has to say. TensorFlow is
imported when training begins. One thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from fieldloop_contract.errors import FixConfiguration, RejectedInput
from fieldloop_contract.manifest import AlarmRule, Channel, Limits, Normalisation, Output, Statistic
from fieldloop_models import weights
from fieldloop_models.fitting import Course, Step, fit, freeze, identity, through
from fieldloop_models.normalisation import fit_normalisation
from fieldloop_models.recipe import (
    Checkpoints,
    Decision,
    Examples,
    Normalise,
    RecipeSettings,
    Report,
    Reuse,
    Scores,
    Start,
    Task,
    Trained,
    WindowPlan,
)
from fieldloop_models.thresholds import decide, effective_windows
from fieldloop_models.whitening import fit_residuals

WINDOWS_MIN = 32
Size = Annotated[int, Field(ge=1, le=1024)]


class AnomalySettings(RecipeSettings):
    """Settings that all anomaly recipes have."""

    window_samples: int = Field(
        32, ge=4, le=65_536, title="Window", description="Samples in a window."
    )
    hop_samples: int = Field(
        8, ge=1, le=65_536, title="Hop",
        description="Samples from the start of one window to the start of the next.",
    )  # fmt: skip
    gap_tolerance_periods: float = Field(
        2.5, gt=0, le=100, title="Gap tolerance",
        description="Longest step between two samples that is no gap, in sample periods.",
    )  # fmt: skip
    fill: Literal["none", "hold", "linear"] = Field(
        "linear", title="Fill", description="What stands in for samples missing in such a step."
    )
    normalisation: Literal["standard", "robust"] = Field(
        "standard", title="Normalisation",
        description="Mean and standard deviation, or median and interquartile range.",
    )  # fmt: skip
    unscored: list[str] = Field(
        [], max_length=64, title="Channels left out",
        description="Channels that the model is not shown and the score does not count, such as "
        "temperatures that follow the weather: the training has not seen their whole range.",
    )  # fmt: skip
    epochs: int = Field(150, ge=1, le=5_000, title="Epochs", description="At most so many.")
    batch: int = Field(32, ge=1, le=4_096, title="Batch", description="Windows in a step.")
    learning_rate: float = Field(
        2e-3, gt=0, le=0.1, title="Learning rate", description="At the start; it falls to zero."
    )
    noise: float = Field(
        0.2, ge=0, le=2, title="Noise",
        description="Standard deviation of what is added to the normalised input in training, so "
        "that the model learns what belongs together and not each window by heart.",
    )  # fmt: skip
    validation_share: float = Field(
        0.15, ge=0, le=0.5, title="Validation share",
        description="Share of each recording, at its end, that stops the training early.",
    )  # fmt: skip
    calibration_share: float = Field(
        0.25, gt=0, le=0.8, title="Calibration share",
        description="Share of each recording, after that, from which the threshold is found.",
    )  # fmt: skip
    patience_epochs: int = Field(
        15, ge=1, le=1_000, title="Patience",
        description="Epochs without a better validation loss before the training stops.",
    )  # fmt: skip
    false_alarm_budget: float = Field(
        0.001, gt=0, le=0.2, title="False-alarm budget",
        description="Share of healthy windows that may pass the threshold.",
    )  # fmt: skip
    raise_count: int = Field(
        1, ge=1, le=64, title="Crossings that alarm",
        description="An alarm is raised when so many of the last windows passed the threshold.",
    )  # fmt: skip
    raise_of: int = Field(
        1, ge=1, le=64, title="Windows looked at", description="Of so many windows."
    )
    clear_count: int = Field(
        1, ge=1, le=10_000, title="Windows to clear",
        description="The alarm is over after so many windows in a row below the threshold.",
    )  # fmt: skip
    commission: bool = Field(
        True, title="Calibrate each machine",
        description="Each machine finds its own threshold, within bounds, before it alarms.",
    )  # fmt: skip
    commission_windows: int = Field(
        500, ge=8, le=2_000, title="Windows to calibrate",
        description="Running windows from which a device finds its machine's threshold.",
    )  # fmt: skip
    arm: Literal["device", "person"] = Field(
        "device", title="Who arms",
        description="Whether a device's own calibration alarms by itself, or only one that a "
        "person armed, who says that the machine was healthy.",
    )  # fmt: skip

    @model_validator(mode="after")
    def _possible(self) -> AnomalySettings:
        if self.hop_samples > self.window_samples:
            raise ValueError("a hop longer than the window would leave samples out")
        if self.raise_count > self.raise_of:
            raise ValueError("raise_count of raise_of windows can never be")
        if self.validation_share + self.calibration_share > 0.8:
            raise ValueError("validation and calibration leave less than a fifth to fit")
        return self


@dataclass(frozen=True, slots=True)
class Parts:
    """The two halves of a model.

    Attributes:
        front: what is computed in float32 before anything is quantized; None for nothing.
        body: what is trained and quantized: the front's output, or the window, to what it should
            be.
    """

    front: Any | None
    body: Any


class ResidualRecipe:
    """Base of the recipes whose score is made of residuals."""

    name = ""
    task: Task = "anomaly"
    reuse = Reuse(warm_start=True, head=("says",))
    statistics: Sequence[Statistic] = ("mean", "deviation")
    context: Sequence[Statistic] = ()
    against: Literal["input", "input_end", "output"] = "input"
    aggregate: Literal["mean", "max"] = "mean"

    def __init__(self, settings: AnomalySettings) -> None:
        self.settings = settings

    # What a recipe brings.

    def parts(
        self, keras: Any, inputs: NDArray[np.float32], rate_hz: float, scored: NDArray[np.bool_]
    ) -> Parts:
        """Front and body for these normalised windows: float32[n, window_samples, channels]."""
        raise NotImplementedError

    def wanted(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the body should say of its inputs."""
        return features

    # What the pipeline asks.

    @property
    def validation_share(self) -> float:
        """Share of each recording that stops the training early."""
        return self.settings.validation_share

    @property
    def calibration_share(self) -> float:
        """Share of each recording from which the threshold is found."""
        return self.settings.calibration_share

    def window_plan(self) -> WindowPlan:
        """How the signal is to be cut."""
        s = self.settings
        return WindowPlan(s.window_samples, s.hop_samples, s.gap_tolerance_periods, s.fill)

    def limits(self) -> Limits:
        """What the model may cost on a device."""
        return Limits(latency_ms_max=50.0, memory_bytes_max=64 << 20)

    def decide(self, scores: Scores) -> Decision:
        """Threshold and rules; see `thresholds`."""
        s = self.settings
        alarm = AlarmRule(raise_count=s.raise_count, raise_of=s.raise_of, clear_count=s.clear_count)
        made = decide(scores, budget=s.false_alarm_budget, alarm=alarm, commission=s.commission)
        if made.calibration is None:
            return made
        by_machine = {"windows": s.commission_windows, "arm": s.arm}
        return replace(made, calibration=made.calibration.model_copy(update=by_machine))

    def train(
        self,
        examples: Examples,
        *,
        channels: Sequence[Channel],
        labels: Sequence[str],  # noqa: ARG002 - healthy windows have none
        rate_hz: float,
        normalise: Normalise,
        seed: int,
        report: Report,
        start: Start | None = None,
        checkpoints: Checkpoints | None = None,
    ) -> Trained:
        """Fit normalisation, body and the rule for its residuals on healthy windows.

        Raises:
            RejectedInput: too few windows, a value that is not finite, a constant channel; said
                before any epoch.
            FixConfiguration: a channel to leave out that there is not.
        """
        names = [c.name for c in channels]
        scored = self._scored(names)
        check_windows(examples)
        affine = (
            start.normalisation
            if start is not None
            else fit_normalisation(
                examples.samples[examples.fit], names, method=self.settings.normalisation
            )
        )
        inputs = normalise(examples.samples[examples.fit], affine)
        watched = normalise(examples.samples[examples.validation], affine)
        import tensorflow as tf  # noqa: PLC0415 - only a process that trains pays for it

        tf.keras.utils.set_random_seed(seed)
        parts = self.parts(tf.keras, inputs, rate_hz, scored)
        history = self._fit(
            tf, parts, inputs, watched, scored,
            seed=seed, report=report, start=start, checkpoints=checkpoints,
        )  # fmt: skip
        effective = effective_windows(
            examples.recordings[examples.fit], self.settings.window_samples,
            self.settings.hop_samples,
        )  # fmt: skip
        output = self._output(parts, inputs, watched, scored, effective)
        return self._trained(tf.keras, parts, affine, history, output)

    def _scored(self, names: Sequence[str]) -> NDArray[np.bool_]:
        unknown = set(self.settings.unscored) - set(names)
        if unknown:
            raise FixConfiguration(
                f"unscored names no channel: {', '.join(sorted(unknown))}",
                code="recipe.settings",
                hint=f"there are {', '.join(names)}",
            )
        scored = np.array([n not in self.settings.unscored for n in names])
        if not scored.any():
            raise FixConfiguration("unscored leaves no channel", code="recipe.settings")
        return scored

    def _fit(
        self, tf: Any, parts: Parts, inputs: NDArray[np.float32], watched: NDArray[np.float32],
        scored: NDArray[np.bool_], *, seed: int, report: Report, start: Start | None,
        checkpoints: Checkpoints | None,
    ) -> list[dict[str, float]]:  # fmt: skip
        s, body = self.settings, parts.body
        if start is not None:
            weights.unpack(body, start.weights)
            if start.head_only:
                freeze(body, self.reuse.head)
        features, held = through(parts.front, inputs), through(parts.front, watched)
        steps = s.epochs * max(1, len(features) // s.batch)
        optimizer = tf.keras.optimizers.Adam(
            tf.keras.optimizers.schedules.CosineDecay(s.learning_rate, steps)
        )
        step = self._step(tf, body, optimizer, scored)

        def batch(order: NDArray[np.int64], rng: np.random.Generator) -> list[NDArray[Any]]:
            clean = features[order]
            noisy = clean + rng.normal(0, s.noise, clean.shape).astype(np.float32)
            return [noisy, self.wanted(clean)]

        def watch() -> dict[str, float]:
            error = np.square(self.wanted(held) - through(body, held))
            counted = error[..., scored] if error.shape[-1] == len(scored) else error
            return {"validation_loss": float(counted.mean())}

        return fit(
            body, optimizer, step, batch,
            count=len(features),
            course=Course(s.epochs, s.batch, s.patience_epochs, "error"),
            seed=seed, report=report, watch=watch if len(held) else None,
            checkpoints=checkpoints,
            named=identity(self.name, s.model_dump_json(), seed, len(features), start),
        )  # fmt: skip

    def _step(self, tf: Any, body: Any, optimizer: Any, scored: NDArray[np.bool_]) -> Step:
        """One optimiser step as a graph: (noisy, wanted) -> (loss, mean absolute error)."""
        variables = body.trainable_variables
        optimizer.build(variables)
        width = body.output.shape[-1]
        share = scored / scored.mean() if width == len(scored) else np.ones(width)
        counts = tf.constant(share, tf.float32)

        def step(noisy: Any, wanted: Any) -> tuple[Any, Any]:
            with tf.GradientTape() as tape:
                error = wanted - body(noisy, training=True)
                loss = tf.reduce_mean(tf.square(error) * counts)
            optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
            return loss, tf.reduce_mean(tf.abs(error) * counts)

        signature = [
            tf.TensorSpec((None, *body.input.shape[1:]), tf.float32),
            tf.TensorSpec((None, *body.output.shape[1:]), tf.float32),
        ]
        return cast(Step, tf.function(step, input_signature=signature))

    def _output(
        self, parts: Parts, inputs: NDArray[np.float32], watched: NDArray[np.float32],
        scored: NDArray[np.bool_], effective: float,
    ) -> Output:  # fmt: skip
        features = through(parts.front, np.concatenate([inputs, watched]))
        happened, said = self.wanted(features), through(parts.body, features)
        if self.against == "output":  # each number is a channel of its own
            happened, said = (x.reshape(len(x), 1, -1) for x in (happened, said))
            scored = np.repeat(scored, said.shape[-1] // len(scored))
        rule = fit_residuals(
            happened, said, self.statistics, scored,
            effective=effective,
            fitted=np.arange(len(features)) < len(inputs),
            context=self.context,
            against=self.against, target="features" if self.against == "output" else None,
            aggregate=self.aggregate,
        )  # fmt: skip
        return Output(name="distance", kind="residual", residuals=rule)

    def _trained(
        self, keras: Any, parts: Parts, affine: Normalisation, history: list[dict[str, float]],
        output: Output,
    ) -> Trained:  # fmt: skip
        if parts.front is None:
            return Trained(parts.body, affine, history, outputs=(output,))
        features = parts.front.output
        whole = keras.Model(parts.front.input, [parts.body(features), features])
        outputs = (output, Output(name="features", kind="features"))
        return Trained(whole, affine, history, outputs=outputs, front=parts.front, body=parts.body)


def check_windows(examples: Examples) -> None:
    """Refuse what cannot teach what healthy is.

    Raises:
        RejectedInput: too few windows to fit, or a value that is not finite.
    """
    n = int(examples.fit.sum())
    if n < WINDOWS_MIN:
        raise RejectedInput(
            f"{n} healthy windows to fit", code="dataset.too-few",
            hint=f"at least {WINDOWS_MIN} are needed",
        )  # fmt: skip
    if not np.isfinite(examples.samples).all():
        raise RejectedInput("a training window holds NaN or infinity", code="dataset.not-finite")
