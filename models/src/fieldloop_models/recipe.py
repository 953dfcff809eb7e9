"""What a recipe is, and how one is found.

A recipe turns windows into a trained Keras model with all the manifest needs: it states the window
it wants, fits the normalisation, trains, says how the outputs become a meaning, and writes its part
of the model card. A recipe of the task `anomaly` learns from windows confirmed healthy, without
labels, and decides its threshold from the scores of the *converted* file on windows that it was
not fitted on. Recipes are plug-ins (entry points of the group `fieldloop.recipes`), so that a
package of one's own can bring one. Conversion, evaluation, gates and registration are the same for
all and belong to the training service. Nothing here imports TensorFlow; a recipe does so when it
trains.

A run, in order: `window_plan` and the shares; `train`; the conversion, with what `Trained` says;
for an anomaly model the edge runtime's scores of the calibration windows, and `decide`; the
manifest, from `Trained.outputs`, `Decision` and `limits`; `model_card`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from fieldloop_contract.errors import FixConfiguration
from fieldloop_contract.manifest import (
    AlarmRule,
    CalibrationRule,
    Channel,
    Limits,
    Normalisation,
    Output,
)
from fieldloop_contract.messages import describe

GROUP = "fieldloop.recipes"
Normalise = Callable[[NDArray[np.float32], Normalisation], NDArray[np.float32]]
"""float32[..., channels] -> the same, normalised: the device's own code, given by the caller."""
Report = Callable[[dict[str, Any]], None]
"""Takes progress: `stage`, and in training `epoch`, `epochs`, `loss`, and others by task. What it
raises (a run that was cancelled) goes through the recipe to the caller."""
Task = Literal["classification", "anomaly", "regression"]


class RecipeSettings(BaseModel):
    """Base of a recipe's settings: frozen, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """How the signal is cut: the part of the manifest's input that the recipe decides.

    Attributes:
        window_samples: samples in a window.
        hop_samples: samples from the start of one window to the start of the next.
        gap_tolerance_periods: longest step between two samples that is no gap, in periods.
        fill: what stands in for samples that are missing in such a step.
    """

    window_samples: int
    hop_samples: int
    gap_tolerance_periods: float = 1.5
    fill: Literal["none", "hold", "linear"] = "none"


@dataclass(frozen=True, slots=True)
class Examples:
    """Windows to learn from. No sample is both in a window to fit and in one that is kept out.

    Attributes:
        samples: float32[n, window_samples, channels], physical units, oldest sample first; in
            order of time within a recording.
        labels: int64[n], index into the list of labels; -1 throughout where there are none. A
            recipe of the task `anomaly` never reads them: all its windows are confirmed healthy.
        recordings: int64[n], which recording each window was cut from.
        validation: bool[n], windows kept out of the fit to watch it; may be all False.
        calibration: bool[n], windows kept out of the fit and the watching, for what is decided
            afterwards from scores; None for none.
    """

    samples: NDArray[np.float32]
    labels: NDArray[np.int64]
    recordings: NDArray[np.int64]
    validation: NDArray[np.bool_]
    calibration: NDArray[np.bool_] | None = None

    @property
    def fit(self) -> NDArray[np.bool_]:
        """bool[n], the windows to fit."""
        kept: NDArray[np.bool_] = ~self.validation
        return kept if self.calibration is None else kept & ~self.calibration


@dataclass(frozen=True, slots=True)
class Start:
    """An earlier model to begin from.

    Attributes:
        weights: as `weights.pack` wrote them.
        normalisation: of that model; it is kept, so that the input means the same.
        head_only: train the layers of `Reuse.head` only: the delta to the earlier file is small.
    """

    weights: bytes
    normalisation: Normalisation
    head_only: bool = False


@dataclass(frozen=True, slots=True)
class Reuse:
    """What a recipe can do with an earlier model.

    Attributes:
        warm_start: begin from its weights.
        head: layers (by name) that head-only retraining changes, all others stay as they are;
            empty where the recipe has no such thing.
    """

    warm_start: bool = False
    head: tuple[str, ...] = ()


class Checkpoints(Protocol):
    """Where a training leaves its state, to go on after a kill. Bytes are opaque."""

    def load(self) -> bytes | None:
        """The state that was saved last, or None."""
        ...

    def save(self, state: bytes) -> None:
        """Replace the state; whole or not at all."""
        ...


@dataclass(frozen=True, slots=True)
class Trained:
    """What a recipe gives back.

    Attributes:
        model: a Keras model of one input, float32[n, window_samples, channels] normalised; its
            outputs are in the order of `outputs`.
        normalisation: the affine that its input was trained with.
        history: one entry for each epoch, in order: loss, accuracy, and the like.
        outputs: what the outputs mean, as the manifest will say; an anomaly's has no threshold
            yet.
        front: a Keras model of what is computed in float32 in every conversion, from the window to
            the input of `body`; None where all of the model is converted alike.
        body: the Keras model that is quantized after it; its output is the first output of
            `model`, the front's is the second.
    """

    model: Any
    normalisation: Normalisation
    history: list[dict[str, float]]
    outputs: tuple[Output, ...] = ()
    front: Any | None = None
    body: Any | None = None


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of windows confirmed healthy that were not fitted: of the converted file, by the
    device's own code.

    Attributes:
        values: float64[n], in order of time within a recording.
        recordings: int64[n], recording of each window.
        window_samples: samples in a window.
        hop_samples: samples from the start of one window to the start of the next.
    """

    values: NDArray[np.float64]
    recordings: NDArray[np.int64]
    window_samples: int
    hop_samples: int


@dataclass(frozen=True, slots=True)
class Decision:
    """What follows from the scores.

    Attributes:
        threshold: scores above it are a crossing.
        alarm: when crossings are an alarm; None for every one.
        calibration: how a machine finds a threshold of its own; None where it keeps this one.
        effective: number of independent windows that the scores count as.
        words: how the threshold came about, for the model card.
    """

    threshold: float
    alarm: AlarmRule | None
    calibration: CalibrationRule | None
    effective: float
    words: str

    def apply(self, outputs: Sequence[Output]) -> list[Output]:
        """The outputs with threshold and alarm rule in the first one."""
        update = {"threshold": self.threshold, "alarm": self.alarm}
        return [outputs[0].model_copy(update=update), *outputs[1:]]


class Recipe(Protocol):
    """A way to train one kind of model. Made anew for each run; used by one thread.

    Its class has `settings_type`, a `RecipeSettings` with a title, a description and bounds for
    each field: the console makes its forms from `settings_schema`.
    """

    name: str
    task: Task
    reuse: Reuse

    @property
    def validation_share(self) -> float:
        """Share of each training recording, at its end, to keep out of the fit; 0 for none."""
        ...

    @property
    def calibration_share(self) -> float:
        """Share of each training recording, after that for validation, for `decide`; 0 for none."""
        ...

    def window_plan(self) -> WindowPlan:
        """How the signal is to be cut."""
        ...

    def limits(self) -> Limits:
        """What a model of this recipe may cost on a device, for the manifest."""
        ...

    def train(
        self,
        examples: Examples,
        *,
        channels: Sequence[Channel],
        labels: Sequence[str],
        rate_hz: float,
        normalise: Normalise,
        seed: int,
        report: Report,
        start: Start | None = None,
        checkpoints: Checkpoints | None = None,
    ) -> Trained:
        """Fit normalisation and model on `examples.fit`.

        Args:
            normalise: applies a normalisation exactly as the device will.
            start: an earlier model to begin from, as `reuse` allows.
            checkpoints: where to leave the state of the training now and then; a training that
                finds one there goes on from it, and ends as if it had never been stopped.

        Raises:
            RejectedInput: the examples cannot teach this recipe anything, said before any epoch.
        """
        ...

    def model_card(self, channels: Sequence[Channel], labels: Sequence[str]) -> str:
        """What the model is for, what it is made of and where it ends, as Markdown (`card`)."""
        ...


@runtime_checkable
class AnomalyRecipe(Protocol):
    """What a recipe of the task `anomaly` has besides."""

    def decide(self, scores: Scores) -> Decision:
        """Threshold and rules from the scores of the calibration windows. Pure.

        Raises:
            RejectedInput: too few scores, or scores that cannot carry a threshold.
        """
        ...


def recipe_names() -> list[str]:
    """Names of the recipes that are installed."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def load_recipe(name: str, settings: dict[str, Any]) -> Recipe:
    """Make a recipe by name.

    Args:
        settings: the recipe's own settings, checked against its schema.

    Raises:
        FixConfiguration: no such recipe, or settings that do not fit it.
    """
    factory = _factory(name)
    try:
        recipe: Recipe = factory(factory.settings_type.model_validate(settings))
    except ValidationError as error:
        raise FixConfiguration(
            f"settings of recipe {name}: {describe(error)}", code="recipe.settings"
        ) from error
    return recipe


def _factory(name: str) -> Any:
    points = [point for point in entry_points(group=GROUP) if point.name == name]
    if not points:
        raise FixConfiguration(
            f"no recipe is called {name!r:.80}", hint=f"installed: {', '.join(recipe_names())}"
        )
    return points[0].load()


def settings_schema(name: str) -> dict[str, Any]:
    """The JSON Schema of a recipe's settings: titles, descriptions, bounds and defaults.

    Raises:
        FixConfiguration: no such recipe.
    """
    schema: dict[str, Any] = _factory(name).settings_type.model_json_schema()
    return schema


def recipe_task(name: str) -> Task:
    """What a recipe learns. Raises FixConfiguration: no such recipe."""
    task: Task = _factory(name).task
    return task
