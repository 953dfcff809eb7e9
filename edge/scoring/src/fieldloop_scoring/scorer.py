"""A manifest and a runner made one: a window in physical units in, a meaning out.

Owns which tensor is which input and output, and the arithmetic after the tensor: probabilities,
residuals, scores and thresholds are float32 or better, since an int8 score saturates. No I/O, no
clock. A scorer belongs to one thread.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fieldloop_contract.errors import Isolate
from fieldloop_contract.manifest import Input, Manifest, Output
from fieldloop_scoring.normalisation import Affine
from fieldloop_scoring.residuals import ResidualScore
from fieldloop_scoring.runners import Runner, TensorInfo

Task = Literal["classification", "anomaly", "regression"]


@dataclass(frozen=True, slots=True)
class Scored:
    """What a model says of one window.

    Attributes:
        task: of the manifest.
        label: the most probable class (classification).
        probabilities: by label (classification), of the `top_k` most probable ones, where the
            manifest asks for that, most probable first.
        score: probability of the label (classification), or the anomaly score.
        alarm: whether the score is above the threshold, where there is one (anomaly): a crossing,
            of which `alarms` makes an alarm.
        values: by output, or by label of an output with several (regression).
        valid: False where an input or output was not finite; then nothing else is set.
    """

    task: Task
    label: str | None = None
    probabilities: dict[str, float] | None = None
    score: float | None = None
    alarm: bool | None = None
    values: dict[str, float] | None = None
    valid: bool = True


class Scorer:
    """Scores windows with one model.

    Raises:
        Isolate: the model's tensors are not those that the manifest describes.
    """

    def __init__(self, manifest: Manifest, runner: Runner) -> None:
        self.manifest = manifest
        self.runner = runner
        self._affines = [Affine(i.normalisation) for i in manifest.inputs]
        if len(runner.inputs) != len(manifest.inputs):
            raise Isolate(
                f"the model has {len(runner.inputs)} inputs, the manifest {len(manifest.inputs)}",
                code="model.shape",
            )
        self._from_input = [
            _locate(i.tensor, runner.inputs, k) for k, i in enumerate(manifest.inputs)
        ]
        self._from_output = [
            _locate(o.tensor, runner.outputs, k) for k, o in enumerate(manifest.outputs)
        ]
        for spec, at in zip(manifest.inputs, self._from_input, strict=True):
            _check_input(spec, runner.inputs[at])
        for output, at in zip(manifest.outputs, self._from_output, strict=True):
            _check_output(manifest, output, runner.outputs[at])
        _check_residuals(manifest, [runner.outputs[at] for at in self._from_output])
        rule = manifest.outputs[0].residuals
        self._rule = None if rule is None else ResidualScore(rule)
        names = [output.name for output in manifest.outputs]
        self._target = names.index(rule.target) if rule is not None and rule.target else None
        self._ordered: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(self._affines)

    def normalised(self, *samples: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """The tensors' values before quantization, float32[1, window_samples, channels] each."""
        return [affine(x)[None] for affine, x in zip(self._affines, samples, strict=True)]

    def raw(self, *samples: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Dequantized outputs in the manifest's order, each flat float32[k].

        Args:
            samples: float32[window_samples, channels], physical units, one for each input.
        """
        return self._run(self.normalised(*samples))

    def _run(self, tensors: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        for at, tensor in zip(self._from_input, tensors, strict=True):
            self._ordered[at] = tensor
        outputs = self.runner.run(self._ordered)
        return [outputs[at].reshape(-1) for at in self._from_output]

    def score(self, *samples: NDArray[np.float32]) -> Scored:
        """Score one window.

        Args:
            samples: float32[window_samples, channels], physical units, one for each input.

        Raises:
            Isolate: the runtime failed on the model.
        """
        task = self.manifest.task
        tensors = self.normalised(*samples)
        # A sum in float64 is finite exactly if every float32 in it is.
        if not all(math.isfinite(t.sum(dtype=np.float64)) for t in tensors):
            return Scored(task, valid=False)
        outputs = self._run(tensors)
        if not all(math.isfinite(o.sum(dtype=np.float64)) for o in outputs):
            return Scored(task, valid=False)
        if task == "classification":
            return self._classify(outputs[0])
        if task == "anomaly":
            return self._anomaly(tensors, outputs)
        return Scored(task, values=self._values(outputs))

    def _classify(self, output: NDArray[np.float32]) -> Scored:
        probabilities = output.tolist()
        best = int(output.argmax())
        spec = self.manifest.outputs[0]
        labels = spec.labels
        if spec.top_k is None:
            by_label = dict(zip(labels, probabilities, strict=True))
        else:
            # Stable, so that of equal ones the first is first, as argmax has it.
            order = np.argsort(-output, kind="stable")[: spec.top_k].tolist()
            by_label = {labels[i]: probabilities[i] for i in order}
        return Scored(
            "classification",
            label=labels[best],
            probabilities=by_label,
            score=probabilities[best],
        )

    def _anomaly(
        self, tensors: Sequence[NDArray[np.float32]], outputs: Sequence[NDArray[np.float32]]
    ) -> Scored:
        spec, output = self.manifest.outputs[0], outputs[0]
        if spec.kind == "reconstruction":
            residual = tensors[0].reshape(-1) - output
            score = float(np.mean(np.square(residual, dtype=np.float64)))
        elif self._rule is not None:
            happened = tensors[0] if self._target is None else outputs[self._target]
            score = self._rule(happened, output)
        else:
            score = float(output[0])
        alarm = None if spec.threshold is None else score > spec.threshold
        return Scored("anomaly", score=score, alarm=alarm, values=self._values(outputs) or None)

    def _values(self, outputs: Sequence[NDArray[np.float32]]) -> dict[str, float]:
        """Outputs of kind `value`, by name, or by label where an output has several numbers."""
        values: dict[str, float] = {}
        for spec, output in zip(self.manifest.outputs, outputs, strict=True):
            if spec.kind == "value":
                names = spec.labels or [spec.name]
                values.update(zip(names, output.tolist(), strict=True))
        return values


def _locate(tensor: str, infos: Sequence[TensorInfo], position: int) -> int:
    """Index of the tensor of that name, or at that position where the manifest names none."""
    if not tensor:
        if position >= len(infos):
            raise Isolate(f"the model has no tensor {position}", code="model.shape")
        return position
    for index, info in enumerate(infos):
        if info.name == tensor:
            return index
    raise Isolate(f"the model has no tensor called {tensor!r:.80}", code="model.shape")


def _check_input(spec: Input, info: TensorInfo) -> None:
    wanted = (spec.window_samples, len(spec.channels))
    if info.shape[:1] not in ((1,), (-1,)) or _core(info.shape[1:]) not in (
        _core(wanted),
        _core((wanted[0] * wanted[1],)),
    ):
        raise Isolate(
            f"input {spec.name}: the tensor is {list(info.shape)}, the manifest says "
            f"{[1, *wanted]}",
            code="model.shape",
        )


def _check_output(manifest: Manifest, spec: Output, info: TensorInfo) -> None:
    size, wanted = _size(info), max(1, len(spec.labels))
    rule, window = spec.residuals, manifest.inputs[0]
    if spec.kind == "features":
        wanted = size
    elif spec.kind == "reconstruction" or (rule is not None and rule.against == "input"):
        wanted = window.window_samples * len(window.channels)
    elif rule is not None:
        wanted = max(size - size % rule.channels, rule.channels)
    if size != wanted:
        raise Isolate(
            f"output {spec.name}: the tensor {list(info.shape)} has {size} numbers, the manifest "
            f"says {wanted}",
            code="model.shape",
        )


def _check_residuals(manifest: Manifest, infos: Sequence[TensorInfo]) -> None:
    """Whether there is something for each number of the first output to be compared with."""
    rule, window = manifest.outputs[0].residuals, manifest.inputs[0]
    if rule is None:
        return
    channels, size = rule.channels, _size(infos[0])
    if rule.target is None:
        fits = channels == len(window.channels) and size <= window.window_samples * channels
    else:
        names = [output.name for output in manifest.outputs]
        fits = _size(infos[names.index(rule.target)]) == size
    if not fits:
        raise Isolate(
            f"output {manifest.outputs[0].name}: its {size} numbers, in {channels} channels, do "
            "not fit what they are compared with",
            code="model.shape",
        )


def _size(info: TensorInfo) -> int:
    return math.prod(max(1, n) for n in info.shape)


def _core(shape: Sequence[int]) -> tuple[int, ...]:
    """A shape without its axes of length 1; a dynamic axis stays, and matches nothing."""
    return tuple(n for n in shape if n != 1)
