"""What a recipe is, and how one is found.

A recipe turns labelled windows into a trained Keras model with all the manifest needs: it states
the window it wants, fits the normalisation, trains, and writes the model card. Recipes are plug-ins
(entry points of the group `fieldloop.recipes`), so that a package of one's own can bring one.
Conversion, evaluation, gates and registration are the same for all and belong to the training
service. Nothing here imports TensorFlow; a recipe does so when it trains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from fieldloop_contract.errors import FixConfiguration
from fieldloop_contract.manifest import Channel, Normalisation
from fieldloop_contract.messages import describe

GROUP = "fieldloop.recipes"
Normalise = Callable[[NDArray[np.float32], Normalisation], NDArray[np.float32]]
"""float32[..., channels] -> the same, normalised: the device's own code, given by the caller."""
Report = Callable[[dict[str, Any]], None]
"""Takes progress: `stage`, and in training `epoch`, `epochs`, `loss`, `accuracy`."""


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
    """

    window_samples: int
    hop_samples: int
    gap_tolerance_periods: float = 1.5


@dataclass(frozen=True, slots=True)
class Examples:
    """Labelled windows.

    Attributes:
        samples: float32[n, window_samples, channels], physical units, oldest sample first.
        labels: int64[n], index into the list of labels.
        recordings: int64[n], which recording each window was cut from.
        validation: bool[n], windows kept out of the fit to watch it; may be all False.
    """

    samples: NDArray[np.float32]
    labels: NDArray[np.int64]
    recordings: NDArray[np.int64]
    validation: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Trained:
    """What a recipe gives back.

    Attributes:
        model: a Keras model, float32[n, window_samples, channels] normalised -> float32[n, labels].
        normalisation: the affine that its input was trained with.
        history: one entry for each epoch, in order: loss, accuracy, and the like.
    """

    model: Any
    normalisation: Normalisation
    history: list[dict[str, float]]


class Recipe(Protocol):
    """A way to train one kind of model. Made anew for each run; used by one thread."""

    name: str
    task: str

    @property
    def validation_share(self) -> float:
        """Share of each training recording, at its end, to keep out of the fit; 0 for none."""
        ...

    def window_plan(self) -> WindowPlan:
        """How the signal is to be cut."""
        ...

    def train(
        self,
        examples: Examples,
        *,
        channels: Sequence[Channel],
        labels: Sequence[str],
        normalise: Normalise,
        seed: int,
        report: Report,
    ) -> Trained:
        """Fit normalisation and model on the windows that are not for validation.

        Args:
            normalise: applies a normalisation exactly as the device will.

        Raises:
            RejectedInput: the examples cannot teach this recipe anything, said before any epoch.
        """
        ...

    def model_card(self, channels: Sequence[Channel], labels: Sequence[str]) -> str:
        """What the model is for, what it is made of and where it ends, as Markdown."""
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
    points = [point for point in entry_points(group=GROUP) if point.name == name]
    if not points:
        raise FixConfiguration(
            f"no recipe is called {name!r:.80}", hint=f"installed: {', '.join(recipe_names())}"
        )
    factory = points[0].load()
    try:
        recipe: Recipe = factory(factory.settings_type.model_validate(settings))
    except ValidationError as error:
        raise FixConfiguration(
            f"settings of recipe {name}: {describe(error)}", code="recipe.settings"
        ) from error
    return recipe
