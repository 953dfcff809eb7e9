"""One training run: dataset, training, conversion, evaluation, gates, registration.

Owns the order of the stages. Promises that nothing is registered before all files and figures are
there and then all at once, that a dataset which cannot teach anything is refused in words before
the first epoch, and that the same dataset never trains twice with the same recipe, settings and
options unless a person says so. A run that was killed goes on: with its dataset, from its last
checkpoint, or from its converted files. Runs in a process of its own, one thread.
"""

from __future__ import annotations

from typing import Any

from fieldloop_contract.errors import FieldloopError, FixConfiguration, RetryLater
from fieldloop_models.recipe import AnomalyRecipe, Recipe, load_recipe
from fieldloop_store import registry, runqueue, runs
from fieldloop_training import anomalies, classes, fitting, preparing, publishing
from fieldloop_training.candidates import Made, Measured, find_champion
from fieldloop_training.context import Context
from fieldloop_training.preparing import ANOMALY, Prepared
from fieldloop_training.progress import Stopped

STAGES = ("dataset", "training", "conversion", "evaluation", "registration")
"""In their order; `import` stands in place of training and conversion."""
_NOT_THE_RUN = ("again", "dataset", "replace_champion")
"""Options that do not make another training of the same dataset."""


def run(context: Context) -> runs.RunState:
    """Carry out one run and record how it ended.

    Returns:
        `approved`, `rejected`, `refused` or `skipped`.

    Raises:
        RetryLater: the store is away; the run stays open for the next attempt.
        Stopped: it was cancelled, or is another's.
    """
    try:
        recipe = load_recipe(context.run.recipe, context.run.settings)
        prepared = preparing.prepare(context, recipe)
        earlier = _trained_before(context, prepared.digest)
        if earlier:
            return _end(context, "skipped", {"words": earlier})
        if context.options.imported:
            made = fitting.bring(context, prepared)
        else:
            made = fitting.make(context, prepared, recipe)
        champion = find_champion(context, made.manifest)
        context.progress.report({"stage": "evaluation"})
        measured = _measure(context, prepared, made, champion, recipe)
        state = publishing.publish(context, prepared, made, measured, champion)
    except RetryLater:
        raise
    except FieldloopError as error:
        return _end(context, "refused", {"words": f"refused: {error}", "code": error.code})
    context.place.remove()
    return state


def _measure(
    context: Context, prepared: Prepared, made: Made, champion: Any, recipe: Recipe
) -> Measured:
    if prepared.task != ANOMALY:
        return classes.measure(context, prepared, made, champion)
    if not isinstance(recipe, AnomalyRecipe):
        raise FixConfiguration(f"recipe {recipe.name} decides no threshold", code="recipe.task")
    return anomalies.measure(context, prepared, made, champion, recipe)


def _end(context: Context, state: runs.RunState, verdict: dict[str, Any]) -> runs.RunState:
    mine = runqueue.finish(
        context.store, context.run.id, context.owner, state, verdict, now_ns=context.now_ns(),
        progress=context.progress.ended(),
    )  # fmt: skip
    if not mine:
        raise Stopped("lost")
    context.place.remove()
    return state


def _trained_before(context: Context, digest: str) -> str:
    """In words, which run has used this dataset with this recipe; "" where none has."""
    if context.options.again or context.options.imported:
        return ""
    mine = _essence(context.run)
    made_by = {m.run for m in registry.list_models(context.store, context.fleet, dataset=digest)}
    for row in runs.list_runs(context.store, context.fleet, model=context.model, dataset=digest):
        ended = row.state in ("approved", "rejected", "refused") or row.id in made_by
        if row.id != context.run.id and ended and _essence(row) == mine:
            return f"dataset {digest[:12]} was trained on by run {row.id[:12]} already"
    return ""


def _essence(row: runs.RunRow) -> tuple[Any, ...]:
    options = {k: v for k, v in (row.options or {}).items() if k not in _NOT_THE_RUN}
    return row.recipe, row.settings, options
