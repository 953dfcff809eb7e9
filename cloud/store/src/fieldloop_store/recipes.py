"""The recipes that a training service has: published by it, so that others can make a form of each.

The console has no recipe and no TensorFlow; what a recipe takes is said by its JSON Schema, which
stands among the `artefacts`, under a subject of its own. Keeps no state; any thread may call it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fieldloop_store.artefacts import add_artefacts, list_artefacts, load_artefact
from fieldloop_store.engine import Store

SUBJECT = "recipes"
"""No run and no dataset: those are named by digits of hexadecimal numbers."""
_TYPE = "application/schema+json"
_NAME_MAX = 63


@dataclass(frozen=True, slots=True)
class RecipeRow:
    """A recipe.

    Attributes:
        task: classification, anomaly or regression.
        schema: JSON Schema of its settings: titles, descriptions, bounds and defaults.
    """

    name: str
    task: str
    schema: dict[str, Any]


def publish_recipes(store: Store, recipes: Sequence[RecipeRow], *, now_ns: int) -> None:
    """Say which recipes there are; those of another training service stay.

    Raises:
        LimitExceeded: too many, or one too large.
        RetryLater: the store is away.
    """
    files = {
        recipe.name[:_NAME_MAX]: (_TYPE, json.dumps(asdict(recipe)).encode()) for recipe in recipes
    }
    with store.begin() as connection:
        add_artefacts(connection, SUBJECT, files, now_ns)


def list_recipes(store: Store) -> list[RecipeRow]:
    """Recipes by name. Raises RetryLater where the store is away."""
    found = (find_recipe(store, row.name) for row in list_artefacts(store, SUBJECT))
    return [recipe for recipe in found if recipe is not None]


def find_recipe(store: Store, name: str) -> RecipeRow | None:
    """One recipe, or None. Raises RetryLater where the store is away."""
    loaded = load_artefact(store, SUBJECT, name)
    return None if loaded is None else RecipeRow(**json.loads(loaded[1]))
