"""A bundle drafted from any `.tflite`, in a child process: `python -m fieldloop_delivery.drafting`.

The child runs the model in the edge runtime (`fieldloop_scoring`, an optional dependency), because
a stranger's file may crash the process that loads it. It reads a request on stdin and writes the
manifest and the golden vectors on stdout, as JSON; what it says is checked again by the parent.
"""

from __future__ import annotations

import base64
import json
import math
import resource
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from fieldloop_contract.errors import FieldloopError, FixConfiguration, Isolate
from fieldloop_contract.manifest import (
    GOLDEN_FILE,
    MODEL_FILE,
    FileRef,
    Manifest,
    check_bundle,
)
from fieldloop_contract.messages import from_object

GOLDEN_COUNT = 8
GOLDEN_STEPS = 4.0
"""The two runtimes differ by up to 3 quantization steps on some outputs."""
_FLOAT_TOLERANCE = 1e-3
_CHILD_SECONDS_MAX = 120
_ANSWER_BYTES_MAX = 64 << 20


@dataclass(frozen=True, slots=True)
class Wish:
    """What a `.tflite` does not say of itself.

    Attributes:
        channels: (name, unit) of each.
        window_samples: 0 to take it from the tensor.
        normalisation: JSON of the manifest's `Normalisation`; None for none (centre 0, scale 1).
        windows: golden windows, float32[n, window, channels] as nested lists; None to draw them.
    """

    name: str
    version: int
    stream: str
    window_samples: int
    hop_samples: int
    rate_hz: float
    channels: list[tuple[str, str]]
    labels: list[str]
    task: str = "classification"
    normalisation: dict[str, Any] | None = None
    windows: list[Any] | None = None
    threshold: float | None = None
    runtime: str = "auto"


def draft(model: bytes, wish: Wish) -> tuple[Manifest, dict[str, bytes]]:
    """A complete bundle of a `.tflite` file; checked with its own golden vectors.

    Raises:
        FixConfiguration: the wish does not fit the model, or no runtime is installed.
        Isolate: the model cannot be run.
    """
    request = {
        "model": base64.b64encode(model).decode(),
        "wish": {n: getattr(wish, n) for n in Wish.__dataclass_fields__},
    }
    try:
        done = subprocess.run(
            [sys.executable, "-m", "fieldloop_delivery.drafting"],
            input=json.dumps(request).encode(),
            capture_output=True,
            check=False,
            timeout=_CHILD_SECONDS_MAX,
        )
    except subprocess.TimeoutExpired as error:
        raise Isolate("the model did not answer in time", code="import.model") from error
    if done.returncode or len(done.stdout) > _ANSWER_BYTES_MAX:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        text = last[0] if last else f"the model ended its process ({done.returncode})"
        raise Isolate(f"the model cannot be run: {text:.300}", code="import.model")
    answer = json.loads(done.stdout)
    if answer.get("fault"):
        raise FixConfiguration(answer["fault"], code="import.wish")
    manifest = from_object(Manifest, answer["manifest"])
    files = {MODEL_FILE: model, GOLDEN_FILE: base64.b64decode(answer["golden"])}
    check_bundle(manifest, files)
    return manifest, files


def _answer(model: bytes, wish: dict[str, Any]) -> dict[str, Any]:
    """The child's work."""
    import numpy as np  # noqa: PLC0415 - only the child needs numpy and a runtime

    from fieldloop_scoring.golden import (  # noqa: PLC0415
        check_golden,
        golden_outputs,
        make_golden,
    )
    from fieldloop_scoring.runners import open_runner  # noqa: PLC0415

    runner = open_runner(model, runtime=wish["runtime"])
    document = _describe(runner, model, wish)
    shape = document["inputs"][0]["window_samples"], len(wish["channels"])
    if wish["windows"] is None:
        spec = document["inputs"][0]["normalisation"]
        random = np.random.default_rng(0)
        drawn = random.normal(0, 1, (GOLDEN_COUNT, *shape))
        windows = (drawn * np.asarray(spec["scale"]) + np.asarray(spec["centre"])).astype("<f4")
    else:
        windows = np.asarray(wish["windows"], "<f4").reshape(-1, *shape)
    step = max((info.scale for info in runner.outputs), default=0.0)
    document["golden"] = {
        "count": len(windows),
        "tolerance": GOLDEN_STEPS * step if step else _FLOAT_TOLERANCE,
    }
    outputs = golden_outputs(from_object(Manifest, document), windows, runner)
    if not np.isfinite(outputs).all():
        raise FixConfiguration("the model's outputs are not finite on the golden windows")
    golden = make_golden(windows, outputs)
    document["files"][GOLDEN_FILE] = FileRef.of(golden).model_dump(mode="json")
    manifest = from_object(Manifest, document)
    report = check_golden(manifest, golden, open_runner(model, runtime=wish["runtime"]))
    if not report.passed:
        raise FixConfiguration(f"a second run of the model differs: {report.message}")
    dumped = manifest.model_dump(mode="json", exclude_none=True)
    return {"manifest": dumped, "golden": base64.b64encode(golden).decode()}


def _describe(runner: Any, model: bytes, wish: dict[str, Any]) -> dict[str, Any]:
    """The manifest as far as the flatbuffer and the wish say it."""
    if len(runner.inputs) != 1:
        raise FixConfiguration(f"the model has {len(runner.inputs)} inputs; one can be imported")
    info, channels = runner.inputs[0], wish["channels"]
    shape = [n for n in info.shape[1:] if n != 1] or [1]
    window = wish["window_samples"] or (info.shape[1] if len(info.shape) > 1 else 1)
    if math.prod(max(1, n) for n in shape) != window * len(channels) and -1 not in info.shape:
        raise FixConfiguration(
            f"the model takes {list(info.shape)}, which is not {window} samples of"
            f" {len(channels)} channels"
        )
    size = math.prod(max(1, n) for n in runner.outputs[0].shape)
    labels, task = wish["labels"], wish["task"]
    if task == "classification" and len(labels) != size:
        raise FixConfiguration(f"the model gives {size} classes, {len(labels)} labels are named")
    kind = {"classification": "probabilities", "regression": "value"}.get(task)
    if kind is None:
        kind = "reconstruction" if size == window * len(channels) else "score"
    affine = {"centre": [0.0] * len(channels), "scale": [1.0] * len(channels), "clip": 1e9}
    return {
        "name": wish["name"],
        "version": wish["version"],
        "task": task,
        "files": {
            MODEL_FILE: FileRef.of(model).model_dump(mode="json"),
            GOLDEN_FILE: FileRef.of(b"-").model_dump(mode="json"),
        },
        "inputs": [
            {
                "name": wish["stream"],
                "tensor": info.name,
                "channels": [{"name": n, "unit": u} for n, u in channels],
                "rate_hz": wish["rate_hz"],
                "window_samples": window,
                "hop_samples": wish["hop_samples"] or window,
                "normalisation": wish["normalisation"] or affine,
            }
        ],
        "outputs": [
            {
                "name": "output",
                "tensor": runner.outputs[0].name,
                "kind": kind,
                "labels": labels,
                "threshold": wish["threshold"],
            }
        ],
        "golden": {"count": 1, "tolerance": 1.0},
        "lineage": {"recipe": "imported"},
    }


def main() -> int:
    """Read the request, write the answer."""
    resource.setrlimit(resource.RLIMIT_CPU, (_CHILD_SECONDS_MAX, _CHILD_SECONDS_MAX))
    request = json.loads(sys.stdin.buffer.read())
    try:
        answer = _answer(base64.b64decode(request["model"]), request["wish"])
    except ImportError as error:
        need = "importing a model needs its runtime; install fieldloop-delivery[import]"
        answer = {"fault": f"{error}: {need}"}
    except FieldloopError as error:
        answer = {"fault": str(error)}
    json.dump(answer, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
