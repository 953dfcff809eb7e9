"""Datasets: immutable snapshots of labelled windows, each a Parquet file named by its content.

Owns the content digest, the file format and the checks that every dataset has to pass before
anything is trained. Promises that a file, once written, never changes, that equal content has an
equal digest whatever the order in which it arrived, and that a file read back is checked against
it. Does not read the store (`snapshot`). One thread.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fieldloop_contract.batch import dump_json
from fieldloop_contract.errors import Isolate, LimitExceeded, RejectedInput
from fieldloop_contract.manifest import Channel, Input, Normalisation
from fieldloop_models.recipe import WindowPlan
from fieldloop_training.labels import Recording
from fieldloop_training.workplace import sync_folder

WINDOWS_MAX = 500_000
DATASET_BYTES_MAX = 2 << 30
WINDOWS_MIN = 16
_SPEC_KEY = b"fieldloop.spec"
_QUERY_KEY = b"fieldloop.query"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a window comes from."""

    recording: int
    epoch: str
    seq_first: int
    seq_last: int
    t0_ns: int
    t1_ns: int


@dataclass(frozen=True, slots=True)
class Dataset:
    """Labelled windows of one stream.

    Attributes:
        spec: channels, rate and window; its normalisation is the identity.
        recordings: by device, stream and time.
        places: one for each window, in the order of the recordings and of time.
        samples: float32[n, window_samples, channels], physical units.
    """

    spec: Input
    recordings: list[Recording]
    places: list[Place]
    samples: NDArray[np.float32]

    @property
    def labels(self) -> list[str]:
        """The labels, in alphabetical order."""
        return sorted({r.label for r in self.recordings})

    def digest(self) -> str:
        """sha256 over the specification and each window's place, label and bytes, in order."""
        state = hashlib.sha256(_spec_bytes(self.spec))
        for place, window in zip(self.places, self.samples, strict=True):
            r = self.recordings[place.recording]
            row = [
                r.device, r.stream, r.t0_ns, r.t1_ns, r.label, place.epoch, place.seq_first,
                place.seq_last, place.t0_ns, place.t1_ns,
            ]  # fmt: skip
            state.update(dump_json(row))
            state.update(np.ascontiguousarray(window, "<f4").tobytes())
        return state.hexdigest()

    def summary(self) -> dict[str, Any]:
        """Counts of windows and recordings by label and by device, and the time they span."""
        by_label: dict[str, int] = {}
        by_device: dict[str, int] = {}
        for place in self.places:
            r = self.recordings[place.recording]
            by_label[r.label] = by_label.get(r.label, 0) + 1
            by_device[r.device] = by_device.get(r.device, 0) + 1
        return {
            "windows": len(self.places),
            "recordings": len(self.recordings),
            "labels": self.labels,
            "windows_by_label": dict(sorted(by_label.items())),
            "windows_by_device": dict(sorted(by_device.items())),
            "t0_ns": min((p.t0_ns for p in self.places), default=0),
            "t1_ns": max((p.t1_ns for p in self.places), default=0),
        }


def plain_input(name: str, channels: Sequence[Channel], rate_hz: float, plan: WindowPlan) -> Input:
    """A manifest's input without normalisation: what windows are cut by."""
    identity = Normalisation(centre=[0.0] * len(channels), scale=[1.0] * len(channels))
    return Input(
        name=name,
        channels=list(channels),
        rate_hz=rate_hz,
        window_samples=plan.window_samples,
        hop_samples=plan.hop_samples,
        gap_tolerance_periods=plan.gap_tolerance_periods,
        fill=plan.fill,
        normalisation=identity,
    )


def check(dataset: Dataset, task: str = "classification") -> None:
    """Refuse, in words, what cannot be trained on.

    Args:
        task: of the recipe; only a classification needs several labels.

    Raises:
        RejectedInput: no windows, one label, too few windows, a sample that is not finite, a
            channel that never changes.
        LimitExceeded: more windows or bytes than a dataset may hold.
    """
    if not dataset.places:
        raise RejectedInput(
            "no labelled window",
            code="dataset.empty",
            hint="labels have to cover at least one window of stored signal",
        )
    if len(dataset.places) > WINDOWS_MAX or dataset.samples.nbytes > DATASET_BYTES_MAX:
        raise LimitExceeded(
            f"a dataset of {len(dataset.places)} windows, {dataset.samples.nbytes} bytes",
            code="dataset.limit",
            hint=f"at most {WINDOWS_MAX} and {DATASET_BYTES_MAX}",
        )
    finite = np.isfinite(dataset.samples).all(axis=(1, 2))
    if not finite.all():
        bad = sorted(
            {dataset.recordings[dataset.places[i].recording].device for i in np.nonzero(~finite)[0]}
        )
        raise RejectedInput(
            f"{int((~finite).sum())} windows hold NaN or infinity, of {', '.join(bad[:5])}",
            code="dataset.not-finite",
        )
    if task == "classification" and len(dataset.labels) < 2:
        raise RejectedInput(
            f"only one class is labelled: {dataset.labels[0]}",
            code="dataset.one-class",
            hint="a classifier needs two labels at least",
        )
    if len(dataset.places) < WINDOWS_MIN:
        raise RejectedInput(
            f"{len(dataset.places)} labelled windows",
            code="dataset.too-few",
            hint=f"at least {WINDOWS_MIN} are needed",
        )
    span = np.ptp(dataset.samples.reshape(-1, dataset.samples.shape[-1]), axis=0)
    dead = [c.name for c, s in zip(dataset.spec.channels, span, strict=True) if s == 0]
    if dead:
        raise RejectedInput(
            f"channel {', '.join(dead)} is constant",
            code="dataset.constant",
            hint="a dead sensor teaches nothing: mend it, or leave the channel out of the stream",
        )


def write(dataset: Dataset, folder: Path, query: dict[str, Any]) -> tuple[str, Path]:
    """Write the snapshot; one that is there already is left as it is.

    Returns:
        Digest, and the file `{digest}.parquet`, synced to disk with its folder.
    """
    digest = dataset.digest()
    path = folder / f"{digest}.parquet"
    if path.exists():
        return digest, path
    folder.mkdir(parents=True, exist_ok=True)
    whole = [dataset.recordings[p.recording] for p in dataset.places]
    flat = np.ascontiguousarray(dataset.samples, "<f4").reshape(-1)
    width = dataset.spec.window_samples * len(dataset.spec.channels)
    table = pa.table(
        {
            "device": pa.array([r.device for r in whole]).dictionary_encode(),
            "stream": pa.array([r.stream for r in whole]).dictionary_encode(),
            "recording_t0_ns": pa.array([r.t0_ns for r in whole], pa.int64()),
            "recording_t1_ns": pa.array([r.t1_ns for r in whole], pa.int64()),
            "label": pa.array([r.label for r in whole]).dictionary_encode(),
            "epoch": pa.array([p.epoch for p in dataset.places]).dictionary_encode(),
            "seq_first": pa.array([p.seq_first for p in dataset.places], pa.int64()),
            "seq_last": pa.array([p.seq_last for p in dataset.places], pa.int64()),
            "t0_ns": pa.array([p.t0_ns for p in dataset.places], pa.int64()),
            "t1_ns": pa.array([p.t1_ns for p in dataset.places], pa.int64()),
            "samples": pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.float32()), width),
        }
    ).replace_schema_metadata({_SPEC_KEY: _spec_bytes(dataset.spec), _QUERY_KEY: dump_json(query)})
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    pq.write_table(table, unfinished, compression="zstd")
    with unfinished.open("rb") as file:
        os.fsync(file.fileno())
    unfinished.rename(path)
    sync_folder(folder)
    return digest, path


def read(path: Path) -> Dataset:
    """Read a snapshot and check it against the digest in its name.

    Raises:
        Isolate: the file is damaged or is not what its name says.
    """
    try:
        table = pq.read_table(path)
        metadata = table.schema.metadata or {}
        spec = Input.model_validate(json.loads(metadata[_SPEC_KEY]))
        rows = table.drop(["samples"]).to_pylist()
        flat = table.column("samples").combine_chunks().flatten().to_numpy()
        samples = flat.astype(np.float32).reshape(
            len(rows), spec.window_samples, len(spec.channels)
        )
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise Isolate(f"dataset {path.name}: {error!s:.200}", code="dataset.damaged") from error
    index: dict[Recording, int] = {}
    places = []
    for r in rows:
        recording = Recording(
            r["device"], r["stream"], r["recording_t0_ns"], r["recording_t1_ns"], r["label"]
        )
        number = index.setdefault(recording, len(index))
        places.append(
            Place(number, r["epoch"], r["seq_first"], r["seq_last"], r["t0_ns"], r["t1_ns"])
        )
    dataset = Dataset(spec, list(index), places, samples)
    if dataset.digest() != path.stem:
        raise Isolate(f"dataset {path.name} is not what its name says", code="dataset.digest")
    return dataset


def _spec_bytes(spec: Input) -> bytes:
    return dump_json(spec.model_dump(mode="json", exclude_none=True))
