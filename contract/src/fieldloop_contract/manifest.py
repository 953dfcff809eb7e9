"""The model manifest: all that a device needs to know of a model, signed as one document.

A bundle is this document and the files it names: the `.tflite` and its golden vectors. Each file is
cut into chunks of at most 32 KiB, each known by the sha256 of itself.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from fieldloop_contract import CONTRACT_VERSION
from fieldloop_contract.errors import FixConfiguration, MalformedMessage
from fieldloop_contract.ids import Id, Sha256, Text
from fieldloop_contract.messages import Count, Finite, Message, ModelRef, decode

CHUNK_BYTES_MAX = 32 * 1024
MANIFEST_BYTES_MAX = 512 * 1024
MODEL_BYTES_MAX = 256 << 20
FILES_MAX = 8
MODEL_FILE, GOLDEN_FILE = "model.tflite", "golden.npz"

Version = Annotated[int, Field(ge=1, le=(1 << 53))]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class FileRef(Message):
    """One file of a bundle: its digest, length in bytes, and the digests of its chunks in order."""

    sha256: Sha256
    length: Annotated[int, Field(ge=1, le=MODEL_BYTES_MAX)]
    chunk_bytes: Annotated[int, Field(ge=1, le=CHUNK_BYTES_MAX)] = CHUNK_BYTES_MAX
    chunks: list[Sha256] = Field(min_length=1, max_length=MODEL_BYTES_MAX // CHUNK_BYTES_MAX)

    @model_validator(mode="after")
    def _covers(self) -> FileRef:
        if len(self.chunks) != math.ceil(self.length / self.chunk_bytes):
            raise ValueError("the chunks do not cover the length")
        return self

    @classmethod
    def of(cls, data: bytes, chunk_bytes: int = CHUNK_BYTES_MAX) -> FileRef:
        """Describe `data`."""
        chunks = split(data, chunk_bytes)
        return cls(
            sha256=sha256(data),
            length=len(data),
            chunk_bytes=chunk_bytes,
            chunks=[sha256(chunk) for chunk in chunks],
        )


class Channel(Message):
    """A channel of an input: its name and its unit (UCUM where there is one, `1` for none)."""

    name: Text
    unit: Text


class Normalisation(Message):
    """A float32 affine by channel before the tensor: `clip((x - centre) / scale, -clip, clip)`."""

    source: Literal["fleet", "cohort", "machine"] = "fleet"
    centre: list[Finite]
    scale: list[Positive]
    clip: Positive = 8.0


class Input(Message):
    """One input of the model and the windows that feed it.

    The tensor is float32 or quantized [1, window_samples, channels]. A window never crosses an
    epoch, nor a pause longer than `gap_tolerance_periods` sample periods; shorter ones are filled
    as `fill` says (`none`: a missing sample is a gap).
    """

    name: Id
    tensor: Text = ""
    channels: list[Channel] = Field(min_length=1, max_length=64)
    rate_hz: Positive
    window_samples: Annotated[int, Field(ge=1, le=65_536)]
    hop_samples: Annotated[int, Field(ge=1, le=65_536)]
    gap_tolerance_periods: Positive = 1.5
    fill: Literal["none", "hold", "linear"] = "none"
    normalisation: Normalisation

    @model_validator(mode="after")
    def _consistent(self) -> Input:
        n = len(self.channels)
        if len(self.normalisation.centre) != n or len(self.normalisation.scale) != n:
            raise ValueError("normalisation has one centre and one scale for each channel")
        if self.hop_samples > self.window_samples:
            raise ValueError("a hop longer than the window would leave samples out")
        return self


class Output(Message):
    """One output and what it means. `labels` are in the order of the tensor's last axis."""

    name: Id
    tensor: Text = ""
    kind: Literal["probabilities", "score", "reconstruction", "value"]
    labels: list[Text] = Field(default_factory=list, max_length=1_000)
    threshold: Finite | None = None
    unit: Text = "1"


class Golden(Message):
    """How exact the device has to be: `|device - expected| <= tolerance`, dequantized."""

    count: Annotated[int, Field(ge=1, le=256)]
    tolerance: Positive


class Limits(Message):
    """What the model may cost on a device before it is refused or taken back."""

    latency_ms_max: Positive = 100.0
    memory_bytes_max: Annotated[int, Field(ge=1)] = 256 << 20
    trial_seconds_max: Positive = 60.0
    probation_windows: Annotated[int, Field(ge=1, le=100_000)] = 20


class Requires(Message):
    """What the device's runtime has to know."""

    runtimes: dict[str, str] = Field(default_factory=dict)
    ops: dict[str, int] = Field(default_factory=dict)


class Lineage(Message):
    """What made this model."""

    dataset: Sha256 | None = None
    run: Text = ""
    recipe: Text = ""
    code: Text = ""
    parent: ModelRef | None = None
    metrics: dict[str, dict[str, Finite]] = Field(default_factory=dict)
    counts: dict[str, Count] = Field(default_factory=dict)
    model_card: str = Field(default="", max_length=32 * 1024)


class Manifest(Message):
    """The signed description of one model version."""

    v: Literal[1] = CONTRACT_VERSION
    name: Id
    version: Version
    task: Literal["classification", "anomaly", "regression"]
    files: dict[Text, FileRef] = Field(max_length=FILES_MAX)
    inputs: list[Input] = Field(min_length=1, max_length=16)
    outputs: list[Output] = Field(min_length=1, max_length=16)
    golden: Golden
    limits: Limits = Limits()
    requires: Requires = Requires()
    drift_reference: dict[str, Any] | None = None
    lineage: Lineage = Lineage()

    @model_validator(mode="after")
    def _complete(self) -> Manifest:
        missing = {MODEL_FILE, GOLDEN_FILE} - set(self.files)
        if missing:
            raise ValueError(f"files lack {', '.join(sorted(missing))}")
        if self.task == "classification" and not self.outputs[0].labels:
            raise ValueError("a classification names its labels")
        return self

    def digest(self) -> str:
        """sha256 of the encoded document: the identity of this version."""
        return sha256(self.encode())

    def ref(self) -> ModelRef:
        """Name, version and digest."""
        return ModelRef(name=self.name, version=self.version, digest=self.digest())


def sha256(data: bytes) -> str:
    """Lower-case hex sha256."""
    return hashlib.sha256(data).hexdigest()


def split(data: bytes, chunk_bytes: int = CHUNK_BYTES_MAX) -> list[bytes]:
    """Cut `data` into chunks of `chunk_bytes`, the last one shorter."""
    return [data[i : i + chunk_bytes] for i in range(0, len(data), chunk_bytes)]


def parse_manifest(payload: bytes) -> Manifest:
    """Parse a manifest.

    Raises:
        LimitExceeded, MalformedMessage: it is too long or not a manifest.
    """
    return decode(Manifest, payload, MANIFEST_BYTES_MAX)


def target_path(name: str, version: int) -> str:
    """Path of a manifest among the TUF targets.

    >>> target_path("activity", 2)
    'activity/2/manifest.json'
    """
    return f"{name}/{version}/manifest.json"


def check_bundle(manifest: Manifest, files: Mapping[str, bytes]) -> None:
    """Check that `files` are exactly those of the manifest.

    Raises:
        MalformedMessage: a file is missing, unexpected, or has another digest.
    """
    if set(files) != set(manifest.files):
        raise MalformedMessage(
            f"bundle has {sorted(files)}, manifest names {sorted(manifest.files)}",
            code="bundle.files",
        )
    for name, ref in manifest.files.items():
        if len(files[name]) != ref.length or sha256(files[name]) != ref.sha256:
            raise MalformedMessage(f"{name} is not the file that was signed", code="bundle.digest")


def check_stream(
    manifest_input: Input, channels: list[str], units: list[str], rate_hz: float
) -> None:
    """Check that a stream can feed an input: same channels, same units, same rate.

    Raises:
        FixConfiguration: with what differs.
    """
    wanted = [(c.name, c.unit) for c in manifest_input.channels]
    given = list(zip(channels, units, strict=True))
    if wanted != given:
        raise FixConfiguration(
            f"the model takes {wanted}, the stream gives {given}", code="slot.channels"
        )
    if not math.isclose(manifest_input.rate_hz, rate_hz, rel_tol=1e-6):
        raise FixConfiguration(
            f"the model takes {manifest_input.rate_hz} Hz, the stream gives {rate_hz} Hz",
            code="slot.rate",
        )
