"""Scoring a converted file in the edge runtime, in a process of its own.

`score_on_edge` is the caller's side. The process (`python -m fieldloop_training.edge FOLDER`) knows
no TensorFlow, whose interpreter must not share a process with the edge runtime, and scores windows
one by one through `fieldloop_scoring`, as a device does. A file that crashes, hangs or eats memory
takes nothing else with it. What is measured is of this machine, not of the device: latency and
memory are for comparing, and for limits with room to spare.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop_contract.errors import FieldloopError, Isolate
from fieldloop_contract.manifest import Manifest, parse_manifest

TIMEOUT_S = 900.0
LATENCY_CALLS = 200
STDERR_CHARS_MAX = 400
REFUSED = 3
"""Exit status where the file was refused in words, on stderr."""


@dataclass(frozen=True, slots=True)
class EdgeScores:
    """What a file said in the edge runtime.

    Attributes:
        outputs: float32[n, k], the first output, dequantized.
        scores: float64[n], anomaly scores; empty for other tasks. NaN where a window was invalid.
        latency_us: median and 95th percentile of one window, normalisation included.
        memory_bytes: by how much the process grew from loading and running the model.
        runtime: name and version.
    """

    outputs: NDArray[np.float32]
    scores: NDArray[np.float64]
    latency_us: tuple[float, float]
    memory_bytes: int
    runtime: str


def score_on_edge(
    manifest: Manifest,
    model: bytes,
    samples: NDArray[np.float32],
    *,
    command: Sequence[str] = (sys.executable, "-m", "fieldloop_training.edge"),
) -> EdgeScores:
    """Score windows one by one, as a device does, in a process that ends with the call.

    Args:
        samples: float32[n, window_samples, channels], physical units.

    Raises:
        Isolate: the runtime cannot run the file, it is not what the manifest says, or it took the
            process down or too long.
    """
    with tempfile.TemporaryDirectory(prefix="fieldloop-edge-") as name:
        folder = Path(name)
        (folder / "manifest.json").write_bytes(manifest.encode())
        (folder / "model.tflite").write_bytes(model)
        np.save(folder / "windows.npy", np.ascontiguousarray(samples, np.float32))
        environment = {k: v for k, v in os.environ.items() if not k.startswith("FIELDLOOP_")}
        try:
            done = subprocess.run(
                [*command, str(folder)], env=environment, capture_output=True, text=True,
                timeout=TIMEOUT_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise Isolate(
                f"the file was not done after {TIMEOUT_S:.0f} s", code="edge.timeout"
            ) from error
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["nothing said"])[-1][:STDERR_CHARS_MAX]
            what = "" if done.returncode == REFUSED else f"status {done.returncode}: "
            raise Isolate(f"the edge runtime refuses the file: {what}{said}", code="edge.failed")
        told: dict[str, Any] = json.loads((folder / "told.json").read_text(encoding="utf-8"))
        return EdgeScores(
            outputs=np.load(folder / "outputs.npy"),
            scores=np.load(folder / "scores.npy"),
            latency_us=(told["latency_us"][0], told["latency_us"][1]),
            memory_bytes=told["memory_bytes"],
            runtime=told["runtime"],
        )


def main(arguments: list[str]) -> int:
    """The process: score the windows of a folder and leave the answer there."""
    from fieldloop_scoring.runners import open_runner  # noqa: PLC0415 - in this process only
    from fieldloop_scoring.scorer import Scorer  # noqa: PLC0415

    folder = Path(arguments[0])
    manifest = parse_manifest((folder / "manifest.json").read_bytes())
    samples = np.load(folder / "windows.npy", mmap_mode="r")
    before = _resident_bytes()
    try:
        runner = open_runner((folder / "model.tflite").read_bytes())
        scorer = Scorer(manifest, runner)
        rows, scores, took_ns = [], [], []
        for index in range(len(samples)):
            window = np.array(samples[index])
            begun = time.perf_counter_ns()
            rows.append(scorer.raw(window)[0])
            took_ns.append(time.perf_counter_ns() - begun)
            if manifest.task == "anomaly":
                score = scorer.score(window).score
                scores.append(np.nan if score is None else score)
            if index == 0:
                grown = _resident_bytes() - before
    except FieldloopError as error:
        sys.stderr.write(f"{error}\n")
        return REFUSED
    middle, high = np.percentile(np.array(took_ns[-LATENCY_CALLS:]) / 1e3, (50, 95))
    np.save(folder / "outputs.npy", np.stack(rows).astype(np.float32))
    np.save(folder / "scores.npy", np.array(scores, np.float64))
    told = {
        "latency_us": [float(middle), float(high)],
        "memory_bytes": max(0, grown),
        "runtime": f"{runner.name} {runner.version}",
    }
    (folder / "told.json").write_text(json.dumps(told), encoding="utf-8")
    return 0


def _resident_bytes() -> int:
    """The resident size of this process now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
