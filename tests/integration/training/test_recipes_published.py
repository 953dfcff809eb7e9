"""What the training service says of its recipes, for those who have none."""

from __future__ import annotations

from pathlib import Path

from fieldloop_models.recipe import recipe_names, settings_schema
from fieldloop_store.engine import Store
from fieldloop_store.recipes import RecipeRow, find_recipe, list_recipes, publish_recipes
from fieldloop_training.service import publish_own_recipes


def test_each_installed_recipe_is_known_by_its_schema_and_those_of_others_stay(tmp_path: Path):
    store = Store.open(f"sqlite:///{tmp_path / 'store.sqlite'}")
    publish_recipes(store, [RecipeRow("house", "anomaly", {"properties": {}})], now_ns=1)
    for _ in range(2):
        publish_own_recipes(store)
    assert [r.name for r in list_recipes(store)] == sorted([*recipe_names(), "house"])
    found = find_recipe(store, "activity_cnn")
    assert found is not None
    assert (found.task, found.schema) == ("classification", settings_schema("activity_cnn"))
    assert list(found.schema["properties"]) == list(settings_schema("activity_cnn")["properties"])
    assert find_recipe(store, "nothing") is None
    store.close()
