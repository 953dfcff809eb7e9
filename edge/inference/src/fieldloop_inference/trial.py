"""The trial of a candidate, in a child process: `python -m fieldloop_inference.trial`.

Reads one JSON request on stdin, puts itself under rlimits, loads the model, checks it, and writes
one JSON verdict on stdout. Whatever the model does (crash, eat memory, run for ever) happens here:
the parent treats an end without a verdict as a rejection. Nothing of the parent's state is known
here, and nothing but stdout is written.

Checks, in this order: the files are those that the manifest names; the runtime loads them; tensors
fit the manifest; golden vectors within their tolerance; outputs are finite and not constant over
golden and random windows; 95th percentile of latency and peak memory within the manifest's limits.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import resource
import signal
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray

from fieldloop_contract.errors import FieldloopError, FixConfiguration, Isolate
from fieldloop_contract.manifest import (
    GOLDEN_FILE,
    MODEL_FILE,
    Manifest,
    check_bundle,
    parse_manifest,
)
from fieldloop_scoring.golden import check_golden, read_golden
from fieldloop_scoring.runners import open_runner
from fieldloop_scoring.scorer import Scorer

ADDRESS_SPACE_FLOOR_BYTES: Final = 512 << 20
"""Of the address space: the runtime and its allocator map far more than they use."""
LATENCY_RUNS: Final = 50
LATENCY_SECONDS_MAX: Final = 2.0
NOISE_WINDOWS: Final = 8
FILE_BYTES_MAX: Final = 1 << 20
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the trial came to.

    Attributes:
        passed: whether the candidate may go on.
        reason: in words, where it may not.
        fault: False where the device, not the model, is the reason.
        figures: latency_us_p50, latency_us_p95, memory_bytes, golden_worst.
    """

    passed: bool
    reason: str = ""
    fault: bool = True
    figures: dict[str, float] = field(default_factory=dict)


def limit_resources(memory_bytes_max: int, seconds_max: float) -> None:
    """Put this process under rlimits; what it has mapped so far is its own."""
    mapped = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    address_space = mapped * resource.getpagesize() + max(
        memory_bytes_max, ADDRESS_SPACE_FLOOR_BYTES
    )
    cpu_s = max(1, math.ceil(seconds_max))
    resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES_MAX, FILE_BYTES_MAX))


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent ends (prctl(2), PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def try_model(
    manifest: Manifest, files: dict[str, bytes], runtime: str, threads: int, delegate: str = ""
) -> Verdict:
    """All checks, in this process."""
    figures: dict[str, float] = {}
    try:
        _check(manifest, files, runtime, threads, delegate, figures)
    except FixConfiguration as error:
        return Verdict(False, str(error), fault=False, figures=figures)
    except FieldloopError as error:
        return Verdict(False, str(error), figures=figures)
    return Verdict(True, figures=figures)


def _check(
    manifest: Manifest,
    files: dict[str, bytes],
    runtime: str,
    threads: int,
    delegate: str,
    figures: dict[str, float],
) -> None:
    """Raise for the first check that fails; figures are filled in on the way."""
    peak_before = _peak_bytes()
    check_bundle(manifest, files)
    runner = open_runner(files[MODEL_FILE], threads=threads, runtime=runtime, delegate=delegate)
    scorer = Scorer(manifest, runner)
    report = check_golden(manifest, files[GOLDEN_FILE], runner)
    if math.isfinite(report.worst):
        figures["golden_worst"] = report.worst
    if not report.passed:
        raise Isolate(report.message, code="trial.golden")
    inputs = _windows(manifest, files[GOLDEN_FILE])
    fault = degenerate(scorer, inputs)
    if fault:
        raise Isolate(fault, code="trial.degenerate")
    figures.update(measure_latency(scorer, inputs))
    figures["memory_bytes"] = float(_peak_bytes() - peak_before)
    limits = manifest.limits
    if figures["latency_us_p95"] > limits.latency_ms_max * 1000:
        took = figures["latency_us_p95"] / 1000
        raise Isolate(
            f"a window takes {took:.1f} ms (p95), the limit is {limits.latency_ms_max:g} ms",
            code="trial.latency",
        )
    if figures["memory_bytes"] > limits.memory_bytes_max:
        took = figures["memory_bytes"] / (1 << 20)
        raise Isolate(
            f"it takes {took:.0f} MiB, the limit is {limits.memory_bytes_max >> 20} MiB",
            code="trial.memory",
        )


def _windows(manifest: Manifest, golden: bytes) -> list[list[NDArray[np.float32]]]:
    """Golden windows and, around the centre of each channel, random ones; fixed seed."""
    flat, _ = read_golden(golden)
    shapes = [(i.window_samples, len(i.channels)) for i in manifest.inputs]
    windows = []
    for row in flat.reshape(len(flat), -1):
        at, parts = 0, []
        for shape in shapes:
            parts.append(row[at : at + math.prod(shape)].reshape(shape))
            at += math.prod(shape)
        windows.append(parts)
    random = np.random.default_rng(20)
    for _ in range(NOISE_WINDOWS):
        parts = []
        for spec, shape in zip(manifest.inputs, shapes, strict=True):
            noise = random.normal(0, 1.5, shape) * np.asarray(spec.normalisation.scale)
            parts.append((noise + np.asarray(spec.normalisation.centre)).astype(np.float32))
        windows.append(parts)
    return windows


def degenerate(scorer: Scorer, windows: list[list[NDArray[np.float32]]]) -> str:
    """What is wrong with the outputs as a whole, or ""."""
    outputs = [np.concatenate(scorer.raw(*w)) for w in windows]
    if not all(np.isfinite(o).all() for o in outputs):
        return "output that is not finite"
    if all(np.array_equal(o, outputs[0]) for o in outputs[1:]):
        return f"the same output for {len(outputs)} different windows"
    return ""


def measure_latency(scorer: Scorer, windows: list[list[NDArray[np.float32]]]) -> dict[str, float]:
    """Microseconds of `Scorer.score`, after one warm run; bounded in time."""
    scorer.score(*windows[0])
    taken: list[float] = []
    end_s = time.monotonic() + LATENCY_SECONDS_MAX
    while len(taken) < LATENCY_RUNS and time.monotonic() < end_s:
        begun = time.perf_counter_ns()
        scorer.score(*windows[len(taken) % len(windows)])
        taken.append((time.perf_counter_ns() - begun) / 1000)
    p50, p95 = np.percentile(taken, [50, 95])
    return {"latency_us_p50": float(p50), "latency_us_p95": float(p95)}


def _peak_bytes() -> int:
    """Peak resident bytes (VmHWM). Not `ru_maxrss`, which a child takes over from its parent."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def run(request: dict[str, Any]) -> Verdict:
    """Answer one request: manifest (text), dir, runtime, threads, delegate."""
    manifest = parse_manifest(request["manifest"].encode())
    folder = Path(request["dir"])
    try:
        files = {
            name: (folder / name).read_bytes()
            for name, ref in manifest.files.items()
            if (folder / name).stat().st_size == ref.length
        }
    except OSError as error:
        return Verdict(False, f"the bundle cannot be read: {error}", fault=False)
    limit_resources(manifest.limits.memory_bytes_max, manifest.limits.trial_seconds_max)
    return try_model(
        manifest,
        files,
        str(request["runtime"]),
        int(request["threads"]),
        str(request.get("delegate", "")),
    )


def main() -> int:
    """Entry of the child."""
    die_with_parent()
    try:
        verdict = run(json.load(sys.stdin))
    except MemoryError:
        verdict = Verdict(False, "it does not fit into the memory its manifest allows")
    sys.stdout.write(json.dumps(asdict(verdict)))
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
