"""The loop of a training: epochs, early stopping, progress, checkpoints; the same for all recipes.

What is random in an epoch comes from the seed and the epoch's number alone, and a checkpoint holds
weights, optimiser, best weights and history: a training that was killed and goes on ends with the
very weights of one that was not. Knows no architecture and no loss. One thread.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop_contract.errors import FieldloopError, RejectedInput
from fieldloop_models.recipe import Checkpoints, Report
from fieldloop_models.weights import pack_arrays, unpack_arrays

PREDICT_BATCH = 256
CHECKPOINTS = 20
"""About so many checkpoints are written in a training."""
Inputs = Callable[[NDArray[np.int64], np.random.Generator], Sequence[NDArray[Any]]]
"""Order of the windows and this epoch's randomness -> the arrays of the epoch, in that order."""
Step = Callable[..., tuple[Any, Any]]
"""A batch of these arrays -> its loss, and another figure (an accuracy, say)."""


@dataclass(frozen=True, slots=True)
class Course:
    """How long, and how to stop."""

    epochs: int
    batch: int
    patience_epochs: int
    figure: str = "accuracy"


@dataclass(slots=True)
class _State:
    """Where a training stands after an epoch."""

    epoch: int = 0
    best: float = math.inf
    waited: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    best_weights: list[NDArray[Any]] | None = None


def identity(*parts: object) -> str:
    """Names a training: a checkpoint of another one is passed over."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def fit(
    model: Any,
    optimizer: Any,
    step: Step,
    inputs: Inputs,
    *,
    count: int,
    course: Course,
    seed: int,
    report: Report,
    watch: Callable[[], dict[str, float]] | None = None,
    checkpoints: Checkpoints | None = None,
    named: str = "",
) -> list[dict[str, float]]:
    """Train in place; with `watch`, the weights of the best epoch are those at the end.

    Args:
        count: number of windows.
        watch: figures of the windows for validation; `validation_loss` is what counts.
        named: the training's `identity`, for its checkpoints.

    Returns:
        One entry for each epoch.

    Raises:
        RejectedInput: the loss is not finite.
    """
    variables = [*model.variables, *optimizer.variables]
    state = _resume(checkpoints, named, variables)
    every = max(1, course.epochs // CHECKPOINTS)
    steps = max(1, count // course.batch)
    while state.epoch < course.epochs and state.waited < course.patience_epochs:
        rng = np.random.default_rng((seed, state.epoch))
        arrays = inputs(rng.permutation(count), rng)
        sums = np.zeros(2)
        for k in range(steps):
            part = slice(k * course.batch, (k + 1) * course.batch)
            loss, figure = step(*(a[part] for a in arrays))
            sums += (float(loss), float(figure))
        state.epoch += 1
        figures = {"loss": float(sums[0] / steps), course.figure: float(sums[1] / steps)}
        if not math.isfinite(figures["loss"]):
            raise RejectedInput(
                f"the loss is not finite in epoch {state.epoch}",
                code="recipe.diverged",
                hint="lower learning_rate",
            )
        if watch is not None:
            figures |= watch()
            if figures["validation_loss"] < state.best:
                state.best, state.waited = figures["validation_loss"], 0
                state.best_weights = model.get_weights()
            else:
                state.waited += 1
        state.history.append(figures)
        report({"stage": "training", "epoch": state.epoch, "epochs": course.epochs, **figures})
        if checkpoints is not None and state.epoch % every == 0:
            checkpoints.save(_pack(state, named, variables))
    if state.best_weights is not None:
        model.set_weights(state.best_weights)
    return state.history


def _pack(state: _State, named: str, variables: Sequence[Any]) -> bytes:
    told = {"named": named, "epoch": state.epoch, "best": state.best, "waited": state.waited,
            "history": state.history}  # fmt: skip
    arrays = {"state": np.frombuffer(json.dumps(told).encode(), np.uint8)}
    arrays |= {f"variable/{i:03d}": v.numpy() for i, v in enumerate(variables)}
    arrays |= {f"best/{i:03d}": v for i, v in enumerate(state.best_weights or [])}
    return pack_arrays(arrays)


def _resume(checkpoints: Checkpoints | None, named: str, variables: Sequence[Any]) -> _State:
    """The state that was left by this very training, with its variables set; else a new one."""
    data = checkpoints.load() if checkpoints is not None else None
    if data is None:
        return _State()
    try:
        arrays = unpack_arrays(data)
        told = json.loads(arrays.pop("state").tobytes())
    except (FieldloopError, KeyError, ValueError):
        return _State()  # a damaged one costs the epochs, not the run
    values = [arrays[name] for name in sorted(arrays) if name.startswith("variable/")]
    if told.get("named") != named or [v.shape for v in values] != [
        tuple(v.shape) for v in variables
    ]:
        return _State()
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    best = [arrays[name] for name in sorted(arrays) if name.startswith("best/")]
    return _State(told["epoch"], told["best"], told["waited"], told["history"], best or None)


def freeze(model: Any, head: Sequence[str]) -> None:
    """Let only these layers be trained."""
    for layer in model.layers:
        layer.trainable = layer.name in head


def through(model: Any | None, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a model says, in batches; the inputs themselves where there is none."""
    if model is None or not len(inputs):
        return inputs
    rows = [
        np.asarray(model(inputs[i : i + PREDICT_BATCH], training=False), np.float32)
        for i in range(0, len(inputs), PREDICT_BATCH)
    ]
    return np.concatenate(rows)
