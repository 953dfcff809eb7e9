"""`try MODEL.tflite`: describe a model, run it, measure it, draft its manifest. A person's tool.

Runs the model in this very process: for models that a person chose, not for those that came over
the wire. Prints for people; writes a file only where told to.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop_contract.errors import FieldloopError, FixConfiguration, MalformedMessage
from fieldloop_contract.manifest import (
    GOLDEN_FILE,
    MODEL_FILE,
    FileRef,
    Manifest,
    parse_manifest,
)
from fieldloop_runtime.life import ExitCode
from fieldloop_scoring.golden import make_golden
from fieldloop_scoring.runners import Runner, TensorInfo, open_runner
from fieldloop_scoring.runners.operators import required
from fieldloop_scoring.scorer import Scorer

_GOLDEN_COUNT = 4
_ARRAYS = ("inputs", "x", "windows")
Inputs = list[NDArray[np.float32]]
"""One array for each input of a model, without the batch's axis."""


def main(arguments: argparse.Namespace) -> int:
    """The command; returns the exit status."""
    try:
        _run(arguments, _say)
    except FieldloopError as error:
        print(f"try: {error}", file=sys.stderr)  # noqa: T201 - a command speaks to a person
        return ExitCode.FAILED
    return ExitCode.OK


def _say(text: str) -> None:
    print(text)  # noqa: T201 - a command speaks to a person


def _run(arguments: argparse.Namespace, say: Any) -> None:
    data = _read(arguments.model)
    runner = open_runner(data, threads=arguments.threads, runtime=arguments.runtime)
    describe(arguments.model, data, runner, say)
    manifest = parse_manifest(_read(arguments.manifest)) if arguments.manifest else None
    scorer = Scorer(manifest, runner) if manifest else None
    windows = _windows(arguments.input, runner, manifest)
    if scorer is not None:
        say("scored")
        for window in windows[:5]:
            scored = scorer.score(*window)
            said = scored.label or scored.values or scored.score
            say(f"  {said}  score {scored.score}  valid {scored.valid}")
    else:
        say("outputs of the first window, dequantized")
        for info, values in zip(runner.outputs, _once(runner, windows[0]), strict=True):
            say(f"  {info.name}: {np.array2string(values.ravel()[:8], precision=5)}")
    measure(runner, windows, max(1, arguments.runs), say)
    if arguments.write_manifest:
        draft = draft_manifest(Path(arguments.model).stem, data, runner)
        Path(arguments.write_manifest).write_text(json.dumps(draft, indent=2) + "\n", "utf-8")
        say(f"draft manifest written to {arguments.write_manifest}; names, units, rate, hop,")
        say("normalisation, labels and tolerance are guesses: put the true ones in")


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise FixConfiguration(f"{path} cannot be read: {error.strerror}") from error


def describe(path: str, data: bytes, runner: Runner, say: Any) -> None:
    """Inputs, outputs, quantization, operators, size."""
    delegates = ", ".join(runner.delegates) or "none"
    say(f"{path}: {len(data)} bytes, {runner.name} {runner.version}, delegates: {delegates}")
    for what, infos in (("input", runner.inputs), ("output", runner.outputs)):
        for info in infos:
            say(f"  {what} {info.name}: {info.dtype} {list(info.shape)}{_quantization(info)}")
    say("  ops " + ", ".join(f"{op.name} x{op.count}" for op in runner.ops()))


def _quantization(info: TensorInfo) -> str:
    return f", real = {info.scale:.6g} * (q - {info.zero_point})" if info.scale else ""


def _shapes(runner: Runner) -> list[tuple[int, ...]]:
    """Shapes of the inputs without their first axis, dynamic ones as 1."""
    return [tuple(max(1, n) for n in info.shape[1:]) or (1,) for info in runner.inputs]


def _windows(path: str | None, runner: Runner, manifest: Manifest | None) -> list[Inputs]:
    """What to give: from a file, or random numbers of a fixed seed.

    In a file, several inputs of a window stand flattened one after the other, as in golden vectors.
    """
    shapes = _shapes(runner)
    if path is None:
        random = np.random.default_rng(0)
        drawn = [random.normal(0, 1, (16, *shape)).astype(np.float32) for shape in shapes]
        if manifest is not None and len(manifest.inputs) == len(drawn):
            affines = [spec.normalisation for spec in manifest.inputs]
            drawn = [
                (x * np.asarray(a.scale) + np.asarray(a.centre)).astype(np.float32)
                for x, a in zip(drawn, affines, strict=True)
            ]
        return [list(parts) for parts in zip(*drawn, strict=True)]
    try:
        with np.load(path, allow_pickle=False) as archive:
            name = next((n for n in _ARRAYS if n in archive), None)
            if name is None:
                raise MalformedMessage(f"{path} has none of the arrays {', '.join(_ARRAYS)}")
            values = np.asarray(archive[name], np.float32)
    except (OSError, ValueError) as error:
        raise MalformedMessage(f"{path} is no npz file: {error}") from error
    sizes = [math.prod(shape) for shape in shapes]
    if values.ndim < 2 or not len(values) or math.prod(values.shape[1:]) != sum(sizes):
        raise MalformedMessage(
            f"{path} holds {list(values.shape)}, the model takes {[list(s) for s in shapes]}"
        )
    edges = np.cumsum(sizes)[:-1]
    rows = (np.split(row, edges) for row in values.reshape(len(values), -1))
    return [[p.reshape(s) for p, s in zip(row, shapes, strict=True)] for row in rows]


def _once(runner: Runner, window: Inputs) -> list[NDArray[np.float32]]:
    return runner.run([part[None] for part in window])


def measure(runner: Runner, windows: list[Inputs], runs: int, say: Any) -> None:
    """Latency percentiles of the bare model, quantization included."""
    _once(runner, windows[0])
    taken = []
    for index in range(runs):
        begun = time.perf_counter_ns()
        _once(runner, windows[index % len(windows)])
        taken.append((time.perf_counter_ns() - begun) / 1000)
    p50, p95, p99 = np.percentile(taken, [50, 95, 99])
    say(f"latency over {runs} runs: p50 {p50:.1f} us, p95 {p95:.1f} us, p99 {p99:.1f} us")


def draft_manifest(stem: str, data: bytes, runner: Runner) -> dict[str, Any]:
    """A manifest that is valid and describes the tensors; meanings are guesses.

    Raises:
        MalformedMessage: an input that is not [1, window, channels].
    """
    inputs: list[dict[str, Any]] = []
    # Inputs that are aligned hop by one time, and no window is shorter than its hop.
    hop = min((max(1, info.shape[1]) for info in runner.inputs if len(info.shape) == 3), default=1)
    for index, info in enumerate(runner.inputs):
        if len(info.shape) != 3:
            raise MalformedMessage(
                f"input {info.name} is {list(info.shape)}, not [1, window, channels]"
            )
        window, channels = max(1, info.shape[1]), max(1, info.shape[2])
        more = {"resample": "linear"} if len(runner.inputs) > 1 else {}
        inputs.append(
            {
                "name": f"input-{index + 1}",
                "tensor": info.name,
                "channels": [{"name": f"c{k}", "unit": "1"} for k in range(channels)],
                "rate_hz": 1.0,
                "window_samples": window,
                "hop_samples": hop,
                **more,
                "normalisation": {"centre": [0.0] * channels, "scale": [1.0] * channels},
            }
        )
    sizes = [math.prod(max(1, n) for n in info.shape) for info in runner.outputs]
    given = _windows(None, runner, None)[:_GOLDEN_COUNT]
    rows = [np.concatenate([o.ravel() for o in _once(runner, w)]) for w in given]
    flat = [np.concatenate([part.ravel() for part in w]) for w in given]
    golden = make_golden(np.stack(flat), np.stack(rows))
    step = max((info.scale for info in runner.outputs), default=0.0)
    draft = {
        "v": 1,
        "name": _id(stem),
        "version": 1,
        "task": "classification",
        "files": {
            MODEL_FILE: FileRef.of(data).model_dump(mode="json"),
            GOLDEN_FILE: FileRef.of(golden).model_dump(mode="json"),
        },
        "inputs": inputs,
        "outputs": [
            {
                "name": f"output-{index + 1}",
                "tensor": info.name,
                "kind": "probabilities",
                "labels": [f"class-{k}" for k in range(min(size, 1000))],
            }
            for index, (info, size) in enumerate(zip(runner.outputs, sizes, strict=True))
        ],
        "golden": {"count": _GOLDEN_COUNT, "tolerance": max(4 * step, 1e-3)},
        "requires": {"runtimes": {runner.name: runner.version}, "ops": required(data)},
    }
    Manifest.model_validate(draft)
    return draft


def _id(text: str) -> str:
    kept = "".join(c if c.isalnum() and c.isascii() else "-" for c in text.lower()).strip("-")
    return kept[:63] or "model"
