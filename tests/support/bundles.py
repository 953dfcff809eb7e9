"""Bundles of the test models, a source that has them on disk, and frames to score."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np

from fieldloop_contract.desired import Desired, SlotOrder
from fieldloop_contract.frames import Clock, Frame
from fieldloop_contract.manifest import GOLDEN_FILE, MODEL_FILE, FileRef, Manifest
from fieldloop_contract.messages import ModelRef
from fieldloop_scoring.golden import golden_outputs, make_golden
from fieldloop_scoring.runners import open_runner
from fieldloop_update import Bundle, Ordered, Ready, Refused
from fieldloop_update.bundles import Bundles
from support.models import CHANNELS, LABELS, RATE_HZ, WINDOW, model, windows

BOOT = "b" * 32
STREAM = "imu"


def make_manifest(
    data: bytes, golden: bytes, *, version: int = 1, task: str = "classification", **changes: Any
) -> Manifest:
    """A manifest for one of the test models; `changes` replace top-level fields."""
    names = ["ax", "ay", "az"]
    document: dict[str, Any] = {
        "name": "activity",
        "version": version,
        "task": task,
        "files": {MODEL_FILE: FileRef.of(data), GOLDEN_FILE: FileRef.of(golden)},
        "inputs": [make_input(names)],
        "outputs": [{"name": "class", "kind": "probabilities", "labels": LABELS}],
        "golden": {"count": 4, "tolerance": 0.02},
        "limits": {"probation_windows": 5},
    }
    document.update(changes)
    return Manifest.model_validate(document)


def make_input(names: list[str] | None = None, **changes: Any) -> dict[str, Any]:
    """An input of 32 samples with a hop of 16."""
    names = names or ["ax", "ay", "az"]
    return {
        "name": STREAM,
        "channels": [{"name": n, "unit": "g"} for n in names],
        "rate_hz": RATE_HZ,
        "window_samples": WINDOW,
        "hop_samples": WINDOW // 2,
        "normalisation": {"centre": [0.0] * len(names), "scale": [1.0] * len(names)},
        **changes,
    }


def make_bundle(
    name: str = "good", *, version: int = 1, golden: str = "", **changes: Any
) -> tuple[Manifest, dict[str, bytes]]:
    """A bundle of a test model.

    Args:
        golden: the model whose outputs are the golden ones; by default its own where it runs.
    """
    data = model(name)
    inputs = windows(4)
    manifest = make_manifest(data, b"-", version=version, **changes)
    runner = open_runner(model(golden or name))
    expected = np.nan_to_num(golden_outputs(manifest, inputs, runner))
    vectors = make_golden(inputs, expected)
    manifest = make_manifest(data, vectors, version=version, **changes)
    return manifest, {MODEL_FILE: data, GOLDEN_FILE: vectors}


class FolderSource:
    """A `ModelSource` whose bundles are on disk already, and whose orders come from the test."""

    def __init__(self, folder: Path) -> None:
        self.bundles = Bundles(folder, 64)
        self.folder = folder / "bundles"
        self.kept: set[str] = set()
        self.fetched: list[ModelRef] = []
        self.withheld: set[str] = set()
        self._outcomes: list[Ordered | Ready | Refused] = []
        self._version = 0

    def add(self, manifest: Manifest, files: dict[str, bytes]) -> ModelRef:
        ref = manifest.ref()
        folder = self.folder / ref.digest
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "manifest.json").write_bytes(manifest.encode())
        for name, data in files.items():
            (folder / name).write_bytes(data)
        return ref

    def order(self, ref: ModelRef | None, *, slot: str = "main", **fields: Any) -> None:
        recalled = fields.pop("recalled", [])
        self._version += 1
        desired = Desired(
            fleet="demo",
            device="subject-1",
            slots={slot: SlotOrder(model=ref, **fields)},
            recalled=recalled,
        )
        self._outcomes.append(Ordered(desired, self._version))

    def filters(self) -> list[str]:
        return []

    def message(self, topic: str, payload: bytes) -> bool:
        return False

    def connected(self) -> None:
        pass

    def disconnected(self) -> None:
        pass

    def fetch(self, ref: ModelRef) -> None:
        self.fetched.append(ref)
        if ref.digest not in self.withheld:
            self._outcomes.append(Ready(ref))

    def cancel(self, ref: ModelRef) -> None:
        pass

    def bundle(self, ref: ModelRef) -> Bundle | None:
        return self.bundles.open(ref)

    def keep(self, digests: Collection[str]) -> None:
        self.kept = set(digests)

    def step(self, now_s: float) -> list[Ordered | Ready | Refused]:
        outcomes, self._outcomes = self._outcomes, []
        return outcomes


def frames(
    count: int, *, n: int = 16, seed: int = 1, t0_ns: int = 10**18, stream: str = STREAM
) -> list[Frame]:
    """Contiguous frames of `n` samples of a smooth random signal."""
    rng = np.random.default_rng(seed)
    t = np.arange(count * n)[:, None] / RATE_HZ
    gain = 1 + np.sin(2 * np.pi * t / 7)
    signal = gain * np.sin(2 * np.pi * np.array([[1.0, 2.2, 3.1]]) * t)
    samples = (signal + rng.normal(0, 0.3, signal.shape)).astype("<f4")
    return [frame(samples[i * n : (i + 1) * n], t0_ns, i * n, stream) for i in range(count)]


def frame(
    samples: np.ndarray[Any, Any], t0_ns: int, first: int = 0, stream: str = STREAM, **changes: Any
) -> Frame:
    """One frame that begins `first` samples after `t0_ns`."""
    rate_hz = changes.pop("rate_hz", RATE_HZ)
    fields: dict[str, Any] = {
        "stream": stream,
        "t0_ns": t0_ns + round(first * 1e9 / rate_hz),
        "mono_ns": 0,
        "boot": BOOT,
        "clock": Clock.SYNCHRONISED,
        "rate_hz": rate_hz,
        "channels": samples.shape[1] if samples.ndim == 2 else CHANNELS,
        "samples": np.ascontiguousarray(samples, "<f4").tobytes(),
        **changes,
    }
    return Frame(**fields)


def until(condition: Callable[[], bool], act: Callable[[], Any], turns_max: int = 2_000) -> None:
    """Call `act` until `condition` holds; fails after `turns_max` turns."""
    for _ in range(turns_max):
        if condition():
            return
        act()
    raise AssertionError("it did not come to pass")
